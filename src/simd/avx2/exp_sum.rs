//! Exponentials one register at a time.
//!
//! A loop over logical vectors has two registers of elements under way at once and all constants in registers, of
//! which there are 16: the compiler broadcasts constants again in each round, and moves accumulators about. Here a
//! coefficient, the last operand of its instruction, comes from memory, and a register of elements may be begun before
//! the last one is ended.

use super::{Avx2, store_first_of_8};
use crate::float::{Double, Element, Single};
use crate::simd::prefetch;
use core::arch::{asm, x86_64::*};
use core::hint::black_box;

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
struct Exp<V> {
    magic: V,
    cut: V,
    log2e: V,
    ln2_hi: V,
    ln2_lo: V,
    first: V,
    coefficients: *const V,
}

/// `t`, `d`, `rest` and `r` of an exponential of `f32`.
#[derive(Clone, Copy)]
struct BegunSingle([__m256; 4]);

impl Exp<__m256> {
    #[inline(always)]
    fn new(_: Avx2, magic: f32) -> Self {
        // SAFETY: the token stands for the instruction set; no memory is accessed.
        unsafe {
            Exp {
                magic: _mm256_set1_ps(magic),
                cut: _mm256_set1_ps(Single::MAGIC_CUT),
                log2e: _mm256_set1_ps(Single::LOG2E),
                ln2_hi: _mm256_set1_ps(-Single::LN2_HI),
                ln2_lo: _mm256_set1_ps(-Single::LN2_LO),
                first: _mm256_set1_ps(Single::EXP[0]),
                // Unknown to the compiler, so that they stay in memory.
                coefficients: black_box(&raw const SINGLE).cast(),
            }
        }
    }
    #[inline(always)]
    fn begin(&self, x: __m256) -> BegunSingle {
        // SAFETY: `self` proves the instruction set; no memory is accessed.
        unsafe {
            let t = _mm256_fmadd_ps(x, self.log2e, self.magic);
            let n = _mm256_sub_ps(t, self.magic);
            let d = _mm256_fmadd_ps(n, self.ln2_hi, x);
            let rest = _mm256_mul_ps(n, self.ln2_lo);
            BegunSingle([t, d, rest, _mm256_add_ps(d, rest)])
        }
    }
    #[inline(always)]
    fn end(&self, BegunSingle([t, d, rest, r]): BegunSingle) -> __m256 {
        // SAFETY: `self` proves the instruction set; the coefficients are 4, and aligned.
        unsafe {
            let mut p = self.first;
            for i in 0..4 {
                p = _mm256_fmadd_ps(p, r, *self.coefficients.add(i));
            }
            let w = _mm256_add_ps(d, _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, rest));
            let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(t)));
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(t, self.cut);
            _mm256_andnot_ps(below, _mm256_fmadd_ps(w, power, power))
        }
    }
}

/// Coefficients that the first part of an exponential of `f64` takes.
const BEGUN: usize = 4;

/// `t`, `r` and the polynomial so far.
struct BegunDouble([__m256d; 3]);

impl Exp<__m256d> {
    #[inline(always)]
    fn new(_: Avx2, magic: f64) -> Self {
        // SAFETY: the token stands for the instruction set; no memory is accessed.
        unsafe {
            Exp {
                magic: _mm256_set1_pd(magic),
                cut: _mm256_set1_pd(Double::MAGIC_CUT),
                log2e: _mm256_set1_pd(Double::LOG2E),
                ln2_hi: _mm256_set1_pd(-Double::LN2_HI),
                ln2_lo: _mm256_set1_pd(-Double::LN2_LO),
                first: _mm256_set1_pd(Double::EXP[0]),
                coefficients: black_box(&raw const DOUBLE).cast(),
            }
        }
    }
    #[inline(always)]
    fn begin(&self, x: __m256d) -> BegunDouble {
        // SAFETY: `self` proves the instruction set; the coefficients are 11, and aligned.
        unsafe {
            let t = _mm256_fmadd_pd(x, self.log2e, self.magic);
            let n = _mm256_sub_pd(t, self.magic);
            let r = _mm256_fmadd_pd(n, self.ln2_lo, _mm256_fmadd_pd(n, self.ln2_hi, x));
            let mut p = self.first;
            for i in 0..BEGUN {
                p = _mm256_fmadd_pd(p, r, *self.coefficients.add(i));
            }
            BegunDouble([t, r, p])
        }
    }
    #[inline(always)]
    fn end(&self, BegunDouble([t, r, mut p]): BegunDouble) -> __m256d {
        // SAFETY: as above.
        unsafe {
            for i in BEGUN..11 {
                p = _mm256_fmadd_pd(p, r, *self.coefficients.add(i));
            }
            let power = _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(t)));
            let below = _mm256_cmp_pd::<_CMP_LT_OQ>(t, self.cut);
            _mm256_andnot_pd(below, _mm256_mul_pd(p, power))
        }
    }
}

