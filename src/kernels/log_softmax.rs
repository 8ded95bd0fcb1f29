//! `log_softmax(x)_c = x_c - logsumexp(x)` and its gradient.
//!
//! ```text
//! y_c   = (x_c - max) - log1p(others / e_max)
//! dx_c  = g_c - exp(y_c) sum_k g_k
//! ```
//!
//! Both parts of `y` are negative: nothing cancels, also where one class dominates.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::value;
use crate::float::{Acc, Double, Element};
use crate::kernels::logsumexp::{group_logs, offset_factor, put_logsumexp, special_max};
use crate::kernels::map::{self, Map};
use crate::kernels::rowsum::{Group, MAX_WIDTH, band_sums, sum_lanes};
use crate::kernels::temperature::Temperature;
use crate::lines::{Band, Kernel, Rows};
use crate::math::{exp_scaled, exp_wide, magic};
use crate::simd::{Simd, Task, map_each, prefetch};
use std::marker::PhantomData;

/// Log-softmax, one result per element; the result per row is logsumexp.
pub(crate) struct LogSoftmax<E> {
    pub(crate) temperature: Temperature,
    pub(crate) element: PhantomData<E>,
}

struct ForwardMap<E: Element> {
    x: *const E::T,
    max: E::T,
    log: E::T,
}

impl<E: Element> Map<E> for ForwardMap<E> {
    const OVERLAPS: bool = true;
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let x = unsafe { map::load::<E, S>(s, self.x.add(i), n) };
        E::sub(s, E::sub(s, x, E::splat(s, self.max)), E::splat(s, self.log))
    }
}

/// [`ForwardMap`] with a temperature: `(x - max) (a + b) - log`.
struct TemperedMap<E: Element> {
    x: *const E::T,
    max: E::T,
    log: E::T,
    heat: [E::T; 2],
}

#[inline(always)]
fn tempered<E: Element, S: Simd>(
    s: S,
    x: E::V<S>,
    max: E::V<S>,
    log: E::V<S>,
    heat: [E::V<S>; 2],
) -> E::V<S> {
    let d = E::sub(s, x, max);
    let q = E::mul(s, d, heat[0]);
    let y = E::fma(s, d, heat[0], E::sub(s, E::mul(s, d, heat[1]), log));
    // The low part of an infinite quotient is no number.
    let infinite = E::lt(s, q, E::splat(s, E::from_f64(-E::to_f64(E::MAX))));
    E::select(s, infinite, q, y)
}

impl<E: Element> Map<E> for TemperedMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let x = unsafe { map::load::<E, S>(s, self.x.add(i), n) };
        let (max, log) = (E::splat(s, self.max), E::splat(s, self.log));
        tempered::<E, S>(s, x, max, log, map_each(self.heat, |h| E::splat(s, h)))
    }
}

