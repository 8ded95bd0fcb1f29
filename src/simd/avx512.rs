//! AVX-512: a logical vector is one register.
#![expect(unsafe_code, reason = "intrinsics; the token proves the instruction set")]

use super::{Lanes, Simd, Task};
use core::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL, AVX2 and FMA.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Avx512(())
    }
}

/// An intrinsic without memory access.
macro_rules! isa {
    ($e:expr) => {
        // SAFETY: `Avx512` exists only on processors that have the instruction set; no memory is accessed.
        unsafe { $e }
    };
}

#[inline(always)]
fn first16(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

#[inline(always)]
fn first8(n: usize) -> __mmask8 {
    debug_assert!(n <= 8);
    ((1u32 << n) - 1) as __mmask8
}

impl Lanes<f32> for Avx512 {
    type V = __m512;
    type M = __mmask16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        isa!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize, fill: f32) -> __m512 {
        // SAFETY: masked-off lanes are not accessed; the caller's promise for the others.
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first16(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m512, p: *mut f32) {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, v: __m512, p: *mut f32, n: usize) {
        // SAFETY: masked-off lanes are not accessed; the caller's promise for the others.
        unsafe { _mm512_mask_storeu_ps(p, first16(n), v) }
    }
    #[inline(always)]
    unsafe fn stream(self, v: __m512, p: *mut f32) {
        // SAFETY: the caller's promise (64-byte alignment included).
        unsafe { _mm512_stream_ps(p, v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        isa!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        isa!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale(self, p: __m512, k: __m512) -> __m512 {
        // `scalef` itself loses a NaN when `k` is infinite.
        isa!(_mm512_mask_scalef_ps(p, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(p, p), p, k))
    }
    #[inline(always)]
    fn scale_by(self, p: __m512, t: __m512, cut: __m512) -> __m512 {
        let power = isa!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(t))));
        isa!(_mm512_maskz_mul_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(t, cut), p, power))
    }
    #[inline(always)]
    fn scale_one_plus_by(self, w: __m512, t: __m512, cut: __m512) -> __m512 {
        let power = isa!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(t))));
        isa!(_mm512_maskz_fmadd_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(t, cut), w, power, power))
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        isa!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_mask_blend_ps(m, b, a))
    }
    #[inline(always)]
    fn replace_nan(self, v: __m512, other: __m512) -> __m512 {
        let nan = isa!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v));
        isa!(_mm512_mask_blend_ps(nan, v, other))
    }
    #[inline(always)]
    unsafe fn load_mask(self, p: *const u8) -> __mmask16 {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            _mm_test_epi8_mask(bytes, bytes)
        }
    }
    #[inline(always)]
    fn bits(self, m: __mmask16) -> u32 {
        u32::from(m)
    }
    #[inline(always)]
    unsafe fn permute(self, v: __m512, words: *const u32) -> __m512 {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm512_permutexvar_ps(_mm512_loadu_si512(words.cast()), v) }
    }
    #[inline(always)]
    unsafe fn permute2(self, a: __m512, words: *const u32, b: __m512) -> __m512 {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm512_permutex2var_ps(a, _mm512_loadu_si512(words.cast()), b) }
    }
    const PERMUTED: usize = 8;
    #[inline(always)]
    fn transpose(self, r: &mut [__m512]) {
        assert!(r.len() == 16, "16 rows");
        // Pairs, then quads within 128-bit lanes; then the 4 x 4 matrix of 128-bit lanes.
        let mut t = [self.splat(0.0f32); 16];
        for i in 0..8 {
            t[2 * i] = isa!(_mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]));
            t[2 * i + 1] = isa!(_mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]));
        }
        for q in 0..4 {
            let a = isa!(_mm512_castps_pd(t[4 * q]));
            let b = isa!(_mm512_castps_pd(t[4 * q + 1]));
            let c = isa!(_mm512_castps_pd(t[4 * q + 2]));
            let d = isa!(_mm512_castps_pd(t[4 * q + 3]));
            r[4 * q] = isa!(_mm512_castpd_ps(_mm512_unpacklo_pd(a, c)));
            r[4 * q + 1] = isa!(_mm512_castpd_ps(_mm512_unpackhi_pd(a, c)));
            r[4 * q + 2] = isa!(_mm512_castpd_ps(_mm512_unpacklo_pd(b, d)));
            r[4 * q + 3] = isa!(_mm512_castpd_ps(_mm512_unpackhi_pd(b, d)));
        }
        for j in 0..4 {
            let a = isa!(_mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]));
            let b = isa!(_mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]));
            let c = isa!(_mm512_shuffle_f32x4::<0x88>(r[8 + j], r[12 + j]));
            let d = isa!(_mm512_shuffle_f32x4::<0xdd>(r[8 + j], r[12 + j]));
            r[j] = isa!(_mm512_shuffle_f32x4::<0x88>(a, c));
            r[8 + j] = isa!(_mm512_shuffle_f32x4::<0xdd>(a, c));
            r[4 + j] = isa!(_mm512_shuffle_f32x4::<0x88>(b, d));
            r[12 + j] = isa!(_mm512_shuffle_f32x4::<0xdd>(b, d));
        }
    }
}

