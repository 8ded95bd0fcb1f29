//! Exponentials one register at a time.
//!
//! A loop over logical vectors has two registers of elements under way at once and all constants in registers, of
//! which there are 16: the compiler broadcasts constants again in each round, and moves accumulators about. Here
//! coefficients come from memory, each the last operand of its instruction, logits are loaded once for each instruction
//! that takes them, into the register of its result, and a register of elements may be begun before the last one is ended.

use super::{Avx2, store_first_of_8};
use crate::float::{Double, Element, Single};
use crate::simd::{opaque, prefetch};
use core::arch::{asm, x86_64::*};

/// Numbers, each in all lanes of a register.
#[repr(C, align(32))]
struct Table<T, const LANES: usize, const N: usize>([[T; LANES]; N]);

const fn table<T: Copy, const LANES: usize, const N: usize>(numbers: [T; N]) -> Table<T, LANES, N> {
    let mut lanes = [[numbers[0]; LANES]; N];
    let mut i = 1;
    while i < N {
        lanes[i] = [numbers[i]; LANES];
        i += 1;
    }
    Table(lanes)
}

/// The coefficients of [`Element::EXP`] but the first, and, where Horner's rule goes that far, those of `r` and 1.
static SINGLE: Table<f32, 8, 4> = table([Single::EXP[1], Single::EXP[2], Single::EXP[3], Single::EXP[4]]);
static DOUBLE: Table<f64, 4, 11> = table([
    Double::EXP[1],
    Double::EXP[2],
    Double::EXP[3],
    Double::EXP[4],
    Double::EXP[5],
    Double::EXP[6],
    Double::EXP[7],
    Double::EXP[8],
    Double::EXP[9],
    Double::ONE,
    Double::ONE,
]);

/// What an exponential needs, in registers but for the coefficients. The operations are those of
/// [`exp_scaled`](crate::math::exp_scaled), in its order.
#[derive(Clone, Copy)]
struct Exp<V> {
    magic: V,
    cut: V,
    log2e: V,
    ln2_hi: V,
    ln2_lo: V,
    first: V,
    coefficients: *const V,
}

/// Exponentials and their sums, a register at a time. What takes a pointer reads or writes a register there, whose
/// elements the caller vouches for.
trait Register: Copy {
    type T: Copy;
    type V: Copy;
    type Begun;
    /// Elements of a register.
    const LANES: usize;
    fn new(s: Avx2, magic: Self::V) -> Self;
    fn with_magic(self, magic: Self::V) -> Self;
    fn splat(s: Avx2, x: Self::T) -> Self::V;
    unsafe fn load(&self, p: *const Self::T) -> Self::V;
    /// The first `n` elements, at least one, or all; the others, which are not read, are -inf.
    unsafe fn load_first(&self, p: *const Self::T, n: usize) -> Self::V;
    unsafe fn store(&self, v: Self::V, p: *mut Self::T);
    /// Writes the first `n < LANES` elements.
    unsafe fn store_first(&self, v: Self::V, p: *mut Self::T, n: usize);
    /// `x` twice: where each comes from memory, it is an operand of its instruction.
    fn begin(&self, x: [Self::V; 2]) -> Self::Begun;
    /// With `KEPT`, the exponential is known not to be cut off.
    fn end<const KEPT: bool>(&self, begun: Self::Begun) -> Self::V;
    /// A register of exponentials on top of their sum: of `f32` each half widened, of `f64` the sum and what it lacks.
    fn add(&self, sum: [__m256d; 2], e: Self::V) -> [__m256d; 2];
    /// The same of a register in memory.
    unsafe fn add_from(&self, sum: [__m256d; 2], p: *const Self::T) -> [__m256d; 2];
}

impl Register for Exp<__m256> {
    type T = f32;
    type V = __m256;
    /// `t`, `d`, `rest` and `r`.
    type Begun = [__m256; 4];
    const LANES: usize = 8;

