//! Cross-entropy of logits with probabilities `t` as labels, and its gradient, in one pass over both.
//!
//! ```text
//! loss  = -sum_c t_c log_softmax(x)_c = sum_c t_c (max - x_c) + T log1p(others / e_max)     T = sum_c t_c
//! dx_c  = scale (T p_c - t_c)
//! ```
//!
//! Probabilities are taken as given, not normalised. A class with `t_c = 0` adds nothing, whatever its logit.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::{add_pairs, value};
use crate::float::{Double, Element, Float, load64, mul_pairs_v, or_v, store64, two_sum_v};
use crate::kernels::logsumexp::{group_logs, special_max};
use crate::kernels::map::{self, Exponentials, Factor, Map, Scale, product_of};
use crate::kernels::rowsum::{Group, MAX_WIDTH, band_sums, sum_lanes, tile_max};
use crate::kernels::temperature::Temperature;
use crate::lines::{Band, GROUP, Kernel, Rows};
use crate::math::TWO_64;
use crate::simd::{Simd, Task, map_each, prefetch};

/// The loss of each row; the operands are `(x, t)`. With the gradient when `GRAD`.
pub(crate) struct SoftCrossEntropy<T, const GRAD: bool> {
    pub(crate) scale: Scale<T>,
}

/// `(sum t (max - x), sum t)` over a row, each as `(high, low)`.
struct Weighted<'a, E: Element> {
    x: *const E::T,
    t: *const E::T,
    max: E::T,
    len: usize,
    /// How many elements ahead to prefetch of `t`.
    ahead: isize,
    /// Whether labels of 0 are looked for; set where they have to be.
    skip: &'a mut bool,
}

impl<E: Element> Task for Weighted<'_, E> {
    type Out = [(f64, f64); 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [(f64, f64); 2] {
        if !*self.skip {
            let sums = self.sums::<S, false>(s);
            // Perhaps 0 times infinity, which counts as 0, and then in the next rows too.
            *self.skip = sums[0].0.is_nan() || sums[0].1.is_nan();
            if !*self.skip {
                return sums;
            }
        }
        self.sums::<S, true>(s)
    }
}

