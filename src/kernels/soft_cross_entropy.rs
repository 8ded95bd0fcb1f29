//! Cross-entropy of logits with probabilities `t` as labels, and its gradient, in one pass over both.
//!
//! ```text
//! loss  = -sum_c t_c log_softmax(x)_c = sum_c t_c (max - x_c) + T log1p(others / e_max)     T = sum_c t_c
//! dx_c  = scale (T p_c - t_c)
//! ```
//!
//! Probabilities are taken as given, not normalised. A class with `t_c = 0` adds nothing, whatever its logit.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Acc, Double, Element, Float, scale_pair};
use crate::kernels::logsumexp::{group_of_rows, special_max};
use crate::kernels::map::{self, Exponentials, Factor, Map, Scale};
use crate::kernels::rowsum::{MAX_WIDTH, sum_lanes, tile_max, tile_sum};
use crate::kernels::softmax::{value, values};
use crate::lines::{Kernel, Rows, Tile};
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
            let (x, t) =
                unsafe { (map::load::<E, S>(s, self.x.add(i), n), map::load::<E, S>(s, self.t.add(i), n)) };
            weighted = E::accumulate_weighted(s, weighted, t, max, x);
            total = E::accumulate(s, total, t);
        }
        (value(E::reduce(s, weighted)), value(E::reduce(s, total)))
    }
}

/// `e inverse T scale - t scale`, or, where the element type cannot hold a factor of them, step by step.
struct GradMap<E: Element> {
    exponentials: Exponentials<E>,
    t: *const E::T,
    minus: (E::T, E::T),
}

/// `e (high + low) - t (scale_high + scale_low)`: two roundings in all. `parts` are high, low and the negative
/// parts of the scale.
#[inline(always)]
fn grad<E: Element, S: Simd>(s: S, e: E::V<S>, t: E::V<S>, parts: [E::V<S>; 4]) -> E::V<S> {
    let [high, low, minus_high, minus_low] = parts;
    let small = E::fma(s, t, minus_low, E::mul(s, e, low));
    E::canonical(s, E::fma(s, e, high, E::fma(s, t, minus_high, small)))
}

/// `-scale` as two numbers.
#[inline(always)]
fn minus<E: Element>(scale: f64) -> (E::T, E::T) {
    let high = E::from_f64(-scale);
    (high, E::from_f64(-scale - E::to_f64(high)))
}

impl<E: Element> Map<E> for GradMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        let splat = |v| E::splat(s, v);
        let factor = &self.exponentials.factor;
        // SAFETY: the caller's promise.
        let (e, t) =
            unsafe { (self.exponentials.exponentials(s, i, n), map::load::<E, S>(s, self.t.add(i), n)) };
        let parts = [factor.high, factor.low, self.minus.0, self.minus.1];
        grad::<E, S>(s, e, t, parts.map(splat))
    }
}

/// `(e inverse T - t) scale` for `T` or `scale` near the ends of the range.
struct CarefulMap<E: Element> {
    exponentials: Exponentials<E>,
    t: *const E::T,
    total: E::T,
    scale: E::T,
}

impl<E: Element> Map<E> for CarefulMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        let splat = |v| E::splat(s, v);
        let factor = &self.exponentials.factor;
        // SAFETY: the caller's promise.
        let (e, t) =
            unsafe { (self.exponentials.exponentials(s, i, n), map::load::<E, S>(s, self.t.add(i), n)) };
        let p = map::scale::<E, S>(s, e, splat(factor.high), splat(factor.low));
        let difference = E::fma(s, p, splat(self.total), E::sub(s, splat(E::ZERO), t));
        E::canonical(s, E::mul(s, difference, splat(self.scale)))
    }
}

/// The factor of the exponentials as one number, if the element type holds it and its parts.
#[inline(always)]
fn single_factor<E: Element>(inverse: (f64, f64), total: f64, scale: f64) -> Option<Factor<E>> {
    let part = scale_pair(inverse, total);
    let factor = Factor::new(part, scale);
    let (low, high) = E::FACTOR_RANGE;
    let inside = |x: f64| x.abs() > low && x.abs() < high;
    (factor.is_single() && inside(part.0) && inside(scale)).then_some(factor)
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
                let e = if stored.is_null() { stored } else { stored.wrapping_add(i * len) }.cast_const();
                let scale = self.scale.get(rows.first + i);
                let factor = single_factor::<T::Ops>(group.inverse_pair(i), total, scale);
                let careful = Factor::new(group.inverse_pair(i), 1.0);
                let (shift, reference) = (group.shift[i], group.reference[i]);
                let exponentials = Exponentials { x, e, shift, reference, factor: factor.unwrap_or(careful) };
                let minus = minus::<T::Ops>(scale);
                let (scale, total) = (T::Ops::from_f64(scale), T::Ops::from_f64(total));
                // SAFETY: the caller's promise.
                unsafe {
                    if factor.is_some() {
                        let map = GradMap::<T::Ops> { exponentials, t, minus };
                        map::write_row(s, &map, rows.out[i], len, rows.stream);
                    } else {
                        let map = CarefulMap::<T::Ops> { exponentials, t, total, scale };
                        map::write_row(s, &map, rows.out[i], len, rows.stream);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<T::Ops>, per_row: *mut f64) -> u32 {
        type O<T> = <T as Float>::Ops;
        let width = <O<T> as Element>::WIDTH;
        // SAFETY: the caller's promise.
        let max = unsafe { tile_max::<O<T>, S>(s, tile.x[0], tile.len) };
        let weighted = sum_lanes!(O<T>, S, s, tile.len, |c, acc| {
            O::<T>::accumulate_weighted(s, acc, tile.at::<S>(s, 1, c), max, tile.at::<S>(s, 0, c))
        });
        let total =
            sum_lanes!(O<T>, S, s, tile.len, |c, acc| O::<T>::accumulate(s, acc, tile.at::<S>(s, 1, c)));
        let (weighted, total) = (values::<O<T>, S>(s, weighted), values::<O<T>, S>(s, total));
        // SAFETY: the caller's promise.
        let (mut group, unusual) = unsafe { tile_sum::<O<T>, S, true>(s, tile.x[0], tile.len) };
        let mut again = unusual | group.finish_others(s, tile.len);
        group.finish_log(s);
        for i in 0..tile.n {
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(weighted[i] + total[i] * group.log[i]) };
        }
        if GRAD {
            group.finish_inverse(s);
            let mut parts = [[T::default(); MAX_WIDTH]; 4];
            for i in 0..tile.n {
                let scale = self.scale.get(tile.first + i);
                match single_factor::<O<T>>(group.inverse_pair(i), total[i], scale) {
                    Some(factor) => (parts[0][i], parts[1][i]) = (factor.high, factor.low),
                    None => again |= 1 << i,
                }
                (parts[2][i], parts[3][i]) = minus::<O<T>>(scale);
            }
            // SAFETY: the arrays hold a vector.
            let parts = parts.map(|a| unsafe { O::<T>::load(s, a.as_ptr()) });
            for c in 0..tile.len {
                let dx = grad::<O<T>, S>(s, tile.at::<S>(s, 0, c), tile.at::<S>(s, 1, c), parts);
                // SAFETY: as above.
                unsafe { O::<T>::store(s, dx, tile.x[0].add(c * width)) };
            }
        }
        again
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