    #[inline(always)]
    fn new(s: Avx2, magic: __m256) -> Self {
        Exp {
            magic,
            cut: Self::splat(s, Single::MAGIC_CUT),
            log2e: Self::splat(s, Single::LOG2E),
            ln2_hi: Self::splat(s, -Single::LN2_HI),
            ln2_lo: Self::splat(s, -Single::LN2_LO),
            first: Self::splat(s, Single::EXP[0]),
            // Unknown to the compiler, so that they stay in memory.
            coefficients: opaque(&raw const SINGLE).cast(),
        }
    }
    #[inline(always)]
    fn with_magic(self, magic: Self::V) -> Self {
        Exp { magic, ..self }
    }
    #[inline(always)]
    fn splat(_: Avx2, x: f32) -> __m256 {
        // SAFETY: the token stands for the instruction set; no memory is accessed.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(&self, p: *const f32) -> __m256 {
        // SAFETY: `self` proves the instruction set; the rest is the caller's promise.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_first(&self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: as above; lanes whose mask is 0 are not accessed.
        unsafe {
            let place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), place);
            let low = _mm256_set1_ps(f32::NEG_INFINITY);
            _mm256_blendv_ps(low, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask))
        }
    }
    #[inline(always)]
    unsafe fn store(&self, v: __m256, p: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(&self, v: __m256, p: *mut f32, n: usize) {
        // SAFETY: as above.
        unsafe { store_first_of_8(Avx2(()), v, p, n) }
    }
    #[inline(always)]
    fn begin(&self, [x, again]: [__m256; 2]) -> [__m256; 4] {
        // SAFETY: `self` proves the instruction set; no memory is accessed.
        unsafe {
            let t = _mm256_fmadd_ps(x, self.log2e, self.magic);
            let n = _mm256_sub_ps(t, self.magic);
            let d = _mm256_fmadd_ps(n, self.ln2_hi, again);
            let rest = _mm256_mul_ps(n, self.ln2_lo);
            [t, d, rest, _mm256_add_ps(d, rest)]
        }
    }
    #[inline(always)]
    fn end<const KEPT: bool>(&self, [t, d, rest, r]: [__m256; 4]) -> __m256 {
        // SAFETY: `self` proves the instruction set; the coefficients are 4, and aligned.
        unsafe {
            let mut p = self.first;
            for i in 0..4 {
                p = _mm256_fmadd_ps(p, r, *self.coefficients.add(i));
            }
            let w = _mm256_add_ps(d, _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, rest));
            let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(t)));
            let e = _mm256_fmadd_ps(w, power, power);
            if KEPT { e } else { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(t, self.cut), e) }
        }
    }
    #[inline(always)]
    fn add(&self, sum: [__m256d; 2], e: __m256) -> [__m256d; 2] {
        // SAFETY: as in `begin`.
        unsafe {
            [
                _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm256_castps256_ps128(e))),
                _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(e))),
            ]
        }
    }
    /// (Widening what comes from memory is cheaper than what is in registers.)
    #[inline(always)]
    unsafe fn add_from(&self, sum: [__m256d; 2], p: *const f32) -> [__m256d; 2] {
        // SAFETY: as in `load`.
        unsafe {
            [
                _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm_loadu_ps(p))),
                _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm_loadu_ps(p.add(4)))),
            ]
        }
    }
}

/// Coefficients that the first part of an exponential of `f64` takes.
const BEGUN: usize = 4;

impl Register for Exp<__m256d> {
    type T = f64;
    type V = __m256d;
    /// `t`, `r` and the polynomial so far.
    type Begun = [__m256d; 3];
    const LANES: usize = 4;