/// [`Simd::exp_sum`](super::Simd::exp_sum).
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn exp_sum(
    s: Avx2,
    x: *const f32,
    n: usize,
    magic: f32,
    out: *mut f32,
    ahead: isize,
) -> [[__m256d; 2]; 2] {
    let exp = Exp::<__m256>::new(s, magic);
    let whole = n / 16 * 16;
    // SAFETY: the token stands for the instruction set; all accesses are within `n` elements.
    unsafe {
        let mut sums = [[_mm256_setzero_pd(); 2]; 2];
        if whole > 0 {
            macro_rules! add {
                ($sum:expr, $i:expr) => {
                    let e = out.add($i).cast_const();
                    $sum[0] = _mm256_add_pd($sum[0], _mm256_cvtps_pd(_mm_loadu_ps(e)));
                    $sum[1] = _mm256_add_pd($sum[1], _mm256_cvtps_pd(_mm_loadu_ps(e.add(4))));
                };
            }
            let mut first = exp.begin(_mm256_loadu_ps(x));
            let mut i = 0;
            // (`LAG` vectors of the other levels' loop.)
            let (lag, last) = (whole.min(4 * 16), whole - 16);
            macro_rules! vector {
                (add: $add:expr, next: $next:block) => {
                    prefetch(x.wrapping_add(i).wrapping_offset(ahead));
                    let second = exp.begin(_mm256_loadu_ps(x.add(i + 8)));
                    _mm256_storeu_ps(out.add(i), exp.end(first));
                    if $add {
                        add!(sums[0], i - lag);
                    }
                    $next
                    _mm256_storeu_ps(out.add(i + 8), exp.end(second));
                    if $add {
                        add!(sums[1], i + 8 - lag);
                    }
                };
            }
            // The sum runs behind: widening what comes from memory is cheaper than what is in registers.
            while i < lag.min(last) {
                vector!(add: false, next: { first = exp.begin(_mm256_loadu_ps(x.add(i + 16))) });
                i += 16;
            }
            while i < last {
                vector!(add: true, next: { first = exp.begin(_mm256_loadu_ps(x.add(i + 16))) });
                i += 16;
            }
            if lag < whole {
                vector!(add: true, next: {});
            } else {
                vector!(add: false, next: {});
            }
            for i in (whole - lag..whole).step_by(16) {
                add!(sums[0], i);
                add!(sums[1], i + 8);
            }
        }
        // What is left, a register at a time; lanes without elements would add zero.
        for (sum, i) in sums.iter_mut().zip([whole, whole + 8]) {
            if i < n {
                let place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((n - i) as i32), place);
                let low = _mm256_set1_ps(f32::NEG_INFINITY);
                let x = _mm256_maskload_ps(x.add(i), mask);
                let e = exp.end(exp.begin(_mm256_blendv_ps(low, x, _mm256_castsi256_ps(mask))));
                if n - i >= 8 {
                    _mm256_storeu_ps(out.add(i), e);
                } else {
                    store_first_of_8(s, e, out.add(i), n - i);
                }
                sum[0] = _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm256_castps256_ps128(e)));
                sum[1] = _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(e)));
            }
        }
        sums
    }
}

/// [`Lanes::bare_exp_sum`](super::Lanes::bare_exp_sum) of `f32`.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn bare_single(s: Avx2, x: *const f32, n: usize, magic: f32, ahead: isize) -> [__m256; 2] {
    let exp = Exp::<__m256>::new(s, magic);
    // SAFETY: the token stands for the instruction set; all loads are within `n` elements, whole pairs of vectors.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); 4];
        for i in (0..n).step_by(32) {
            prefetch(x.wrapping_add(i).wrapping_offset(ahead));
            prefetch(x.wrapping_add(i + 16).wrapping_offset(ahead));
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_add_ps(*sum, exp.end(exp.begin(_mm256_loadu_ps(x.add(i + 8 * j)))));
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
    let exp = Exp::<__m256d>::new(s, magic);
    // SAFETY: as above.
    unsafe {
        let mut sums = [_mm256_setzero_pd(); 4];
        if n == 0 {
            return [sums[0], sums[1]];
        }
        let mut begun = exp.begin(_mm256_loadu_pd(x));
        for i in (0..n).step_by(16) {
            prefetch(x.wrapping_add(i).wrapping_offset(ahead));
            prefetch(x.wrapping_add(i + 8).wrapping_offset(ahead));
            for (j, sum) in sums.iter_mut().enumerate() {
                // (The last register begins an exponential that nobody ends.)
                let next = i + 4 * (j + 1);
                let next = exp.begin(_mm256_loadu_pd(x.add(if j < 3 || next < n { next } else { i })));
                *sum = _mm256_add_pd(*sum, exp.end(begun));
                begun = next;
                asm!("", options(nostack, preserves_flags));
            }
        }
        [_mm256_add_pd(sums[0], sums[2]), _mm256_add_pd(sums[1], sums[3])]
    }
}