impl Lanes<f64> for Avx512 {
    type V = __m512d;
    type M = __mmask8;

    #[inline(always)]
    fn splat(self, x: f64) -> __m512d {
        isa!(_mm512_set1_pd(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> __m512d {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm512_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f64, n: usize, fill: f64) -> __m512d {
        // SAFETY: masked-off lanes are not accessed; the caller's promise for the others.
        unsafe { _mm512_mask_loadu_pd(_mm512_set1_pd(fill), first8(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m512d, p: *mut f64) {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm512_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, v: __m512d, p: *mut f64, n: usize) {
        // SAFETY: masked-off lanes are not accessed; the caller's promise for the others.
        unsafe { _mm512_mask_storeu_pd(p, first8(n), v) }
    }
    #[inline(always)]
    unsafe fn stream(self, v: __m512d, p: *mut f64) {
        // SAFETY: the caller's promise (64-byte alignment included).
        unsafe { _mm512_stream_pd(p, v) }
    }
    #[inline(always)]
    fn add(self, a: __m512d, b: __m512d) -> __m512d {
        isa!(_mm512_add_pd(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512d, b: __m512d) -> __m512d {
        isa!(_mm512_sub_pd(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512d, b: __m512d) -> __m512d {
        isa!(_mm512_mul_pd(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512d, b: __m512d) -> __m512d {
        isa!(_mm512_div_pd(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512d, b: __m512d, c: __m512d) -> __m512d {
        isa!(_mm512_fmadd_pd(a, b, c))
    }
    #[inline(always)]
    fn add_exact_product(self, a: __m512d, b: __m512d, c: __m512d) -> __m512d {
        isa!(_mm512_fmadd_pd(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512d, b: __m512d) -> __m512d {
        isa!(_mm512_max_pd(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512d, b: __m512d) -> __m512d {
        isa!(_mm512_min_pd(a, b))
    }
    #[inline(always)]
    fn round(self, a: __m512d) -> __m512d {
        isa!(_mm512_roundscale_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale(self, p: __m512d, k: __m512d) -> __m512d {
        // `scalef` itself loses a NaN when `k` is infinite.
        isa!(_mm512_mask_scalef_pd(p, _mm512_cmp_pd_mask::<_CMP_ORD_Q>(p, p), p, k))
    }
    #[inline(always)]
    fn scale_by(self, p: __m512d, t: __m512d, cut: __m512d) -> __m512d {
        let power = isa!(_mm512_castsi512_pd(_mm512_slli_epi64::<52>(_mm512_castpd_si512(t))));
        isa!(_mm512_maskz_mul_pd(_mm512_cmp_pd_mask::<_CMP_NLT_UQ>(t, cut), p, power))
    }
    #[inline(always)]
    fn scale_one_plus_by(self, w: __m512d, t: __m512d, cut: __m512d) -> __m512d {
        let power = isa!(_mm512_castsi512_pd(_mm512_slli_epi64::<52>(_mm512_castpd_si512(t))));
        isa!(_mm512_maskz_fmadd_pd(_mm512_cmp_pd_mask::<_CMP_NLT_UQ>(t, cut), w, power, power))
    }
    #[inline(always)]
    fn lt(self, a: __m512d, b: __m512d) -> __mmask8 {
        isa!(_mm512_cmp_pd_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn select(self, m: __mmask8, a: __m512d, b: __m512d) -> __m512d {
        isa!(_mm512_mask_blend_pd(m, b, a))
    }
    #[inline(always)]
    fn replace_nan(self, v: __m512d, other: __m512d) -> __m512d {
        let nan = isa!(_mm512_cmp_pd_mask::<_CMP_UNORD_Q>(v, v));
        isa!(_mm512_mask_blend_pd(nan, v, other))
    }
    #[inline(always)]
    unsafe fn load_mask(self, p: *const u8) -> __mmask8 {
        // SAFETY: the caller's promise; the token for the instruction set. (The upper bytes are zero.)
        unsafe {
            let bytes = _mm_loadl_epi64(p.cast());
            _mm_test_epi8_mask(bytes, bytes) as __mmask8
        }
    }
    #[inline(always)]
    fn bits(self, m: __mmask8) -> u32 {
        u32::from(m)
    }
    #[inline(always)]
    unsafe fn permute(self, v: __m512d, words: *const u32) -> __m512d {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm512_castps_pd(Lanes::<f32>::permute(self, _mm512_castpd_ps(v), words)) }
    }
    #[inline(always)]
    unsafe fn permute2(self, a: __m512d, words: *const u32, b: __m512d) -> __m512d {
        // SAFETY: as above.
        unsafe {
            _mm512_castps_pd(Lanes::<f32>::permute2(self, _mm512_castpd_ps(a), words, _mm512_castpd_ps(b)))
        }
    }
    const PERMUTED: usize = 5;
    #[inline(always)]
    fn transpose(self, r: &mut [__m512d]) {
        assert!(r.len() == 8, "8 rows");
        let mut t = [self.splat(0.0f64); 8];
        for i in 0..4 {
            t[2 * i] = isa!(_mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]));
            t[2 * i + 1] = isa!(_mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]));
        }
        for j in 0..2 {
            let a = isa!(_mm512_shuffle_f64x2::<0x88>(t[j], t[2 + j]));
            let b = isa!(_mm512_shuffle_f64x2::<0xdd>(t[j], t[2 + j]));
            let c = isa!(_mm512_shuffle_f64x2::<0x88>(t[4 + j], t[6 + j]));
            let d = isa!(_mm512_shuffle_f64x2::<0xdd>(t[4 + j], t[6 + j]));
            r[j] = isa!(_mm512_shuffle_f64x2::<0x88>(a, c));
            r[4 + j] = isa!(_mm512_shuffle_f64x2::<0xdd>(a, c));
            r[2 + j] = isa!(_mm512_shuffle_f64x2::<0x88>(b, d));
            r[6 + j] = isa!(_mm512_shuffle_f64x2::<0xdd>(b, d));
        }
    }
}

impl Simd for Avx512 {
    const SUMS_APART: bool = false;
    const OVERLAPS: bool = true;
    const GROUP_BYTES: usize = 32 * 1024;
    #[inline(always)]
    fn widen(self, v: __m512) -> [__m512d; 2] {
        isa!([_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(v))])
    }
    #[inline(always)]
    unsafe fn widen_from(self, p: *const f32) -> [__m512d; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { [_mm512_cvtps_pd(_mm256_loadu_ps(p)), _mm512_cvtps_pd(_mm256_loadu_ps(p.add(8)))] }
    }
    #[inline(always)]
    unsafe fn widen_first_from(self, p: *const f32, n: usize) -> [__m512d; 2] {
        let mask = first16(n);
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe {
            [
                _mm512_maskz_cvtps_pd(mask as __mmask8, _mm256_loadu_ps(p)),
                _mm512_maskz_cvtps_pd((mask >> 8) as __mmask8, _mm256_loadu_ps(p.add(8))),
            ]
        }
    }
    #[inline(always)]
    fn narrow(self, v: [__m512d; 2]) -> __m512 {
        isa!(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(_mm512_cvtpd_ps(v[0])), _mm512_cvtpd_ps(v[1])))
    }
    type Halves = __m256i;
    #[inline(always)]
    unsafe fn store_halves(self, v: __m256i, p: *mut u16) {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn stream_halves(self, v: __m256i, p: *mut u16) {
        // SAFETY: the caller's promise (32-byte alignment included).
        unsafe { _mm256_stream_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m512 {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    fn narrow_f16(self, v: __m512) -> __m256i {
        isa!(_mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m512 {
        // SAFETY: the caller's promise; the token for the instruction set.
        let v = unsafe { _mm256_loadu_si256(p.cast()) };
        isa!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))))
    }
    #[inline(always)]
    fn narrow_bf16(self, v: __m512) -> __m256i {
        let bits = isa!(_mm512_castps_si512(v));
        let odd = isa!(_mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x1_0000)));
        let rounded = isa!(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)));
        let rounded = isa!(_mm512_mask_add_epi32(rounded, odd, rounded, _mm512_set1_epi32(1)));
        isa!(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded)))
    }
    #[inline(always)]
    fn split_exponent(self, v: __m512d) -> (__m512d, __m512d) {
        isa!((_mm512_getmant_pd::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(v), _mm512_getexp_pd(v)))
    }
    #[inline(always)]
    fn fence(self) {
        isa!(_mm_sfence());
    }
    #[inline(always)]
    fn call<K: Task>(self, task: K) -> K::Out {
        // SAFETY: `Avx512` exists only on processors that have these instruction sets.
        unsafe { task.enter(self) }
    }
}

/// [`Task::run`] at this level: a method, as in `portable.rs`.
trait Entry: Task {
    /// # Safety
    /// As [`Avx512::assume`].
    unsafe fn enter(self, s: Avx512) -> Self::Out;
}

impl<K: Task> Entry for K {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    #[inline(never)]
    unsafe fn enter(self, s: Avx512) -> K::Out {
        self.run(s)
    }
}