    #[inline(always)]
    fn new(s: Avx2, magic: __m256d) -> Self {
        Exp {
            magic,
            cut: Self::splat(s, Double::MAGIC_CUT),
            log2e: Self::splat(s, Double::LOG2E),
            ln2_hi: Self::splat(s, -Double::LN2_HI),
            ln2_lo: Self::splat(s, -Double::LN2_LO),
            first: Self::splat(s, Double::EXP[0]),
            coefficients: opaque(&raw const DOUBLE).cast(),
        }
    }
    #[inline(always)]
    fn with_magic(self, magic: Self::V) -> Self {
        Exp { magic, ..self }
    }
    #[inline(always)]
    fn splat(_: Avx2, x: f64) -> __m256d {
        // SAFETY: as for `f32`, here and below.
        unsafe { _mm256_set1_pd(x) }
    }
    #[inline(always)]
    unsafe fn load(&self, p: *const f64) -> __m256d {
        // SAFETY: as for `f32`.
        unsafe { _mm256_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn load_first(&self, p: *const f64, n: usize) -> __m256d {
        // SAFETY: as for `f32`.
        unsafe {
            let mask = _mm256_cmpgt_epi64(_mm256_set1_epi64x(n as i64), _mm256_setr_epi64x(0, 1, 2, 3));
            let low = _mm256_set1_pd(f64::NEG_INFINITY);
            _mm256_blendv_pd(low, _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask))
        }
    }
    #[inline(always)]
    unsafe fn store(&self, v: __m256d, p: *mut f64) {
        // SAFETY: as for `f32`.
        unsafe { _mm256_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(&self, v: __m256d, p: *mut f64, n: usize) {
        // SAFETY: as for `f32`; the parts have `n` elements together.
        unsafe {
            let (mut p, mut pair) = (p, _mm256_castpd256_pd128(v));
            if n & 2 != 0 {
                _mm_storeu_pd(p, pair);
                (p, pair) = (p.add(2), _mm256_extractf128_pd::<1>(v));
            }
            if n & 1 != 0 {
                _mm_store_sd(p, pair);
            }
        }
    }
    #[inline(always)]
    fn begin(&self, [x, again]: [__m256d; 2]) -> [__m256d; 3] {
        // SAFETY: as for `f32`; the coefficients are 11.
        unsafe {
            let t = _mm256_fmadd_pd(x, self.log2e, self.magic);
            let n = _mm256_sub_pd(t, self.magic);
            let r = _mm256_fmadd_pd(n, self.ln2_lo, _mm256_fmadd_pd(n, self.ln2_hi, again));
            let mut p = self.first;
            for i in 0..BEGUN {
                p = _mm256_fmadd_pd(p, r, *self.coefficients.add(i));
            }
            [t, r, p]
        }
    }
    #[inline(always)]
    fn end<const KEPT: bool>(&self, [t, r, mut p]: [__m256d; 3]) -> __m256d {
        // SAFETY: as in `begin`.
        unsafe {
            for i in BEGUN..11 {
                p = _mm256_fmadd_pd(p, r, *self.coefficients.add(i));
            }
            let power = _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(t)));
            let e = _mm256_mul_pd(p, power);
            if KEPT { e } else { _mm256_andnot_pd(_mm256_cmp_pd::<_CMP_LT_OQ>(t, self.cut), e) }
        }
    }
    #[inline(always)]
    fn add(&self, [high, low]: [__m256d; 2], e: __m256d) -> [__m256d; 2] {
        // SAFETY: as for `f32`.
        unsafe {
            let sum = _mm256_add_pd(high, e);
            let t = _mm256_sub_pd(sum, high);
            let rest = _mm256_sub_pd(high, _mm256_sub_pd(sum, t));
            [sum, _mm256_add_pd(low, _mm256_add_pd(rest, _mm256_sub_pd(e, t)))]
        }
    }
    #[inline(always)]
    unsafe fn add_from(&self, sum: [__m256d; 2], p: *const f64) -> [__m256d; 2] {
        // SAFETY: the caller's promise.
        self.add(sum, unsafe { self.load(p) })
    }
}

/// [`Simd::exp_sum`](super::Simd::exp_sum) and [`Simd::exp_sum_compensated`](super::Simd::exp_sum_compensated): the sums of
/// the lanes of even and of odd registers, as [`Register::add`] has them.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn exp_sum<R: Register>(
    s: Avx2,
    x: *const R::T,
    n: usize,
    magic: R::T,
    out: *mut R::T,
    ahead: isize,
) -> [[__m256d; 2]; 2] {
    let exp = R::new(s, R::splat(s, magic));
    let vector = 2 * R::LANES;
    let whole = n / vector * vector;
    // SAFETY: the token stands for the instruction set; all accesses are within `n` elements.
    unsafe {
        let mut sums = [[_mm256_setzero_pd(); 2]; 2];
        if whole > 0 {
            let again = opaque(x); // (Two loads stay two.)
            macro_rules! begin {
                ($i:expr) => {
                    exp.begin([exp.load(x.add($i)), exp.load(again.add($i))])
                };
            }
            macro_rules! add {
                ($h:expr, $i:expr) => {
                    sums[$h] = exp.add_from(sums[$h], out.add($i + $h * R::LANES).cast_const());
                };
            }
            // The sum runs behind, as in the other levels' loop.
            let last = whole - vector;
            let lag = last.min(4 * vector);
            let mut i = 0;
            let mut first = begin!(0);
            while i < lag {
                prefetch(x.wrapping_add(i).wrapping_offset(ahead));
                let second = begin!(i + R::LANES);
                exp.store(exp.end::<false>(first), out.add(i));
                first = begin!(i + vector);
                exp.store(exp.end::<false>(second), out.add(i + R::LANES));
                i += vector;
            }
            let second = loop {
                prefetch(x.wrapping_add(i).wrapping_offset(ahead));
                let second = begin!(i + R::LANES);
                exp.store(exp.end::<false>(first), out.add(i));
                add!(0, i - lag);
                if i == last {
                    break second;
                }
                first = begin!(i + vector);
                exp.store(exp.end::<false>(second), out.add(i + R::LANES));
                add!(1, i - lag);
                i += vector;
            };
            exp.store(exp.end::<false>(second), out.add(last + R::LANES));
            add!(1, last - lag);
            for i in (whole - lag..whole).step_by(vector) {
                add!(0, i);
                add!(1, i);
            }
        }
        // What is left, a register at a time; lanes without elements would add zero.
        for (sum, i) in sums.iter_mut().zip([whole, whole + R::LANES]) {
            if i < n {
                let x = exp.load_first(x.add(i), n - i);
                let e = exp.end::<false>(exp.begin([x; 2]));
                if n - i >= R::LANES {
                    exp.store(e, out.add(i));
                } else {
                    exp.store_first(e, out.add(i), n - i);
                }
                *sum = exp.add(*sum, e);
            }
        }
        sums
    }
}

