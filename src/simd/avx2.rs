//! AVX2, FMA and F16C: a logical vector is two registers.
#![expect(unsafe_code, reason = "intrinsics; the token proves the instruction set")]

use super::{Lanes, Simd, Task, map_each, opaque};
use core::arch::x86_64::*;

mod exp_sum;

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Avx2(())
    }
}

/// An intrinsic without memory access.
macro_rules! isa {
    ($e:expr) => {
        // SAFETY: `Avx2` exists only on processors that have the instruction set; no memory is accessed.
        unsafe { $e }
    };
}

/// An intrinsic without memory access on both halves.
macro_rules! both {
    ($f:ident $(::<$c:tt>)? ($($v:ident),+)) => {
        isa!([$f $(::<$c>)? ($($v[0]),+), $f $(::<$c>)? ($($v[1]),+)])
    };
}

/// Masks of the first `n` of 16 lanes.
#[inline(always)]
fn first16(_: Avx2, n: usize) -> [__m256i; 2] {
    debug_assert!(n <= 16);
    let n = [isa!(_mm256_set1_epi32(n as i32)); 2];
    let place =
        isa!([_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)]);
    both!(_mm256_cmpgt_epi32(n, place))
}

/// Masks of the first `n` of 8 lanes.
#[inline(always)]
fn first8(_: Avx2, n: usize) -> [__m256i; 2] {
    debug_assert!(n <= 8);
    let n = [isa!(_mm256_set1_epi64x(n as i64)); 2];
    let place = isa!([_mm256_setr_epi64x(0, 1, 2, 3), _mm256_setr_epi64x(4, 5, 6, 7)]);
    both!(_mm256_cmpgt_epi64(n, place))
}

/// Stores the first `n < 8` lanes, in parts whose sizes are powers of two: a masked store takes several times as long on
/// AMD's processors.
///
/// # Safety
/// `p` is valid for writing `n` elements.
#[inline(always)]
unsafe fn store_first_of_8(_: Avx2, v: __m256, p: *mut f32, n: usize) {
    let mut p = p;
    // SAFETY: the parts have `n` elements together; the token for the instruction set.
    unsafe {
        let mut quad = _mm256_castps256_ps128(v);
        if n & 4 != 0 {
            _mm_storeu_ps(p, quad);
            (p, quad) = (p.add(4), _mm256_extractf128_ps::<1>(v));
        }
        if n & 2 != 0 {
            _mm_storel_epi64(p.cast(), _mm_castps_si128(quad));
            (p, quad) = (p.add(2), _mm_movehl_ps(quad, quad));
        }
        if n & 1 != 0 {
            _mm_store_ss(p, quad);
        }
    }
}

const TWO_23: f32 = (1u32 << 23) as f32;
const TWO_52: f64 = (1u64 << 52) as f64;