impl<E: Element> Kernel for LogSoftmax<E> {
    type E = E;
    const INPUTS: usize = 1;
    const WRITES: bool = true;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, group: &mut Group<E>, per_row: *mut f64) {
        // SAFETY: the caller's promise.
        let special = unsafe { group_logs::<E, S>(s, rows, group, &self.temperature, u64::MAX, false) };
        if !per_row.is_null() {
            // SAFETY: as above.
            unsafe { put_logsumexp(s, rows, group, special, per_row) };
        }
        for i in 0..rows.n {
            let (x, out) = (rows.x(0, i), rows.out(i));
            if special >> i & 1 == 1 {
                // SAFETY: the caller's promise.
                unsafe { special_row::<E>(x, out, rows.len) };
                continue;
            }
            let (max, log) = (group.max[i], E::from_f64(group.log[i]));
            // SAFETY: the caller's promise.
            unsafe {
                match group.heat(i) {
                    None => {
                        map::write_row(s, &ForwardMap::<E> { x, max, log }, out, rows.len, rows.stream);
                    }
                    Some(heat) => {
                        let map = TemperedMap::<E> { x, max, log, heat };
                        map::write_row(s, &map, out, rows.len, rows.stream);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(&self, s: S, band: &Band<E>, group: &mut Group<E>, per_row: *mut f64) -> u64 {
        // SAFETY: the caller's promise.
        let unusual = unsafe { band_sums::<E, S, false>(s, band, group, &self.temperature) };
        let dominated = group.finish_log(s, band.len);
        if !per_row.is_null() {
            // SAFETY: the caller's promise.
            unsafe { group.put_logsumexp(per_row) };
        }
        for j in (0..band.n).step_by(E::WIDTH) {
            let max = Group::<E>::load(s, &group.max, j);
            let log = E::narrow(s, E::load_wide(s, &group.log, &group.log_low, j));
            if self.temperature.is_one() {
                for c in 0..band.len {
                    band.put(s, j, c, E::sub(s, E::sub(s, band.at(s, 0, j, c), max), log));
                }
            } else {
                let heat = group.heats(s, j);
                for c in 0..band.len {
                    band.put(s, j, c, tempered::<E, S>(s, band.at(s, 0, j, c), max, log, heat));
                }
            }
        }
        unusual | dominated
    }
}

/// A row with NaN (all NaN), with +inf (NaN there, -inf elsewhere), or of -inf alone (all NaN).
///
/// # Safety
/// `x` is valid for reading and `out` for writing `len` elements; they may be the same.
#[inline(never)]
unsafe fn special_row<E: Element>(x: *const E::T, out: *mut E::T, len: usize) {
    // SAFETY: the caller's promise.
    let max = unsafe { special_max::<E>(x, len) };
    for c in 0..len {
        // SAFETY: `c < len`.
        let y = E::to_f64(unsafe { x.add(c).read() }) - max;
        let y = if y.is_nan() { E::NAN } else { E::from_f64(y) };
        // SAFETY: as above.
        unsafe { out.add(c).write(y) };
    }
}

/// `g - exp(y) sum g`, divided by the temperature; the operands are `(g, y)`.
pub(crate) struct LogSoftmaxBackward<E> {
    pub(crate) temperature: Temperature,
    pub(crate) element: PhantomData<E>,
}

/// `sum_c x_c` over a row, as a sum over logical lanes.
struct RowTotal<E: Element> {
    x: *const E::T,
    len: usize,
    /// What to prefetch.
    next: [*const E::T; 2],
}

impl<E: Element> Task for RowTotal<E> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let RowTotal { x, len, next } = self;
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        let mut i = 0;
        while i + E::WIDTH <= len {
            prefetch(next[0].wrapping_add(i));
            prefetch(next[1].wrapping_add(i));
            // SAFETY: a vector remains.
            acc = unsafe { E::accumulate_from(s, acc, x.add(i)) };
            i += E::WIDTH;
        }
        if i < len {
            prefetch(next[0].wrapping_add(i));
            prefetch(next[1].wrapping_add(i));
            // SAFETY: `len - i` elements remain.
            acc = E::accumulate(s, acc, unsafe { E::load_first(s, x.add(i), len - i, E::ZERO) });
        }
        E::reduce(s, acc)
    }
}

struct BackwardMap<E: Element> {
    g: *const E::T,
    y: *const E::T,
    /// As [`minus_sum`] gives it.
    factor: [E::T; 4],
}

/// `g + e (high + low)`. Below `limit`, the exponential of a number has one scale for all; elsewhere its own. (Which of
/// the two depends on the number and its row alone: their bits may differ.)
#[inline(always)]
fn backward<E: Element, S: Simd>(
    s: S,
    g: E::V<S>,
    y: E::V<S>,
    [high, low, offset, limit]: [E::V<S>; 4],
) -> E::V<S> {
    let zero = E::splat(s, E::ZERO);
    let mut e = exp_scaled::<E, S>(s, y, magic::<E, S>(s, E::sub(s, zero, offset)));
    let near = E::lt(s, y, limit);
    if E::bits(s, near) != (1 << E::WIDTH) - 1 {
        e = E::select(s, near, e, exp_wide::<E, S>(s, y, zero, offset));
    }
    // The low part first: last, both roundings would be those of a sum that may be twice the larger term.
    E::canonical(s, E::fma(s, e, high, E::fma(s, e, low, g)))
}

/// `-sum 2^-offset` as two numbers, the offset, and the limit of `backward`: logarithms of probabilities are not
/// positive. What the common scale cuts off below `2^-175` (`f32`) could be seen if the sum were large.
#[inline(always)]
fn minus_sum<E: Element>(sum: (f64, f64)) -> [E::T; 4] {
    let total = value(sum);
    let (high, offset) = offset_factor::<E>(-total);
    let power = if E::to_f64(offset) == 0.0 { 1.0 } else { E::OFFSET_POWER };
    // Nothing for what is lost to underflow, nor beside an infinity.
    let rest = (-total * power - E::to_f64(high)) + ((total - sum.0) - sum.1) * power;
    let low = if rest.is_finite() { E::from_f64(rest) } else { E::ZERO };
    [high, low, offset, if total.abs() < 1e6 { E::ONE } else { E::NEG_INF }]
}

impl<E: Element> Map<E> for BackwardMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (g, y) =
            unsafe { (map::load::<E, S>(s, self.g.add(i), n), map::load::<E, S>(s, self.y.add(i), n)) };
        backward::<E, S>(s, g, y, map_each(self.factor, |v| E::splat(s, v)))
    }
}

