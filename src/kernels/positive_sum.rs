//! The logarithm of a weighted sum of exponentials without negative weights: nothing cancels, and
//!
//! ```text
//! log sum_c b_c exp(a_c) = N ln 2 + log sum_c b_c e_c
//! ```
//!
//! with the stored exponentials `e_c` and the reference `N` of [`crate::kernels::rowsum`], and sums in `f64` (for `f64` with a
//! low part). Its error is that of one exponential, relative to 1: where the logarithm is nearly zero that is too much. Where
//! the largest elements weigh 1 together and are the sum but for a millionth, it is `a_max + log(sum_c b_c e_c / e_max)`, in
//! which the error cancels.
//!
//! Which rows are taken depends on all their elements, those of weight 0 too.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Acc, Double, Element, V64, load64, store64, two_sum_v};
use crate::kernels::rowsum::{Block, FEW, LONG, MAX_WIDTH, first_bits, reduce_max, reference};
use crate::lines::{AHEAD_BYTES, GROUP};
use crate::math::{LN2_HI, LN2_LO, TWO_64, exp_scaled, log, magic};
use crate::simd::{Simd, prefetch};
use std::mem::MaybeUninit;

/// Rows whose largest `a` is within this can be summed: `N ln 2` is exact but for the last part of ln 2.
const NEAR: f64 = 65_536.0;
/// A sum is the largest exponential if no more than this share of it is not.
const REST: f64 = 1.0 / (1 << 20) as f64;
/// The smallest sum that is given, far above what underflows.
const LEAST: f64 = f64::MIN_POSITIVE * TWO_64 * TWO_64 * TWO_64;
/// Smaller logarithms are not given.
const SMALL: f64 = 1.0 / 64.0;
/// Vectors between an exponential and its sum.
const LAG: usize = 4;

/// What the first sweep over a row finds.
struct Bounds<E: Element, S: Simd> {
    /// The largest `a`, and the largest weight.
    top: E::V<S>,
    most: E::V<S>,
    negative: bool,
}

/// # Safety
/// Both pointers are valid for reading `len` elements.
#[inline(always)]
unsafe fn bounds<E: Element, S: Simd>(s: S, a: *const E::T, b: *const E::T, len: usize) -> Bounds<E, S> {
    let zero = E::splat(s, E::ZERO);
    // Two chains each: one would wait for itself.
    let (mut top, mut most, mut least) = ([E::splat(s, E::NEG_INF); 2], [zero; 2], [zero; 2]);
    macro_rules! take {
        ($j:expr, $x:expr, $w:expr) => {
            let (x, w) = ($x, $w);
            top[$j] = E::max(s, x, top[$j]);
            (least[$j], most[$j]) = (E::min(s, w, least[$j]), E::max(s, w, most[$j]));
        };
    }
    let mut i = 0;
    while i + 2 * E::WIDTH <= len {
        for j in 0..2 {
            let (a, b) = (a.wrapping_add(i + j * E::WIDTH), b.wrapping_add(i + j * E::WIDTH));
            if len > E::BLOCK {
                prefetch(a.wrapping_byte_add(AHEAD_BYTES));
                prefetch(b.wrapping_byte_add(AHEAD_BYTES));
            }
            // SAFETY: two vectors remain.
            unsafe {
                take!(j, E::load(s, a), E::load(s, b));
            }
        }
        i += 2 * E::WIDTH;
    }
    while i < len {
        let n = (len - i).min(E::WIDTH);
        // SAFETY: `n` elements remain.
        unsafe {
            take!(0, E::load_first(s, a.add(i), n, E::NEG_INF), E::load_first(s, b.add(i), n, E::ZERO));
        }
        i += E::WIDTH;
    }
    Bounds {
        top: E::max(s, top[0], top[1]),
        most: E::max(s, most[0], most[1]),
        negative: E::bits(s, E::lt(s, E::min(s, least[0], least[1]), zero)) != 0,
    }
}

