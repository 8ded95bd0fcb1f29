//! Cross-entropy of logits with probabilities `t` as labels, and its gradient, in one pass over both.
//!
//! ```text
//! loss  = -sum_c t_c log_softmax(x)_c = sum_c t_c (max - x_c) + T log1p(others / e_max)     T = sum_c t_c
//! dx_c  = scale (T p_c - t_c)
//! ```
//!
//! Probabilities are taken as given, not normalised. A class with `t_c = 0` adds nothing, whatever its logit.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Acc, Double, Element, Float};
use crate::kernels::logsumexp::{group_of_rows, special_max};
use crate::kernels::map::{self, Map, Scale};
use crate::kernels::rowsum::{MAX_WIDTH, tile_sum};
use crate::kernels::softmax::{lane_sums, value};
use crate::lines::{Kernel, Rows, Tile};
use crate::math::{exp_scaled, magic};
use crate::simd::{Simd, Task};

/// The loss of each row; the operands are `(x, t)`. With the gradient when `GRAD`.
pub(crate) struct SoftCrossEntropy<T, const GRAD: bool> {
    pub(crate) scale: Scale<T>,
}

/// `(sum t (max - x), sum t)` over a row.
struct Weighted<E: Element> {
    x: *const E::T,
    t: *const E::T,
    max: E::T,
    len: usize,
}

impl<E: Element> Task for Weighted<E> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let mut weighted: Acc<S> = [Double::splat(s, 0.0); 2];
        let mut total = weighted;
        let max = E::splat(s, self.max);
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            // SAFETY: `n` elements remain.
            let (x, t) = unsafe { (map::load::<E, S>(s, self.x.add(i), n), map::load::<E, S>(s, self.t.add(i), n)) };
            weighted = E::accumulate_weighted(s, weighted, t, max, x);
            total = E::accumulate(s, total, t);
        }
        (value(E::reduce(s, weighted)), value(E::reduce(s, total)))
    }
}

/// `e * first * second - t * scale`, the exponentials stored or computed again.
struct GradMap<E: Element> {
    x: *const E::T,
    e: *const E::T,
    t: *const E::T,
    shift: E::T,
    reference: E::T,
    inverse: E::T,
    total: E::T,
    scale: E::T,
}

/// `scale (e inverse T - t)`.
#[inline(always)]
fn grad<E: Element, S: Simd>(
    s: S,
    e: E::V<S>,
    t: E::V<S>,
    inverse: E::V<S>,
    total: E::V<S>,
    scale: E::V<S>,
) -> E::V<S> {
    let p = E::mul(s, e, inverse);
    let difference = E::fma(s, p, total, E::sub(s, E::splat(s, E::ZERO), t));
    E::canonical(s, E::mul(s, difference, scale))
}

impl<E: Element> Map<E> for GradMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        let splat = |v| E::splat(s, v);
        // SAFETY: the caller's promise.
        let t = unsafe { map::load::<E, S>(s, self.t.add(i), n) };
        let e = if self.e.is_null() {
            // SAFETY: the caller's promise.
            let x = unsafe { map::load::<E, S>(s, self.x.add(i), n) };
            exp_scaled::<E, S>(s, E::sub(s, x, splat(self.shift)), magic::<E, S>(s, splat(self.reference)))
        } else {
            // SAFETY: the caller's promise.
            unsafe { map::load::<E, S>(s, self.e.add(i), n) }
        };
        grad::<E, S>(s, e, t, splat(self.inverse), splat(self.total), splat(self.scale))
    }
}