impl Lanes<f32> for Avx2 {
    type V = [__m256; 2];
    type M = [__m256; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        [isa!(_mm256_set1_ps(x)); 2]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [__m256; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize, fill: f32) -> [__m256; 2] {
        let (m, fill) = (first16(self, n), self.splat(fill));
        // SAFETY: masked-off lanes are not accessed; the caller's promise for the others. `wrapping_add`,
        // because the second half may lie beyond the object.
        let v = unsafe { [_mm256_maskload_ps(p, m[0]), _mm256_maskload_ps(p.wrapping_add(8), m[1])] };
        let m = both!(_mm256_castsi256_ps(m));
        both!(_mm256_blendv_ps(fill, v, m))
    }
    #[inline(always)]
    unsafe fn store(self, v: [__m256; 2], p: *mut f32) {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, v: [__m256; 2], p: *mut f32, n: usize) {
        debug_assert!(n <= 16);
        let (mut p, mut v) = (p, v);
        // SAFETY: the parts have `n` elements together; the token for the instruction set.
        unsafe {
            if n >= 16 {
                return self.store(v, p);
            }
            if n & 8 != 0 {
                _mm256_storeu_ps(p, v[0]);
                (p, v[0]) = (p.add(8), v[1]);
            }
            store_first_of_8(self, v[0], p, n & 7);
        }
    }
    #[inline(always)]
    unsafe fn stream(self, v: [__m256; 2], p: *mut f32) {
        // SAFETY: the caller's promise (64-byte alignment included).
        unsafe {
            _mm256_stream_ps(p, v[0]);
            _mm256_stream_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn round(self, a: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale(self, p: [__m256; 2], k: [__m256; 2]) -> [__m256; 2] {
        // The low bits of 1.5 * 2^23 + 127 + k are the biased exponent.
        let magic = self.splat(1.5 * TWO_23 + 127.0);
        let biased = both!(_mm256_add_ps(k, magic));
        let biased = both!(_mm256_castps_si256(biased));
        let bits = both!(_mm256_slli_epi32::<23>(biased));
        let power = both!(_mm256_castsi256_ps(bits));
        both!(_mm256_mul_ps(p, power))
    }
    #[inline(always)]
    fn scale_by(self, p: [__m256; 2], t: [__m256; 2], cut: [__m256; 2]) -> [__m256; 2] {
        let bits = both!(_mm256_castps_si256(t));
        let bits = both!(_mm256_slli_epi32::<23>(bits));
        let power = both!(_mm256_castsi256_ps(bits));
        let scaled = both!(_mm256_mul_ps(p, power));
        let below = both!(_mm256_cmp_ps::<_CMP_LT_OQ>(t, cut));
        both!(_mm256_andnot_ps(below, scaled))
    }
    #[inline(always)]
    fn scale_one_plus_by(self, w: [__m256; 2], t: [__m256; 2], cut: [__m256; 2]) -> [__m256; 2] {
        let bits = both!(_mm256_castps_si256(t));
        let bits = both!(_mm256_slli_epi32::<23>(bits));
        let power = both!(_mm256_castsi256_ps(bits));
        let scaled = both!(_mm256_fmadd_ps(w, power, power));
        let below = both!(_mm256_cmp_ps::<_CMP_LT_OQ>(t, cut));
        both!(_mm256_andnot_ps(below, scaled))
    }
    #[inline(always)]
    fn lt(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn select(self, m: [__m256; 2], a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_blendv_ps(b, a, m))
    }
    #[inline(always)]
    fn replace_nan(self, v: [__m256; 2], other: [__m256; 2]) -> [__m256; 2] {
        let nan = both!(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        both!(_mm256_blendv_ps(v, other, nan))
    }
    #[inline(always)]
    unsafe fn load_mask(self, p: *const u8) -> [__m256; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        let bytes = unsafe { [_mm_loadl_epi64(p.cast()), _mm_loadl_epi64(p.add(8).cast())] };
        let (zero, lanes) = ([isa!(_mm256_setzero_si256()); 2], both!(_mm256_cvtepu8_epi32(bytes)));
        let mask = both!(_mm256_cmpgt_epi32(lanes, zero));
        both!(_mm256_castsi256_ps(mask))
    }
    #[inline(always)]
    fn bits(self, m: [__m256; 2]) -> u32 {
        let [low, high] = both!(_mm256_movemask_ps(m));
        (low | high << 8) as u32
    }
    #[inline(always)]
    unsafe fn permute(self, v: [__m256; 2], words: *const u32) -> [__m256; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        let index = unsafe { [_mm256_loadu_si256(words.cast()), _mm256_loadu_si256(words.add(8).cast())] };
        // The three low bits choose within a half, the fourth the half.
        let half = both!(_mm256_slli_epi32::<28>(index));
        let half = both!(_mm256_castsi256_ps(half));
        let (low, high) = ([v[0]; 2], [v[1]; 2]);
        let (low, high) =
            (both!(_mm256_permutevar8x32_ps(low, index)), both!(_mm256_permutevar8x32_ps(high, index)));
        both!(_mm256_blendv_ps(low, high, half))
    }
    #[inline(always)]
    unsafe fn permute2(self, a: [__m256; 2], words: *const u32, b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the caller's promise; the fifth bit is passed over.
        let (from_a, from_b) =
            unsafe { (Lanes::<f32>::permute(self, a, words), Lanes::<f32>::permute(self, b, words)) };
        // SAFETY: as above; the token for the instruction set.
        let index = unsafe { [_mm256_loadu_si256(words.cast()), _mm256_loadu_si256(words.add(8).cast())] };
        let second = both!(_mm256_slli_epi32::<27>(index));
        let second = both!(_mm256_castsi256_ps(second));
        both!(_mm256_blendv_ps(from_a, from_b, second))
    }
    /// Squares of 4 by 4 take fewer instructions in rows of 2 already; permutations by tables are left to the tests.
    const PERMUTED: usize = 1;
    #[inline(always)]
    fn transpose(self, r: &mut [[__m256; 2]]) {
        assert!(r.len() == 16, "16 rows");
        // Four blocks of 8 x 8; the two off the diagonal change places.
        let (upper, lower) = r.split_at(8);
        let (a, b) = (transpose8(self, upper, 0), transpose8(self, upper, 1));
        let (c, d) = (transpose8(self, lower, 0), transpose8(self, lower, 1));
        for i in 0..8 {
            r[i] = [a[i], c[i]];
            r[8 + i] = [b[i], d[i]];
        }
    }
    #[inline(always)]
    unsafe fn rows_to_columns(
        self,
        rows: *const f32,
        step: isize,
        len: usize,
        readable: usize,
        tile: *mut f32,
    ) -> bool {
        if len.next_multiple_of(4) > readable {
            return false;
        }
        // (Four rows, unknown to the compiler, and four distances, so that a load needs no arithmetic for its address.)
        let some = map_each([0, 4, 8, 12], |i| rows.wrapping_offset(i * step));
        let places = map_each([0, 1, 2, 3], |i| i * step);
        for c in (0..len).step_by(4) {
            let some = map_each([0, 1, 2, 3], |i: usize| opaque(some[i].wrapping_add(c)));
            for half in 0..2 {
                let mut two = [isa!(_mm256_setzero_ps()); 4];
                for (two, place) in two.iter_mut().zip(places) {
                    let [row, below] = map_each([0, 1], |h| some[2 * half + h].wrapping_offset(place));
                    // SAFETY: the caller's promise: up to three elements beyond `len`.
                    *two = unsafe { _mm256_loadu2_m128(below, row) };
                }
                for (j, column) in (c..).zip(transpose4x4(self, two)) {
                    // SAFETY: the caller's promise, and a tile has whole vectors of classes.
                    unsafe { _mm256_storeu_ps(tile.add(j * 16 + 8 * half), column) };
                }
            }
        }
        true
    }
    #[inline(always)]
    unsafe fn columns_to_rows(
        self,
        tile: *const f32,
        rows: *mut f32,
        step: isize,
        len: usize,
        follow: bool,
    ) -> bool {
        // (Rows of one element would end three rows further, beyond the last one.)
        let tail = len % 4;
        if tail != 0 && (!follow || step < 2) {
            return false;
        }
        // What a row writes into the next one is written again: its last elements come first, and rows in their order.
        let some = map_each([0, 4, 8, 12], |i| rows.wrapping_offset(i * step));
        let places = map_each([0, 1, 2, 3], |i| i * step);
        for c in (0..len).step_by(4).rev() {
            let some = map_each([0, 1, 2, 3], |i: usize| opaque(some[i].wrapping_add(c)).cast_mut());
            for half in 0..2 {
                let mut columns = [isa!(_mm256_setzero_ps()); 4];
                for (j, column) in (c..).zip(&mut columns) {
                    // SAFETY: the caller's promise, and a tile has whole vectors of classes.
                    *column = unsafe { _mm256_loadu_ps(tile.add(j * 16 + 8 * half)) };
                }
                let two = transpose4x4(self, columns);
                for (i, &v) in two.iter().enumerate() {
                    // SAFETY: the caller's promise: what is beyond a row's end is in the next row.
                    unsafe {
                        _mm_storeu_ps(some[2 * half].wrapping_offset(places[i]), _mm256_castps256_ps128(v))
                    };
                }
                for (i, &v) in two.iter().enumerate() {
                    let (v, place) =
                        (isa!(_mm256_extractf128_ps::<1>(v)), some[2 * half + 1].wrapping_offset(places[i]));
                    // SAFETY: as above; and the last row ends where it ends.
                    unsafe {
                        if half == 1 && i == 3 && c + 4 > len {
                            Lanes::<f32>::store_first(self, [_mm256_castps128_ps256(v); 2], place, tail);
                        } else {
                            _mm_storeu_ps(place, v);
                        }
                    }
                }
            }
        }
        true
    }
    #[inline(always)]
    unsafe fn scale_rows(
        self,
        e: *const f32,
        len: usize,
        [high, low]: [[__m256; 2]; 2],
        row: *const u32,
        out: *mut f32,
    ) {
        // Half of the rows are half of the registers; the three low bits of their numbers choose within a half.
        for half in 0..2 {
            for i in (half * len..(half + 1) * len).map(|i| 8 * i) {
                // SAFETY: the caller's promise: `2 * len` registers.
                unsafe {
                    let (row, e) = (_mm256_loadu_si256(row.add(i).cast()), _mm256_loadu_ps(e.add(i)));
                    let low = _mm256_mul_ps(e, _mm256_permutevar8x32_ps(low[half], row));
                    let v = _mm256_fmadd_ps(e, _mm256_permutevar8x32_ps(high[half], row), low);
                    _mm256_storeu_ps(out.add(i), v);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn exponentials<const KEPT: bool>(
        self,
        x: *const f32,
        n: usize,
        magic: [__m256; 2],
        out: *mut f32,
    ) -> bool {
        // SAFETY: the caller's promise.
        unsafe { exp_sum::exponentials_single::<KEPT>(self, x, n, magic, out) };
        true
    }
    #[inline(always)]
    unsafe fn bare_exp_sum(self, x: *const f32, n: usize, magic: f32, ahead: isize) -> Option<[__m256; 2]> {
        // SAFETY: the caller's promise.
        Some(unsafe { exp_sum::bare_single(self, x, n, magic, ahead) })
    }
}

/// Transposes each 128-bit half: 4 x 4 `f32`.
#[inline(always)]
fn transpose4x4(_: Avx2, [a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    let (low, high) = isa!((
        [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)],
        [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)]
    ));
    isa!([
        _mm256_shuffle_ps::<0x44>(low[0], low[1]),
        _mm256_shuffle_ps::<0xee>(low[0], low[1]),
        _mm256_shuffle_ps::<0x44>(high[0], high[1]),
        _mm256_shuffle_ps::<0xee>(high[0], high[1]),
    ])
}

/// Transposes one half, `v[h]`, of 8 vectors: 8 x 8 `f32`.
#[inline(always)]
fn transpose8(s: Avx2, v: &[[__m256; 2]], h: usize) -> [__m256; 8] {
    let mut t = [s.splat(0.0f32)[0]; 8];
    // Pairs, then quads within 128-bit lanes; then the 2 x 2 matrix of 128-bit lanes.
    for i in 0..4 {
        t[2 * i] = isa!(_mm256_unpacklo_ps(v[2 * i][h], v[2 * i + 1][h]));
        t[2 * i + 1] = isa!(_mm256_unpackhi_ps(v[2 * i][h], v[2 * i + 1][h]));
    }
    let mut u = t;
    for q in 0..2 {
        let (a, b, c, d) = (t[4 * q], t[4 * q + 1], t[4 * q + 2], t[4 * q + 3]);
        u[4 * q] = isa!(_mm256_shuffle_ps::<0x44>(a, c));
        u[4 * q + 1] = isa!(_mm256_shuffle_ps::<0xee>(a, c));
        u[4 * q + 2] = isa!(_mm256_shuffle_ps::<0x44>(b, d));
        u[4 * q + 3] = isa!(_mm256_shuffle_ps::<0xee>(b, d));
    }
    for j in 0..4 {
        t[j] = isa!(_mm256_permute2f128_ps::<0x20>(u[j], u[4 + j]));
        t[4 + j] = isa!(_mm256_permute2f128_ps::<0x31>(u[j], u[4 + j]));
    }
    t
}

impl Lanes<f64> for Avx2 {
    type V = [__m256d; 2];
    type M = [__m256d; 2];

    #[inline(always)]
    fn splat(self, x: f64) -> [__m256d; 2] {
        [isa!(_mm256_set1_pd(x)); 2]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> [__m256d; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe { [_mm256_loadu_pd(p), _mm256_loadu_pd(p.add(4))] }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f64, n: usize, fill: f64) -> [__m256d; 2] {
        let (m, fill) = (first8(self, n), self.splat(fill));
        // SAFETY: masked-off lanes are not accessed; the caller's promise for the others. `wrapping_add`,
        // because the second half may lie beyond the object.
        let v = unsafe { [_mm256_maskload_pd(p, m[0]), _mm256_maskload_pd(p.wrapping_add(4), m[1])] };
        let m = both!(_mm256_castsi256_pd(m));
        both!(_mm256_blendv_pd(fill, v, m))
    }
    #[inline(always)]
    unsafe fn store(self, v: [__m256d; 2], p: *mut f64) {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe {
            _mm256_storeu_pd(p, v[0]);
            _mm256_storeu_pd(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, v: [__m256d; 2], p: *mut f64, n: usize) {
        // (In parts, as for `f32`, the loop before it would lose its registers: a tenth more instructions for rows of 1000.)
        let m = first8(self, n);
        // SAFETY: as in `load_first`.
        unsafe {
            _mm256_maskstore_pd(p, m[0], v[0]);
            _mm256_maskstore_pd(p.wrapping_add(4), m[1], v[1]);
        }
    }
    #[inline(always)]
    unsafe fn stream(self, v: [__m256d; 2], p: *mut f64) {
        // SAFETY: the caller's promise (64-byte alignment included).
        unsafe {
            _mm256_stream_pd(p, v[0]);
            _mm256_stream_pd(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_add_pd(a, b))
    }
    #[inline(always)]
    fn sub(self, a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_sub_pd(a, b))
    }
    #[inline(always)]
    fn mul(self, a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_mul_pd(a, b))
    }
    #[inline(always)]
    fn div(self, a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_div_pd(a, b))
    }
    #[inline(always)]
    fn fma(self, a: [__m256d; 2], b: [__m256d; 2], c: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_fmadd_pd(a, b, c))
    }
    #[inline(always)]
    fn add_exact_product(self, a: [__m256d; 2], b: [__m256d; 2], c: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_fmadd_pd(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_max_pd(a, b))
    }
    #[inline(always)]
    fn min(self, a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_min_pd(a, b))
    }
    #[inline(always)]
    fn round(self, a: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale(self, p: [__m256d; 2], k: [__m256d; 2]) -> [__m256d; 2] {
        // The low bits of 1.5 * 2^52 + 1023 + k are the biased exponent.
        let magic = self.splat(1.5 * TWO_52 + 1023.0);
        let biased = both!(_mm256_add_pd(k, magic));
        let biased = both!(_mm256_castpd_si256(biased));
        let bits = both!(_mm256_slli_epi64::<52>(biased));
        let power = both!(_mm256_castsi256_pd(bits));
        both!(_mm256_mul_pd(p, power))
    }
    #[inline(always)]
    fn scale_by(self, p: [__m256d; 2], t: [__m256d; 2], cut: [__m256d; 2]) -> [__m256d; 2] {
        let bits = both!(_mm256_castpd_si256(t));
        let bits = both!(_mm256_slli_epi64::<52>(bits));
        let power = both!(_mm256_castsi256_pd(bits));
        let scaled = both!(_mm256_mul_pd(p, power));
        let below = both!(_mm256_cmp_pd::<_CMP_LT_OQ>(t, cut));
        both!(_mm256_andnot_pd(below, scaled))
    }
    #[inline(always)]
    fn scale_one_plus_by(self, w: [__m256d; 2], t: [__m256d; 2], cut: [__m256d; 2]) -> [__m256d; 2] {
        let bits = both!(_mm256_castpd_si256(t));
        let bits = both!(_mm256_slli_epi64::<52>(bits));
        let power = both!(_mm256_castsi256_pd(bits));
        let scaled = both!(_mm256_fmadd_pd(w, power, power));
        let below = both!(_mm256_cmp_pd::<_CMP_LT_OQ>(t, cut));
        both!(_mm256_andnot_pd(below, scaled))
    }
    #[inline(always)]
    fn lt(self, a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_cmp_pd::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn select(self, m: [__m256d; 2], a: [__m256d; 2], b: [__m256d; 2]) -> [__m256d; 2] {
        both!(_mm256_blendv_pd(b, a, m))
    }
    #[inline(always)]
    fn replace_nan(self, v: [__m256d; 2], other: [__m256d; 2]) -> [__m256d; 2] {
        let nan = both!(_mm256_cmp_pd::<_CMP_UNORD_Q>(v, v));
        both!(_mm256_blendv_pd(v, other, nan))
    }
    #[inline(always)]
    unsafe fn load_mask(self, p: *const u8) -> [__m256d; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        let low = unsafe { _mm_loadl_epi64(p.cast()) };
        let bytes = [low, isa!(_mm_srli_si128::<4>(low))];
        let (zero, lanes) = ([isa!(_mm256_setzero_si256()); 2], both!(_mm256_cvtepu8_epi64(bytes)));
        let mask = both!(_mm256_cmpgt_epi64(lanes, zero));
        both!(_mm256_castsi256_pd(mask))
    }
    #[inline(always)]
    fn bits(self, m: [__m256d; 2]) -> u32 {
        let [low, high] = both!(_mm256_movemask_pd(m));
        (low | high << 4) as u32
    }
    #[inline(always)]
    unsafe fn permute(self, v: [__m256d; 2], words: *const u32) -> [__m256d; 2] {
        let v = both!(_mm256_castpd_ps(v));
        // SAFETY: the caller's promise.
        let v = unsafe { Lanes::<f32>::permute(self, v, words) };
        both!(_mm256_castps_pd(v))
    }
    #[inline(always)]
    unsafe fn permute2(self, a: [__m256d; 2], words: *const u32, b: [__m256d; 2]) -> [__m256d; 2] {
        let (a, b) = (both!(_mm256_castpd_ps(a)), both!(_mm256_castpd_ps(b)));
        // SAFETY: the caller's promise.
        let v = unsafe { Lanes::<f32>::permute2(self, a, words, b) };
        both!(_mm256_castps_pd(v))
    }
    /// As for `f32`.
    const PERMUTED: usize = 1;
    #[inline(always)]
    fn transpose(self, r: &mut [[__m256d; 2]]) {
        assert!(r.len() == 8, "8 rows");
        // Four blocks of 4 x 4; the two off the diagonal change places.
        let (upper, lower) = r.split_at(4);
        let (a, b) = (transpose4(self, upper, 0), transpose4(self, upper, 1));
        let (c, d) = (transpose4(self, lower, 0), transpose4(self, lower, 1));
        for i in 0..4 {
            r[i] = [a[i], c[i]];
            r[4 + i] = [b[i], d[i]];
        }
    }
    #[inline(always)]
    unsafe fn columns_to_rows(
        self,
        tile: *const f64,
        rows: *mut f64,
        step: isize,
        len: usize,
        follow: bool,
    ) -> bool {
        if !len.is_multiple_of(2) && !follow {
            return false;
        }
        // (In this order, as for `f32`.)
        let some = [rows, rows.wrapping_offset(4 * step)];
        let places = map_each([0, 1, 2, 3], |i| i * step);
        for c in (0..len).step_by(2).rev() {
            for (half, row) in some.into_iter().enumerate() {
                let row = opaque(row.wrapping_add(c)).cast_mut();
                let row = map_each(places, |place| row.wrapping_offset(place));
                // SAFETY: the caller's promise: what is beyond a row's end is in the next row, but in the last one; and a
                // tile has whole vectors of classes.
                unsafe {
                    let tile = tile.add(c * 8 + 4 * half);
                    let (a, b) = (_mm256_loadu_pd(tile), _mm256_loadu_pd(tile.add(8)));
                    let (even, odd) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
                    _mm_storeu_pd(row[0], _mm256_castpd256_pd128(even));
                    _mm_storeu_pd(row[1], _mm256_castpd256_pd128(odd));
                    _mm_storeu_pd(row[2], _mm256_extractf128_pd::<1>(even));
                    if half == 1 && c + 2 > len {
                        _mm_store_sd(row[3], _mm256_extractf128_pd::<1>(odd));
                    } else {
                        _mm_storeu_pd(row[3], _mm256_extractf128_pd::<1>(odd));
                    }
                }
            }
        }
        true
    }
    #[inline(always)]
    unsafe fn scale_rows(
        self,
        e: *const f64,
        len: usize,
        [high, low]: [[__m256d; 2]; 2],
        row: *const u32,
        out: *mut f64,
    ) {
        let (high, low) = (both!(_mm256_castpd_ps(high)), both!(_mm256_castpd_ps(low)));
        // As for `f32`.
        for half in 0..2 {
            for i in (half * len..(half + 1) * len).map(|i| 4 * i) {
                // SAFETY: the caller's promise: `2 * len` registers.
                unsafe {
                    let (row, e) = (_mm256_loadu_si256(row.add(2 * i).cast()), _mm256_loadu_pd(e.add(i)));
                    let high = _mm256_castps_pd(_mm256_permutevar8x32_ps(high[half], row));
                    let low = _mm256_castps_pd(_mm256_permutevar8x32_ps(low[half], row));
                    _mm256_storeu_pd(out.add(i), _mm256_fmadd_pd(e, high, _mm256_mul_pd(e, low)));
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn exponentials<const KEPT: bool>(
        self,
        x: *const f64,
        n: usize,
        magic: [__m256d; 2],
        out: *mut f64,
    ) -> bool {
        // SAFETY: the caller's promise.
        unsafe { exp_sum::exponentials_double::<KEPT>(self, x, n, magic, out) };
        true
    }
    #[inline(always)]
    unsafe fn bare_exp_sum(self, x: *const f64, n: usize, magic: f64, ahead: isize) -> Option<[__m256d; 2]> {
        // SAFETY: the caller's promise.
        Some(unsafe { exp_sum::bare_double(self, x, n, magic, ahead) })
    }
}

/// Transposes one half, `v[h]`, of 4 vectors: 4 x 4 `f64`.
#[inline(always)]
fn transpose4(_: Avx2, v: &[[__m256d; 2]], h: usize) -> [__m256d; 4] {
    let (a, b) = isa!((_mm256_unpacklo_pd(v[0][h], v[1][h]), _mm256_unpackhi_pd(v[0][h], v[1][h])));
    let (c, d) = isa!((_mm256_unpacklo_pd(v[2][h], v[3][h]), _mm256_unpackhi_pd(v[2][h], v[3][h])));
    isa!([
        _mm256_permute2f128_pd::<0x20>(a, c),
        _mm256_permute2f128_pd::<0x20>(b, d),
        _mm256_permute2f128_pd::<0x31>(a, c),
        _mm256_permute2f128_pd::<0x31>(b, d),
    ])
}

/// [`Simd::sum_rows`] of rows of `QUADS` times 4 elements, the last of which may be missing; 5 stands for 5 and more.
/// (Macros: a closure would be a function without the instruction set where the compiler does not inline it.)
///
/// # Safety
/// As [`Simd::sum_rows`].
#[inline(always)]
unsafe fn sum_rows<const QUADS: usize>(_: Avx2, p: *const f32, len: usize) -> [[__m256d; 2]; 2] {
    let whole = (len - 1) / 4 * 4;
    let mask = isa!(_mm_castsi128_ps(_mm_cmpgt_epi32(
        _mm_set1_epi32((len - whole) as i32),
        _mm_setr_epi32(0, 1, 2, 3)
    )));
    // Four of the 16 lanes: those of elements `c..c + 4` of a row.
    macro_rules! quad {
        ($row:expr, $c:expr) => {{
            // SAFETY: a quad that begins within the row.
            let v = unsafe { _mm_loadu_ps($row.wrapping_add($c)) };
            let last = if QUADS < 5 { $c / 4 == QUADS - 1 } else { $c == whole };
            isa!(_mm256_cvtps_pd(if last { _mm_and_ps(v, mask) } else { v }))
        }};
    }
    macro_rules! add {
        ($a:expr, $b:expr) => {{
            let (a, b) = ($a, $b);
            isa!(_mm256_add_pd(a, b))
        }};
    }
    // The tree's two upper levels: lanes 8 and then 4 apart. A lane without elements is zero, and changes nothing.
    macro_rules! four {
        ($i:expr) => {{
            let row = p.wrapping_add($i * len);
            let mut lanes = [isa!(_mm256_setzero_pd()); 4];
            for (k, lane) in lanes.iter_mut().enumerate().take(QUADS) {
                *lane = quad!(row, 4 * k);
            }
            for c in (16..if QUADS < 5 { 0 } else { len }).step_by(16) {
                for (k, lane) in lanes.iter_mut().enumerate() {
                    if c + 4 * k < len {
                        *lane = add!(*lane, quad!(row, c + 4 * k));
                    }
                }
            }
            match QUADS {
                1 => lanes[0],
                2 => add!(lanes[0], lanes[1]),
                3 => add!(add!(lanes[0], lanes[2]), lanes[1]),
                _ => add!(add!(lanes[0], lanes[2]), add!(lanes[1], lanes[3])),
            }
        }};
    }
    // The two lower levels, of four rows together.
    let mut sums = [[isa!(_mm256_setzero_pd()); 2]; 2];
    for i in (0..16).step_by(4) {
        let rows = [four!(i), four!(i + 1), four!(i + 2), four!(i + 3)];
        let [even, odd] = [(rows[0], rows[2]), (rows[1], rows[3])];
        let even = isa!((
            _mm256_permute2f128_pd::<0x20>(even.0, even.1),
            _mm256_permute2f128_pd::<0x31>(even.0, even.1)
        ));
        let odd = isa!((
            _mm256_permute2f128_pd::<0x20>(odd.0, odd.1),
            _mm256_permute2f128_pd::<0x31>(odd.0, odd.1)
        ));
        let (even, odd) = (add!(even.0, even.1), add!(odd.0, odd.1));
        sums[i / 8][i / 4 % 2] =
            add!(isa!(_mm256_unpacklo_pd(even, odd)), isa!(_mm256_unpackhi_pd(even, odd)));
    }
    sums
}

/// [`Simd::sum_rows_compensated`], as [`sum_rows`]: 3 stands for 3 and more.
///
/// # Safety
/// As [`Simd::sum_rows_compensated`].
#[inline(always)]
unsafe fn sum_rows_compensated<const QUADS: usize>(_: Avx2, p: *const f64, len: usize) -> [[__m256d; 2]; 2] {
    let whole = (len - 1) / 4 * 4;
    let mask = isa!(_mm256_castsi256_pd(_mm256_cmpgt_epi64(
        _mm256_set1_epi64x((len - whole) as i64),
        _mm256_setr_epi64x(0, 1, 2, 3)
    )));
    let zero = isa!(_mm256_setzero_pd());
    // Four of the 8 lanes.
    macro_rules! quad {
        ($row:expr, $c:expr) => {{
            // SAFETY: a quad that begins within the row.
            let v = unsafe { _mm256_loadu_pd($row.wrapping_add($c)) };
            let last = if QUADS < 3 { $c / 4 == QUADS - 1 } else { $c == whole };
            if last { isa!(_mm256_and_pd(v, mask)) } else { v }
        }};
    }
    macro_rules! two_sum {
        ($a:expr, $b:expr) => {{
            let (a, b) = ($a, $b);
            isa!({
                let sum = _mm256_add_pd(a, b);
                let t = _mm256_sub_pd(sum, a);
                (sum, _mm256_add_pd(_mm256_sub_pd(a, _mm256_sub_pd(sum, t)), _mm256_sub_pd(b, t)))
            })
        }};
    }
    macro_rules! merge {
        ($a:expr, $b:expr) => {{
            let (a, b) = ($a, $b);
            let (sum, e) = two_sum!(a[0], b[0]);
            [sum, isa!(_mm256_add_pd(_mm256_add_pd(a[1], b[1]), e))]
        }};
    }
    // The tree's upper level: lanes 4 apart.
    macro_rules! four {
        ($i:expr) => {{
            let row = p.wrapping_add($i * len);
            let mut lanes = [[zero; 2]; 2];
            for (k, lane) in lanes.iter_mut().enumerate().take(QUADS) {
                lane[0] = quad!(row, 4 * k);
            }
            for c in (8..if QUADS < 3 { 0 } else { len }).step_by(8) {
                for (k, lane) in lanes.iter_mut().enumerate() {
                    if c + 4 * k < len {
                        let (sum, e) = two_sum!(lane[0], quad!(row, c + 4 * k));
                        *lane = [sum, isa!(_mm256_add_pd(lane[1], e))];
                    }
                }
            }
            if QUADS == 1 { lanes[0] } else { merge!(lanes[0], lanes[1]) }
        }};
    }
    // The two lower levels, of four rows together.
    let mut sums = [[zero; 2]; 2];
    for half in 0..2 {
        let i = 4 * half;
        let rows = [four!(i), four!(i + 1), four!(i + 2), four!(i + 3)];
        let [mut even, mut odd] = [[zero; 2]; 2];
        for (pair, a, b) in [(&mut even, rows[0], rows[2]), (&mut odd, rows[1], rows[3])] {
            *pair = merge!(
                both!(_mm256_permute2f128_pd::<0x20>(a, b)),
                both!(_mm256_permute2f128_pd::<0x31>(a, b))
            );
        }
        let [high, low] = merge!(both!(_mm256_unpacklo_pd(even, odd)), both!(_mm256_unpackhi_pd(even, odd)));
        (sums[0][half], sums[1][half]) = (high, low);
    }
    sums
}

impl Simd for Avx2 {
    const SUMS_APART: bool = true;
    const OVERLAPS: bool = false;
    const GROUP_BYTES: usize = 16 * 1024;
    #[inline(always)]
    fn widen(self, v: [__m256; 2]) -> [[__m256d; 2]; 2] {
        let low = both!(_mm256_castps256_ps128(v));
        let high = both!(_mm256_extractf128_ps::<1>(v));
        isa!([
            [_mm256_cvtps_pd(low[0]), _mm256_cvtps_pd(high[0])],
            [_mm256_cvtps_pd(low[1]), _mm256_cvtps_pd(high[1])]
        ])
    }
    #[inline(always)]
    unsafe fn widen_from(self, p: *const f32) -> [[__m256d; 2]; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        unsafe {
            [
                [_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p.add(4)))],
                [_mm256_cvtps_pd(_mm_loadu_ps(p.add(8))), _mm256_cvtps_pd(_mm_loadu_ps(p.add(12)))],
            ]
        }
    }
    #[inline(always)]
    unsafe fn widen_first_from(self, p: *const f32, n: usize) -> [[__m256d; 2]; 2] {
        let mask = first16(self, n);
        let mask = both!(_mm256_castsi256_ps(mask));
        // SAFETY: the caller's promise.
        let v: [__m256; 2] = unsafe { self.load(p) };
        self.widen(both!(_mm256_and_ps(v, mask)))
    }
    #[inline(always)]
    unsafe fn sum_rows(self, p: *const f32, len: usize) -> Option<[[__m256d; 2]; 2]> {
        // SAFETY: the caller's promise.
        unsafe {
            Some(match len.div_ceil(4) {
                1 => sum_rows::<1>(self, p, len),
                2 => sum_rows::<2>(self, p, len),
                3 => sum_rows::<3>(self, p, len),
                4 => sum_rows::<4>(self, p, len),
                _ => sum_rows::<5>(self, p, len),
            })
        }
    }
    #[inline(always)]
    unsafe fn sum_rows_compensated(self, p: *const f64, len: usize) -> Option<[[__m256d; 2]; 2]> {
        // SAFETY: the caller's promise.
        unsafe {
            Some(match len.div_ceil(4) {
                1 => sum_rows_compensated::<1>(self, p, len),
                2 => sum_rows_compensated::<2>(self, p, len),
                _ => sum_rows_compensated::<3>(self, p, len),
            })
        }
    }
    #[inline(always)]
    unsafe fn exp_sum(
        self,
        x: *const f32,
        n: usize,
        magic: f32,
        out: *mut f32,
        ahead: isize,
    ) -> Option<[[__m256d; 2]; 2]> {
        // SAFETY: the caller's promise.
        Some(unsafe { exp_sum::single(self, x, n, magic, out, ahead) })
    }
    #[inline(always)]
    unsafe fn exp_sum_compensated(
        self,
        x: *const f64,
        n: usize,
        magic: f64,
        out: *mut f64,
        ahead: isize,
    ) -> Option<[[__m256d; 2]; 2]> {
        // SAFETY: the caller's promise.
        Some(unsafe { exp_sum::double(self, x, n, magic, out, ahead) })
    }
    #[inline(always)]
    fn narrow(self, v: [[__m256d; 2]; 2]) -> [__m256; 2] {
        let [a, b] = v;
        let (a, b) = (both!(_mm256_cvtpd_ps(a)), both!(_mm256_cvtpd_ps(b)));
        isa!([_mm256_set_m128(a[1], a[0]), _mm256_set_m128(b[1], b[0])])
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
    unsafe fn load_f16(self, p: *const u16) -> [__m256; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        let v = unsafe { [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast())] };
        both!(_mm256_cvtph_ps(v))
    }
    #[inline(always)]
    fn narrow_f16(self, v: [__m256; 2]) -> __m256i {
        let [low, high] = both!(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
        isa!(_mm256_set_m128i(high, low))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> [__m256; 2] {
        // SAFETY: the caller's promise; the token for the instruction set.
        let v = unsafe { [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast())] };
        // Each half of a register takes its bytes from a copy of all 8 numbers: half the work of widening and shifting.
        let v = both!(_mm256_broadcastsi128_si256(v));
        let place = isa!(_mm256_setr_epi8(
            -1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, //
            -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15,
        ));
        let place = [place; 2];
        let bits = both!(_mm256_shuffle_epi8(v, place));
        both!(_mm256_castsi256_ps(bits))
    }
    #[inline(always)]
    fn narrow_bf16(self, v: [__m256; 2]) -> __m256i {
        let (one, most) = ([isa!(_mm256_set1_epi32(1)); 2], [isa!(_mm256_set1_epi32(0x7fff)); 2]);
        let bits = both!(_mm256_castps_si256(v));
        let last = both!(_mm256_srli_epi32::<16>(bits));
        let odd = both!(_mm256_and_si256(last, one));
        let rounded = both!(_mm256_add_epi32(bits, most));
        let rounded = both!(_mm256_add_epi32(rounded, odd));
        let [low, high] = both!(_mm256_srli_epi32::<16>(rounded));
        // Packed within 128 bits: the two middle quarters change places.
        isa!(_mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(low, high)))
    }
    #[inline(always)]
    fn split_exponent(self, v: [__m256d; 2]) -> ([__m256d; 2], [__m256d; 2]) {
        let one = self.splat(1.0f64);
        let fraction = [isa!(_mm256_castsi256_pd(_mm256_set1_epi64x((1 << 52) - 1))); 2];
        let m = both!(_mm256_and_pd(v, fraction));
        let m = both!(_mm256_or_pd(m, one));
        // 2^52 + the biased exponent, as the bits of a double.
        let (magic, bias) = (self.splat(TWO_52), self.splat(TWO_52 + 1023.0));
        let k = both!(_mm256_castpd_si256(v));
        let k = both!(_mm256_srli_epi64::<52>(k));
        let k = both!(_mm256_castsi256_pd(k));
        let k = both!(_mm256_or_pd(k, magic));
        (m, both!(_mm256_sub_pd(k, bias)))
    }
    #[inline(always)]
    fn fence(self) {
        isa!(_mm_sfence());
    }
    #[inline(always)]
    fn call<K: Task>(self, task: K) -> K::Out {
        // SAFETY: `Avx2` exists only on processors that have these instruction sets.
        unsafe { task.enter(self) }
    }
}

/// [`Task::run`] at this level: a method, as in `portable.rs`.
trait Entry: Task {
    /// # Safety
    /// As [`Avx2::assume`].
    unsafe fn enter(self, s: Avx2) -> Self::Out;
}

impl<K: Task> Entry for K {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline(never)]
    unsafe fn enter(self, s: Avx2) -> K::Out {
        self.run(s)
    }
}