/// `sum_c b_c exp(a_c) 2^-N` over the logical lanes.
///
/// # Safety
/// As [`bounds`].
#[inline(always)]
unsafe fn sum<E: Element, S: Simd>(
    s: S,
    a: *const E::T,
    b: *const E::T,
    len: usize,
    magic: E::V<S>,
) -> Acc<S> {
    let mut memory = MaybeUninit::<Block>::uninit();
    let e: *mut E::T = memory.as_mut_ptr().cast();
    let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
    for start in (0..len).step_by(E::BLOCK) {
        let (a, b, n) = (a.wrapping_add(start), b.wrapping_add(start), (len - start).min(E::BLOCK));
        let whole = n - n % E::WIDTH;
        let lag = whole.min(LAG * E::WIDTH);
        macro_rules! exponential {
            ($i:expr) => {
                // The next rows come from memory meanwhile.
                prefetch(a.wrapping_add($i).wrapping_byte_add(AHEAD_BYTES));
                prefetch(b.wrapping_add($i).wrapping_byte_add(AHEAD_BYTES));
                // SAFETY: `i + WIDTH <= n`, and a block has room for as many.
                unsafe { E::store(s, exp_scaled::<E, S>(s, E::load(s, a.add($i)), magic), e.add($i)) };
            };
        }
        macro_rules! add {
            ($i:expr) => {
                // SAFETY: as above.
                acc = unsafe { E::accumulate_product_from(s, acc, e.add($i).cast_const(), b.add($i)) };
            };
        }
        for i in (0..lag).step_by(E::WIDTH) {
            exponential!(i);
        }
        for i in (lag..whole).step_by(E::WIDTH) {
            exponential!(i);
            add!(i - lag);
        }
        for i in (whole - lag..whole).step_by(E::WIDTH) {
            add!(i);
        }
        if whole < n {
            // SAFETY: `n - whole` elements remain.
            unsafe {
                let x = E::load_first(s, a.add(whole), n - whole, E::NEG_INF);
                let w = E::load_first(s, b.add(whole), n - whole, E::ZERO);
                acc = E::accumulate_product(s, acc, exp_scaled::<E, S>(s, x, magic), w);
            }
        }
    }
    acc
}

/// The sum of the weights of the elements that are not below `top`.
///
/// # Safety
/// As [`bounds`].
#[inline(always)]
unsafe fn weight_of<E: Element, S: Simd>(s: S, a: *const E::T, b: *const E::T, len: usize, top: E::T) -> f64 {
    let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
    for i in (0..len).step_by(E::WIDTH) {
        let n = (len - i).min(E::WIDTH);
        // SAFETY: `n` elements remain.
        let (x, w) =
            unsafe { (E::load_first(s, a.add(i), n, E::NEG_INF), E::load_first(s, b.add(i), n, E::ZERO)) };
        let below = E::lt(s, x, E::splat(s, top));
        acc = E::accumulate(s, acc, E::select(s, below, E::splat(s, E::ZERO), w));
    }
    E::reduce(s, acc).0
}

/// The largest lane of each vector.
#[inline(always)]
fn largest<E: Element, S: Simd>(s: S, mut v: [E::V<S>; MAX_WIDTH], n: usize) -> [E::T; MAX_WIDTH] {
    let mut lanes = [E::ZERO; MAX_WIDTH];
    if n <= FEW {
        for i in 0..n {
            lanes[i] = reduce_max::<E, S>(s, v[i]);
        }
        return lanes;
    }
    E::transpose(s, &mut v[..E::WIDTH]);
    let mut half = E::WIDTH / 2;
    while half > 0 {
        for i in 0..half {
            v[i] = E::max(s, v[i], v[i + half]);
        }
        half /= 2;
    }
    // SAFETY: the array holds a vector.
    unsafe { E::store(s, v[0], lanes.as_mut_ptr()) };
    lanes
}