impl<T: Float, const GRAD: bool> Kernel for SoftCrossEntropy<T, GRAD> {
    type E = T::Ops;
    const INPUTS: usize = 2;
    const WRITES: bool = GRAD;
    const PER_ROW: bool = true;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, per_row: *mut f64) {
        // SAFETY: the caller's promise.
        let (mut group, special) = unsafe { group_of_rows::<T::Ops, S>(s, rows, u32::MAX, GRAD) };
        group.finish_inverse(s);
        for i in 0..rows.n {
            let (x, t, len) = (rows.x[0][i], rows.x[1][i], rows.len);
            if special >> i & 1 == 1 {
                // SAFETY: the caller's promise.
                unsafe {
                    per_row.add(i).write(special_loss::<T::Ops>(x, t, len));
                    if GRAD {
                        map::fill::<T::Ops>(rows.out[i], len, T::Ops::NAN);
                    }
                }
                continue;
            }
            let (weighted, total) = s.call(Weighted::<T::Ops> { x, t, max: group.max[i], len });
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(weighted + total * group.log[i]) };
            if GRAD {
                let stored = rows.stored;
                let map = GradMap::<T::Ops> {
                    x,
                    e: if stored.is_null() { stored } else { stored.wrapping_add(i * len) }.cast_const(),
                    t,
                    shift: group.shift[i],
                    reference: group.reference[i],
                    inverse: T::Ops::from_f64(group.inverse[i]),
                    total: T::Ops::from_f64(total),
                    scale: T::Ops::from_f64(self.scale.get(rows.first + i)),
                };
                // SAFETY: the caller's promise.
                unsafe { map::write_row(s, &map, rows.out[i], len, rows.stream) };
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<T::Ops>, per_row: *mut f64) -> u32 {
        type O<T> = <T as Float>::Ops;
        let width = <O<T> as Element>::WIDTH;
        // SAFETY: `c < len`.
        let at = |x: *mut T, c: usize| unsafe { O::<T>::load(s, x.add(c * width)) };
        let mut max = O::<T>::splat(s, O::<T>::NEG_INF);
        for c in 0..tile.len {
            max = O::<T>::max(s, at(tile.x[0], c), max);
        }
        let zero: Acc<S> = [Double::splat(s, 0.0); 2];
        let (mut weighted, mut total) = ([zero; MAX_WIDTH], [zero; MAX_WIDTH]);
        for c in 0..tile.len {
            let (x, t, l) = (at(tile.x[0], c), at(tile.x[1], c), c % width);
            weighted[l] = O::<T>::accumulate_weighted(s, weighted[l], t, max, x);
            total[l] = O::<T>::accumulate(s, total[l], t);
        }
        let weighted = lane_sums::<O<T>, S>(s, &mut weighted, tile.len);
        let total = lane_sums::<O<T>, S>(s, &mut total, tile.len);
        // SAFETY: the caller's promise.
        let (mut group, unusual) = unsafe {
            if GRAD {
                tile_sum::<O<T>, S, true>(s, tile.x[0], tile.len)
            } else {
                tile_sum::<O<T>, S, false>(s, tile.x[0], tile.len)
            }
        };
        let dominated = group.finish_others(s, tile.len);
        group.finish_log(s);
        for i in 0..tile.n {
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(weighted[i] + total[i] * group.log[i]) };
        }
        if GRAD {
            group.finish_inverse(s);
            let (mut totals, mut scales) = ([T::default(); MAX_WIDTH], [T::default(); MAX_WIDTH]);
            for i in 0..tile.n {
                totals[i] = O::<T>::from_f64(total[i]);
                scales[i] = O::<T>::from_f64(self.scale.get(tile.first + i));
            }
            let inverse = group.inverse.map(O::<T>::from_f64);
            // SAFETY: the arrays hold a vector.
            let [inverse, totals, scales] = [inverse, totals, scales].map(|a| unsafe { O::<T>::load(s, a.as_ptr()) });
            for c in 0..tile.len {
                let dx = grad::<O<T>, S>(s, at(tile.x[0], c), at(tile.x[1], c), inverse, totals, scales);
                // SAFETY: as above.
                unsafe { O::<T>::store(s, dx, tile.x[0].add(c * width)) };
            }
        }
        unusual | dominated
    }
}

/// The loss of a row with NaN, with +inf, or of -inf alone, by the formula itself.
///
/// # Safety
/// `x` and `t` are valid for reading `len` elements.
#[inline(never)]
unsafe fn special_loss<E: Element>(x: *const E::T, t: *const E::T, len: usize) -> f64 {
    // SAFETY: the caller's promise.
    let max = unsafe { special_max::<E>(x, len) };
    let mut loss = if max.is_nan() { f64::NAN } else { 0.0 };
    for c in 0..len {
        // SAFETY: `c < len`.
        let (x, t) = unsafe { (E::to_f64(x.add(c).read()), E::to_f64(t.add(c).read())) };
        if t != 0.0 {
            loss += t * (max - x);
        }
    }
    loss
}