impl<E: Element> Weighted<'_, E> {
    /// The sums; without `SKIP` a label of 0 is an ordinary factor.
    #[inline(always)]
    fn sums<S: Simd, const SKIP: bool>(&self, s: S) -> [(f64, f64); 2] {
        let &Weighted { x, t, len, ahead, .. } = self;
        let mut sums = [[Double::splat(s, 0.0); 2]; 2];
        let max = E::splat(s, self.max);
        let mut i = 0;
        while !SKIP && i + E::WIDTH <= len {
            prefetch(t.wrapping_add(i).wrapping_offset(ahead));
            // SAFETY: a vector remains.
            sums = unsafe { E::accumulate_weighted_from(s, sums, t.add(i), max, x.add(i)) };
            i += E::WIDTH;
        }
        for i in (i..len).step_by(E::WIDTH) {
            let n = (len - i).min(E::WIDTH);
            // SAFETY: `n` elements remain.
            let (x, t) = unsafe { (map::load::<E, S>(s, x.add(i), n), map::load::<E, S>(s, t.add(i), n)) };
            sums[0] = E::accumulate_weighted(s, sums[0], t, max, x);
            sums[1] = E::accumulate(s, sums[1], t);
        }
        [E::reduce(s, sums[0]), E::reduce(s, sums[1])]
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
pub(crate) fn grad<E: Element, S: Simd>(s: S, e: E::V<S>, t: E::V<S>, parts: [E::V<S>; 4]) -> E::V<S> {
    let [high, low, minus_high, minus_low] = parts;
    let small = E::fma(s, t, minus_low, E::mul(s, e, low));
    E::canonical(s, E::fma(s, e, high, E::fma(s, t, minus_high, small)))
}

/// `-scale` as two numbers.
#[inline(always)]
pub(crate) fn minus<E: Element>(scale: (f64, f64)) -> (E::T, E::T) {
    let high = E::from_f64(-scale.0);
    (high, E::from_f64((-scale.0 - E::to_f64(high)) - scale.1))
}

/// Below this sum of the targets, of `f64`, the rounding errors of products fall below the smallest number.
const FAINT: f64 = 1.0 / HUGE / HUGE;
/// `2^448`.
const HUGE: f64 = TWO_64 * TWO_64 * TWO_64 * TWO_64 * TWO_64 * TWO_64 * TWO_64;

/// What such targets are multiplied by, and the loss divided by in the end; 1 for others.
#[inline(always)]
pub(crate) fn magnifier<E: Element>(total: f64) -> f64 {
    if E::COMPENSATED && total != 0.0 && total.abs() < FAINT { HUGE } else { 1.0 }
}

/// `loss(by) / by`; without a factor where that overflows: targets of both signs may have a tiny sum and be large.
#[inline(always)]
pub(crate) fn magnified(by: f64, loss: impl Fn(f64) -> f64) -> f64 {
    let result = loss(by) / by;
    if result.is_finite() || by == 1.0 { result } else { loss(1.0) }
}

/// The two sums of [`Weighted`] for the rows of a group, high and low parts apart.
struct RowTotals {
    weighted: [[f64; GROUP]; 2],
    total: [[f64; GROUP]; 2],
}

impl RowTotals {
    const ZERO: RowTotals = RowTotals { weighted: [[0.0; GROUP]; 2], total: [[0.0; GROUP]; 2] };

    fn total(&self, i: usize) -> (f64, f64) {
        (self.total[0][i], self.total[1][i])
    }

    /// `weighted + total log`, for `f64` in pairs: the roundings would add up to more than the logarithm's error.
    /// Bit `i` of the second result is set where the first sum is not finite, or the second is tiny.
    #[inline(always)]
    fn losses<E: Element, S: Simd>(&self, s: S, group: &Group<E>) -> ([f64; GROUP], u64) {
        let mut losses = [0.0; GROUP];
        let mut overflow = 0;
        for j in (0..group.lanes()).step_by(8) {
            let weighted = [load64(s, &self.weighted[0], j), load64(s, &self.weighted[1], j)];
            let total = [load64(s, &self.total[0], j), load64(s, &self.total[1], j)];
            let log = [load64(s, &group.log, j), load64(s, &group.log_low, j)];
            let plain = Double::add(s, weighted[0], Double::mul(s, total[0], log[0]));
            let loss = if E::COMPENSATED {
                let product = mul_pairs_v(s, total, log);
                let (sum, e) = two_sum_v(s, weighted[0], product[0]);
                let low = Double::add(s, weighted[1], product[1]);
                let sum = Double::add(s, sum, Double::add(s, e, low));
                // Near overflow the low parts are no numbers.
                or_v(s, sum, plain)
            } else {
                plain
            };
            store64(s, loss, &mut losses, j);
            let (minus, infinity) = (Double::splat(s, f64::NEG_INFINITY), Double::splat(s, f64::INFINITY));
            let finite = Double::bits(s, Double::lt(s, minus, weighted[0]))
                & Double::bits(s, Double::lt(s, weighted[0], infinity));
            overflow |= u64::from(!finite & 0xff) << j;
        }
        for i in 0..group.lanes() {
            overflow |= u64::from(magnifier::<E>(self.total[0][i]) != 1.0) << i;
        }
        (losses, overflow)
    }
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
        grad::<E, S>(s, e, t, map_each(parts, splat))
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
pub(crate) fn single_factor<E: Element>(
    inverse: (f64, f64),
    total: (f64, f64),
    scale: (f64, f64),
) -> Option<Factor<E>> {
    let part = product_of::<E>(inverse, total);
    let factor = Factor::new(part, scale);
    let (low, high) = E::FACTOR_RANGE;
    let inside = |x: f64| x.abs() > low && x.abs() < high;
    (factor.is_single() && inside(part.0) && inside(scale.0)).then_some(factor)
}

impl<T: Float, const GRAD: bool> Kernel for SoftCrossEntropy<T, GRAD> {
    type E = T::Ops;
    const INPUTS: usize = 2;
    const WRITES: bool = GRAD;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, group: &mut Group<T::Ops>, per_row: *mut f64) {
        // SAFETY: the caller's promise.
        let special = unsafe { group_logs::<T::Ops, S>(s, rows, group, &Temperature::One, u64::MAX, GRAD) };
        group.finish_inverse(s);
        let (mut sums, mut skip) = (RowTotals::ZERO, false);
        for i in 0..rows.n {
            if special >> i & 1 == 0 {
                let (x, t, max) = (rows.x(0, i), rows.x(1, i), group.max[i]);
                let (len, ahead, skip) = (rows.len, rows.ahead, &mut skip);
                let [weighted, total] = s.call(Weighted::<T::Ops> { x, t, max, len, ahead, skip });
                (sums.weighted[0][i], sums.weighted[1][i]) = weighted;
                (sums.total[0][i], sums.total[1][i]) = total;
            }
        }
        let (losses, overflow) = sums.losses(s, group);
        for i in 0..rows.n {
            let (x, t, len) = (rows.x(0, i), rows.x(1, i), rows.len);
            // SAFETY: the caller's promise.
            let loss = unsafe {
                if special >> i & 1 == 1 {
                    special_loss::<T::Ops>(x, t, len)
                } else if overflow >> i & 1 == 1 {
                    large_loss::<T::Ops>(x, t, len, group.max[i], sums.total(i).0, group.log[i])
                } else {
                    losses[i]
                }
            };
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(loss) };
            if GRAD && special >> i & 1 == 1 {
                // SAFETY: the caller's promise.
                unsafe { map::fill::<T::Ops>(rows.out(i), len, T::Ops::NAN) };
            } else if GRAD {
                let e = rows.stored(i).cast_const();
                let (total, scale) = (sums.total(i), self.scale.get(rows.first + i));
                let factor = single_factor::<T::Ops>(group.inverse_pair(i), total, scale);
                let careful = Factor::new(group.inverse_pair(i), (1.0, 0.0));
                let (shift, reference) = (group.shift[i], group.reference[i]);
                let factors = factor.unwrap_or(careful);
                let exponentials = Exponentials { x, e, shift, reference, heat: None, factor: factors };
                let minus = minus::<T::Ops>(scale);
                let (scale, total) = (T::Ops::from_f64(scale.0), T::Ops::from_f64(value(total)));
                // SAFETY: the caller's promise.
                unsafe {
                    if factor.is_some() {
                        let map = GradMap::<T::Ops> { exponentials, t, minus };
                        map::write_row(s, &map, rows.out(i), len, rows.stream);
                    } else {
                        let map = CarefulMap::<T::Ops> { exponentials, t, total, scale };
                        map::write_row(s, &map, rows.out(i), len, rows.stream);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(
        &self,
        s: S,
        band: &Band<T::Ops>,
        group: &mut Group<T::Ops>,
        per_row: *mut f64,
    ) -> u64 {
        type O<T> = <T as Float>::Ops;
        let width = <O<T> as Element>::WIDTH;
        let mut sums = RowTotals::ZERO;
        for j in (0..band.n).step_by(width) {
            // SAFETY: the caller's promise.
            let max = unsafe { tile_max::<O<T>, S>(s, band.tile(0, j), band.len) };
            let weighted = sum_lanes!(O<T>, S, s, band.len, |c, acc| {
                O::<T>::accumulate_weighted(s, acc, band.at(s, 1, j, c), max, band.at(s, 0, j, c))
            });
            let total = sum_lanes!(O<T>, S, s, band.len, |c, acc| {
                O::<T>::accumulate(s, acc, band.at(s, 1, j, c))
            });
            let [high, low] = &mut sums.weighted;
            O::<T>::store_wide(s, weighted, high, low, j);
            let [high, low] = &mut sums.total;
            O::<T>::store_wide(s, total, high, low, j);
        }
        // SAFETY: the caller's promise.
        let unusual = unsafe { band_sums::<O<T>, S, true>(s, band, group, &Temperature::One) };
        let mut again = unusual | group.finish_log(s, band.len);
        let (losses, overflow) = sums.losses(s, group);
        again |= overflow;
        // SAFETY: `per_row` has room for `n` results.
        unsafe { std::ptr::copy_nonoverlapping(losses.as_ptr(), per_row, band.n) };
        if GRAD {
            group.finish_inverse(s);
            for j in (0..band.n).step_by(width) {
                let mut parts = [[T::default(); MAX_WIDTH]; 4];
                for i in 0..width.min(band.n - j) {
                    let scale = self.scale.get(band.first + j + i);
                    match single_factor::<O<T>>(group.inverse_pair(j + i), sums.total(j + i), scale) {
                        Some(factor) => (parts[0][i], parts[1][i]) = (factor.high, factor.low),
                        None => again |= 1 << (j + i),
                    }
                    (parts[2][i], parts[3][i]) = minus::<O<T>>(scale);
                }
                // SAFETY: the arrays hold a vector.
                let parts = map_each(parts, |a| unsafe { O::<T>::load(s, a.as_ptr()) });
                for c in 0..band.len {
                    let dx = grad::<O<T>, S>(s, band.at(s, 0, j, c), band.at(s, 1, j, c), parts);
                    band.put(s, j, c, dx);
                }
            }
        }
        again
    }
}

/// The loss of a row whose sum of `t (max - x)` is not finite, or whose sum of `t` is tiny, from halves. For `t >= 0` all
/// terms have one sign, so that their roundings stay within two units of the sum.
///
/// # Safety
/// `x` and `t` are valid for reading `len` elements.
#[inline(never)]
unsafe fn large_loss<E: Element>(
    x: *const E::T,
    t: *const E::T,
    len: usize,
    max: E::T,
    total: f64,
    log: f64,
) -> f64 {
    let half = 0.5 * E::to_f64(max);
    magnified(magnifier::<E>(total), |by| {
        let mut sum = (0.5 * (total * by * log), 0.0);
        for c in 0..len {
            // SAFETY: `c < len`.
            let (x, t) = unsafe { (E::to_f64(x.add(c).read()), E::to_f64(t.add(c).read())) };
            if t != 0.0 {
                sum = add_pairs(sum, (t * by * (half - 0.5 * x), 0.0));
            }
        }
        2.0 * value(sum)
    })
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