/// [`exp_sum`] of `f32`: the lanes of one half and of the other.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn single(
    s: Avx2,
    x: *const f32,
    n: usize,
    magic: f32,
    out: *mut f32,
    ahead: isize,
) -> [[__m256d; 2]; 2] {
    // SAFETY: the caller's promise.
    unsafe { exp_sum::<Exp<__m256>>(s, x, n, magic, out, ahead) }
}

/// [`exp_sum`] of `f64`: the sums of the lanes, and what they lack.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn double(
    s: Avx2,
    x: *const f64,
    n: usize,
    magic: f64,
    out: *mut f64,
    ahead: isize,
) -> [[__m256d; 2]; 2] {
    // SAFETY: the caller's promise.
    let [even, odd] = unsafe { exp_sum::<Exp<__m256d>>(s, x, n, magic, out, ahead) };
    [[even[0], odd[0]], [even[1], odd[1]]]
}

/// [`Lanes::exponentials`](super::Lanes::exponentials).
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn exponentials<R: Register, const KEPT: bool>(
    s: Avx2,
    x: *const R::T,
    n: usize,
    magic: [R::V; 2],
    out: *mut R::T,
) {
    let exp = R::new(s, magic[0]);
    let exp = [exp, exp.with_magic(magic[1])];
    let again = opaque(x); // (Two loads stay two.)
    // SAFETY: all accesses are within `n` elements, whole vectors.
    unsafe {
        for i in (0..n).step_by(2 * R::LANES) {
            for (i, exp) in [(i, &exp[0]), (i + R::LANES, &exp[1])] {
                let e = exp.end::<KEPT>(exp.begin([exp.load(x.add(i)), exp.load(again.add(i))]));
                exp.store(e, out.add(i));
            }
        }
    }
}