/// The same, times the reciprocal of a temperature.
struct TemperedBackwardMap<E: Element> {
    map: BackwardMap<E>,
    cooling: E::T,
}

impl<E: Element> Map<E> for TemperedBackwardMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        E::mul(s, unsafe { self.map.at(s, i, n) }, E::splat(s, self.cooling))
    }
}

impl<E: Element> Kernel for LogSoftmaxBackward<E> {
    type E = E;
    const INPUTS: usize = 2;
    const WRITES: bool = true;
    /// As for [`SoftmaxBackward`](crate::kernels::softmax::SoftmaxBackward), but with an exponential for each element.
    const SHORT: usize = 12;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, _group: &mut Group<E>, _per_row: *mut f64) {
        for i in 0..rows.n {
            let (g, y) = (rows.x(0, i), rows.x(1, i));
            let next = map_each([g, y], |x| x.wrapping_offset(rows.ahead));
            let factor = minus_sum::<E>(s.call(RowTotal::<E> { x: g, len: rows.len, next }));
            let map = BackwardMap::<E> { g, y, factor };
            // SAFETY: the caller's promise.
            unsafe {
                if self.temperature.is_one() {
                    map::write_row(s, &map, rows.out(i), rows.len, rows.stream);
                } else {
                    let cooling = self.temperature.cooling::<E>(rows.first + i);
                    let map = TemperedBackwardMap { map, cooling };
                    map::write_row(s, &map, rows.out(i), rows.len, rows.stream);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(&self, s: S, band: &Band<E>, _group: &mut Group<E>, _per_row: *mut f64) -> u64 {
        for j in (0..band.n).step_by(E::WIDTH) {
            let sums = sum_lanes!(E, S, s, band.len, |c, acc| E::accumulate(s, acc, band.at(s, 0, j, c)));
            let (mut high, mut low) = ([0.0; MAX_WIDTH], [0.0; MAX_WIDTH]);
            E::store_wide(s, sums, &mut high, &mut low, 0);
            let mut factors = [[E::ZERO; MAX_WIDTH]; 4];
            for i in 0..E::WIDTH {
                let factor = minus_sum::<E>((high[i], low[i]));
                for part in 0..4 {
                    factors[part][i] = factor[part];
                }
            }
            // SAFETY: the arrays hold a vector.
            let factor = map_each(factors.each_ref(), |a| unsafe { E::load(s, a.as_ptr()) });
            for c in 0..band.len {
                let dx = backward::<E, S>(s, band.at(s, 0, j, c), band.at(s, 1, j, c), factor);
                band.put(s, j, c, dx);
            }
            self.temperature.cool_tile(s, band, j);
        }
        0
    }
}