/// The logarithms of `n` rows. Bit `i` of the result is set where row `i` has none: a weight is negative, a term infinite
/// or NaN, the logarithm nearly zero, or what counts as zero beside the largest exponential could show.
///
/// # Safety
/// Both pointers of a row are valid for reading `len` elements.
#[inline(always)]
pub(crate) unsafe fn positive_logs<E: Element, S: Simd>(
    s: S,
    row: &impl Fn(usize) -> (*const E::T, *const E::T),
    n: usize,
    len: usize,
    log: &mut [f64; GROUP],
) -> u64 {
    // So much of the largest weight counts as zero at most.
    let cut = crate::exact::ldexp(len as f64, E::to_f64(E::CUT) as i32 + 1);
    let (mut high, mut low) = ([1.0; GROUP], [0.0; GROUP]);
    let (mut shift, mut shift_low, mut unit) = ([0.0; GROUP], [0.0; GROUP], [1.0; GROUP]);
    let mut left = 0;
    // As many rows as are still in a near cache when they are read again: their sums wait for the last one's maximum.
    let step = match len {
        0..LONG => E::WIDTH,
        _ if len <= E::BLOCK => FEW,
        _ => 1,
    };
    for j in (0..n).step_by(step) {
        let n = (n - j).min(step);
        let mut top = [E::splat(s, E::NEG_INF); MAX_WIDTH];
        let mut most = [E::splat(s, E::ZERO); MAX_WIDTH];
        for i in 0..n {
            let (a, b) = row(j + i);
            // SAFETY: the caller's promise.
            let bounds = unsafe { bounds::<E, S>(s, a, b, len) };
            (top[i], most[i]) = (bounds.top, bounds.most);
            left |= u64::from(bounds.negative) << (j + i);
        }
        let (top, most) = (largest::<E, S>(s, top, n), largest::<E, S>(s, most, n));
        let mut magics = [E::ZERO; MAX_WIDTH];
        let (mut references, mut peaks) = ([E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH]);
        // SAFETY: the arrays hold a vector.
        unsafe {
            let x = E::load(s, top.as_ptr());
            let reference = reference::<E, S>(s, x);
            let magic = magic::<E, S>(s, reference);
            E::store(s, reference, references.as_mut_ptr());
            E::store(s, magic, magics.as_mut_ptr());
            E::store(s, exp_scaled::<E, S>(s, x, magic), peaks.as_mut_ptr());
        }
        let mut sums = [[Double::splat(s, 0.0); 2]; MAX_WIDTH];
        for i in 0..n {
            left |= u64::from(E::to_f64(top[i]).abs() > NEAR) << (j + i);
            if left >> (j + i) & 1 == 0 {
                let (a, b) = row(j + i);
                // SAFETY: the caller's promise.
                sums[i] = unsafe { sum::<E, S>(s, a, b, len, E::splat(s, magics[i])) };
            }
        }
        if n <= FEW {
            for i in 0..n {
                (high[j + i], low[j + i]) = E::reduce(s, sums[i]);
            }
        } else {
            E::store_wide(s, E::reduce_all(s, &sums[..E::WIDTH]), &mut high, &mut low, j);
        }
        for i in 0..n {
            let (sum, peak) = (high[j + i], E::to_f64(peaks[i]));
            let lost = E::to_f64(most[i]) * cut;
            // (False for NaN.)
            let holds = lost < sum / TWO_64 && sum > LEAST && sum < f64::MAX;
            left |= u64::from(!holds) << (j + i);
            let n = E::to_f64(references[i]);
            (shift[j + i], shift_low[j + i], unit[j + i]) = (n * LN2_HI, n * LN2_LO, 1.0);
            if holds && (sum - peak).abs() <= REST * sum {
                let (a, b) = row(j + i);
                // SAFETY: the caller's promise.
                let weight = unsafe { weight_of::<E, S>(s, a, b, len, top[i]) };
                if (weight - 1.0).abs() <= REST {
                    (shift[j + i], shift_low[j + i], unit[j + i]) = (E::to_f64(top[i]), 0.0, peak);
                }
            }
        }
    }
    for j in (0..n).step_by(8) {
        let low = if E::COMPENSATED { load64(s, &low, j) } else { Double::splat(s, 0.0) };
        let shift = (load64(s, &shift, j), load64(s, &shift_low, j));
        store64(s, log_of(s, shift, (load64(s, &high, j), low), load64(s, &unit, j)), log, j);
    }
    for i in 0..n {
        left |= u64::from(log[i].abs() < SMALL) << i;
    }
    left & first_bits(n)
}

/// `shift + log(sum / unit)`; pairs are `(high, low)`.
#[inline(always)]
fn log_of<S: Simd>(s: S, shift: (V64<S>, V64<S>), sum: (V64<S>, V64<S>), unit: V64<S>) -> V64<S> {
    let ratio = Double::div(s, sum.0, unit);
    let rest = Double::fma(s, Double::sub(s, Double::splat(s, 0.0), ratio), unit, sum.0);
    let of_ratio = log(s, ratio);
    let (total, e) = two_sum_v(s, shift.0, of_ratio.0);
    let low = Double::add(s, shift.1, of_ratio.1);
    let low = Double::add(s, low, Double::div(s, Double::add(s, rest, sum.1), sum.0));
    Double::add(s, total, Double::add(s, e, low))
}