/// [`exponentials`] of `f32`.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn exponentials_single<const KEPT: bool>(
    s: Avx2,
    x: *const f32,
    n: usize,
    magic: [__m256; 2],
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe { exponentials::<Exp<__m256>, KEPT>(s, x, n, magic, out) }
}

/// [`exponentials`] of `f64`.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn exponentials_double<const KEPT: bool>(
    s: Avx2,
    x: *const f64,
    n: usize,
    magic: [__m256d; 2],
    out: *mut f64,
) {
    // SAFETY: the caller's promise.
    unsafe { exponentials::<Exp<__m256d>, KEPT>(s, x, n, magic, out) }
}

/// [`Lanes::bare_exp_sum`](super::Lanes::bare_exp_sum) of `f32`.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn bare_single(s: Avx2, x: *const f32, n: usize, magic: f32, ahead: isize) -> [__m256; 2] {
    let again = opaque(x); // (Two loads stay two.)
    // SAFETY: the token stands for the instruction set; all loads are within `n` elements, whole pairs of vectors.
    unsafe {
        let exp = Exp::<__m256>::new(s, _mm256_set1_ps(magic));
        let mut sums = [_mm256_setzero_ps(); 4];
        for i in (0..n).step_by(32) {
            prefetch(x.wrapping_add(i).wrapping_offset(ahead));
            prefetch(x.wrapping_add(i + 16).wrapping_offset(ahead));
            for (j, sum) in sums.iter_mut().enumerate() {
                let x = [_mm256_loadu_ps(x.add(i + 8 * j)), _mm256_loadu_ps(again.add(i + 8 * j))];
                *sum = _mm256_add_ps(*sum, exp.end::<false>(exp.begin(x)));
                // Whatever is in memory may change here: coefficients stay there.
                asm!("", options(nostack, preserves_flags));
            }
        }
        [_mm256_add_ps(sums[0], sums[2]), _mm256_add_ps(sums[1], sums[3])]
    }
}

/// The same of `f64`, each exponential begun before the last one is ended. (That takes 0.9 of the time; in `bare_single` it
/// would take 1.1.)
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn bare_double(s: Avx2, x: *const f64, n: usize, magic: f64, ahead: isize) -> [__m256d; 2] {
    let again = opaque(x); // (Two loads stay two.)
    // SAFETY: as above.
    unsafe {
        let exp = Exp::<__m256d>::new(s, _mm256_set1_pd(magic));
        let mut sums = [_mm256_setzero_pd(); 4];
        if n == 0 {
            return [sums[0], sums[1]];
        }
        macro_rules! begin {
            ($i:expr) => {
                exp.begin([_mm256_loadu_pd(x.add($i)), _mm256_loadu_pd(again.add($i))])
            };
        }
        let mut begun = begin!(0);
        for i in (0..n).step_by(16) {
            prefetch(x.wrapping_add(i).wrapping_offset(ahead));
            prefetch(x.wrapping_add(i + 8).wrapping_offset(ahead));
            for (j, sum) in sums.iter_mut().enumerate() {
                // (The last register begins an exponential that nobody ends.)
                let next = i + 4 * (j + 1);
                let next = begin!(if j < 3 || next < n { next } else { i });
                *sum = _mm256_add_pd(*sum, exp.end::<false>(begun));
                begun = next;
                asm!("", options(nostack, preserves_flags));
            }
        }
        [_mm256_add_pd(sums[0], sums[2]), _mm256_add_pd(sums[1], sums[3])]
    }
}
