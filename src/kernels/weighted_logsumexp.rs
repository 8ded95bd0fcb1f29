//! The logarithm of a weighted sum of exponentials, its sign, and its gradient.
//!
//! ```text
//! lse   = log |sum_c b_c exp(a_c)| = a_m + log |b_m| + log |1 + r|      r = sum_{c != m} b_c exp(a_c - a_m) / b_m
//! da_c  = g b_c exp(a_c - lse)
//! ```
//!
//! `m` is the element whose term `|b_m| exp(a_m)` is the largest, but for a factor below 2: not that of the largest `a`,
//! whose weight may be tiny. Terms are mantissas and powers of two, `b = m 2^k`, so neither a huge weight nor a huge
//! exponential overflows; where `a_c` is `a_m` a term is the weight itself, so that such terms cancel exactly. All of it
//! is computed in `f64`, products and sums with a low part, so that the error is that of the exponentials.
//!
//! Rows without negative weights are first tried as [`crate::kernels::positive_sum`]. What decides is in the row itself, and
//! so are the bits.
//!
//! An element of weight 0 does not count, whatever its `a` is.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::frexp;
use crate::float::{Acc, Double, Element, Float, V64, load64, store64, two_sum_v};
use crate::kernels::positive_sum::positive_logs;
use crate::kernels::rowsum::MAX_WIDTH;
use crate::lines::{GROUP, PerRow, Plan};
use crate::math::{TWO_64, exp_parts, exp_wide, log, scale_wide};
use crate::shape::View;
use crate::simd::{Simd, Task, map_each};
use std::ops::Range;

/// The smallest positive number: less is zero.
const TINY: f64 = 5e-324;
/// From here on the rounding of `a + log |b|` could hide which term is the largest.
const LARGE: f64 = (1u64 << 40) as f64;

/// Vectors of `f64` that a vector of elements becomes.
#[inline(always)]
const fn parts<E: Element>() -> usize {
    if E::COMPENSATED { 1 } else { 2 }
}

/// A weight: its magnitude `m 2^k` with `1 <= m < 2`. Where it is zero, infinite or NaN, `m` and `k` may be anything.
struct Weight<S: Simd> {
    size: V64<S>,
    m: V64<S>,
    k: V64<S>,
}

#[inline(always)]
fn weight<E: Element, S: Simd>(s: S, b: V64<S>) -> Weight<S> {
    let size = Double::max(s, b, Double::sub(s, Double::splat(s, 0.0), b));
    if !E::COMPENSATED {
        // (Numbers of `f32` are normal as `f64`.)
        let (m, k) = s.split_exponent(size);
        return Weight { size, m, k };
    }
    let small = Double::lt(s, size, Double::splat(s, f64::MIN_POSITIVE));
    let power = Double::splat(s, TWO_64);
    let (m, k) = s.split_exponent(Double::select(s, small, Double::mul(s, size, power), size));
    let k = Double::select(s, small, Double::sub(s, k, Double::splat(s, 64.0)), k);
    Weight { size, m, k }
}

/// `v` with the sign of `of`.
#[inline(always)]
fn signed<S: Simd>(s: S, v: V64<S>, of: V64<S>) -> V64<S> {
    let zero = Double::splat(s, 0.0);
    Double::select(s, Double::lt(s, of, zero), Double::sub(s, zero, v), v)
}

/// `a + k ln 2`: the logarithm of a term but for that of a mantissa; -inf where the weight is 0.
#[inline(always)]
fn size_of_term<S: Simd>(s: S, a: V64<S>, w: &Weight<S>) -> V64<S> {
    let counts = Double::lt(s, Double::splat(s, 0.0), w.size);
    let log = Double::fma(s, w.k, Double::splat(s, std::f64::consts::LN_2), a);
    Double::select(s, counts, log, Double::splat(s, f64::NEG_INFINITY))
}

/// The difference of two numbers and its rounding error, which `f32` has no need of.
#[inline(always)]
fn difference<E: Element, S: Simd>(s: S, a: V64<S>, b: V64<S>) -> (V64<S>, V64<S>) {
    let zero = Double::splat(s, 0.0);
    if E::COMPENSATED { two_sum_v(s, a, Double::sub(s, zero, b)) } else { (Double::sub(s, a, b), zero) }
}

/// What is known of a row before the logarithms.
enum Found {
    /// The index of the largest term.
    Largest(usize),
    /// No term is other than 0.
    Nothing,
    /// A term that is infinite or NaN.
    Special,
}

/// The largest term of a row.
///
/// # Safety
/// Both pointers are valid for reading `len` elements.
#[inline(always)]
unsafe fn largest<E: Element, S: Simd>(s: S, a: *const E::T, b: *const E::T, len: usize) -> Found {
    let load = |c: usize| {
        let n = (len - c).min(E::WIDTH);
        // SAFETY: as many elements remain.
        unsafe {
            let a = E::load_first(s, a.add(c), n, E::NEG_INF);
            (E::wide(s, a), E::wide(s, E::load_first(s, b.add(c), n, E::ZERO)))
        }
    };
    let (tiny, infinity) = (Double::splat(s, TINY), Double::splat(s, f64::INFINITY));
    let mut top = Double::splat(s, f64::NEG_INFINITY);
    let mut usual = 0xff;
    for c in (0..len).step_by(E::WIDTH) {
        let (a, b) = load(c);
        for i in 0..parts::<E>() {
            let w = weight::<E, S>(s, b[i]);
            let below = |v| Double::bits(s, Double::lt(s, v, infinity));
            usual &= below(a[i]) & below(w.size) | Double::bits(s, Double::lt(s, w.size, tiny));
            top = Double::max(s, size_of_term(s, a[i], &w), top);
        }
    }
    if usual != 0xff {
        return Found::Special;
    }
    let mut lanes = [0.0; 8];
    store64(s, top, &mut lanes, 0);
    let top = lanes.into_iter().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return Found::Nothing;
    }
    let wide = Double::splat(s, top);
    for c in (0..len).step_by(E::WIDTH) {
        let (x, b_wide) = load(c);
        for i in 0..parts::<E>() {
            let w = weight::<E, S>(s, b_wide[i]);
            let less = Double::bits(s, Double::lt(s, size_of_term(s, x[i], &w), wide));
            if less != 0xff {
                let first = c + 8 * i + (!less).trailing_zeros() as usize;
                // SAFETY: the caller's promise.
                return Found::Largest(unsafe { confirmed::<E>(a, b, len, first) });
            }
        }
    }
    // Reached only where another thread writes to the operands meanwhile.
    Found::Special
}

/// The largest term of a row, of which `found` is the largest but for the rounding of `a + log |b|`.
///
/// # Safety
/// As [`largest`]; no term is infinite or NaN.
unsafe fn confirmed<E: Element>(a: *const E::T, b: *const E::T, len: usize, found: usize) -> usize {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (std::slice::from_raw_parts(a, len), std::slice::from_raw_parts(b, len)) };
    let mut best = found;
    if E::to_f64(a[found]).abs() >= LARGE {
        for i in 0..len {
            let above = E::to_f64(a[i]) - E::to_f64(a[best]);
            let powers = frexp(E::to_f64(b[i])).1 - frexp(E::to_f64(b[best])).1;
            if E::to_f64(b[i]) != 0.0 && above + f64::from(powers) * std::f64::consts::LN_2 > 0.0 {
                best = i;
            }
        }
    }
    best
}

/// `sum_c b_c 2^-k exp(a_c - shift)` over all elements but one, as `(high, low)`.
///
/// # Safety
/// As [`largest`]; no term is infinite or NaN, none is far larger than `2^k exp(shift)`; `but < len`.
#[inline(always)]
unsafe fn sum<E: Element, S: Simd>(
    s: S,
    a: *const E::T,
    b: *const E::T,
    len: usize,
    but: usize,
    shift: f64,
    k: f64,
) -> (f64, f64) {
    let (zero, shift, k) = (Double::splat(s, 0.0), Double::splat(s, shift), Double::splat(s, k));
    let mut sums: [Acc<S>; 2] = [[zero; 2]; 2];
    for c in (0..len).step_by(E::WIDTH) {
        let n = (len - c).min(E::WIDTH);
        // SAFETY: as many elements remain.
        let (a, mut w) =
            unsafe { (E::load_first(s, a.add(c), n, E::NEG_INF), E::load_first(s, b.add(c), n, E::ZERO)) };
        if but >= c && but < c + n {
            let mut lanes = [E::ZERO; MAX_WIDTH];
            // SAFETY: the array holds a vector.
            unsafe { E::store(s, w, lanes.as_mut_ptr()) };
            lanes[but - c] = E::ZERO;
            // SAFETY: as above.
            w = unsafe { E::load(s, lanes.as_ptr()) };
        }
        let (a, b) = (E::wide(s, a), E::wide(s, w));
        for i in 0..parts::<E>() {
            let w = weight::<E, S>(s, b[i]);
            let (d, low) = difference::<E, S>(s, a[i], shift);
            let e = exp_wide::<Double, S>(s, d, low, Double::sub(s, w.k, k));
            let e = Double::select(s, Double::lt(s, zero, w.size), e, zero);
            let m = signed(s, w.m, b[i]);
            let term = Double::mul(s, e, m);
            let rest = Double::fma(s, e, m, Double::sub(s, zero, term));
            sums[i] = Double::merge(s, sums[i], [term, rest]);
        }
    }
    Double::reduce(s, Double::merge(s, sums[0], sums[1]))
}

/// The result of a row with an infinite term or a NaN: the logarithm and the sign.
#[cold]
fn special<T: Float>(a: &[T], b: &[T]) -> (f64, f64) {
    let (mut plus, mut minus) = (false, false);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (T::Ops::to_f64(a), T::Ops::to_f64(b));
        if b == 0.0 {
            continue;
        }
        let log = a + b.abs().ln();
        if log.is_nan() {
            return (f64::NAN, f64::NAN);
        }
        plus |= log == f64::INFINITY && b > 0.0;
        minus |= log == f64::INFINITY && b < 0.0;
    }
    match (plus, minus) {
        (true, true) => (f64::NAN, f64::NAN),
        (true, false) => (f64::INFINITY, 1.0),
        _ => (f64::INFINITY, -1.0),
    }
}

/// What the results of up to [`GROUP`] rows are made of.
struct Pending {
    /// `a_m`.
    shift: [f64; GROUP],
    /// `b_m`.
    weight: [f64; GROUP],
    /// `m` of `b_m`, with its sign: the unit of the sums.
    unit: [f64; GROUP],
    others: [[f64; GROUP]; 2],
}

impl Pending {
    const NEW: Pending =
        Pending { shift: [0.0; GROUP], weight: [1.0; GROUP], unit: [1.0; GROUP], others: [[0.0; GROUP]; 2] };

    /// Takes row `i`; gives its logarithm and sign where they need nothing more.
    ///
    /// # Safety
    /// `a` and `b` are valid for reading `len` elements.
    #[inline(always)]
    unsafe fn add<T: Float, S: Simd>(
        &mut self,
        s: S,
        i: usize,
        a: *const T,
        b: *const T,
        len: usize,
    ) -> Option<(f64, f64)> {
        // SAFETY: the caller's promise.
        let (row, weights) =
            unsafe { (std::slice::from_raw_parts(a, len), std::slice::from_raw_parts(b, len)) };
        // SAFETY: as above.
        match unsafe { largest::<T::Ops, S>(s, a, b, len) } {
            Found::Largest(m) => {
                let (shift, weight) = (T::Ops::to_f64(row[m]), T::Ops::to_f64(weights[m]));
                let (unit, k) = frexp(weight);
                (self.shift[i], self.weight[i], self.unit[i]) = (shift, weight, unit);
                // SAFETY: as above; `m` is the largest term.
                let others = unsafe { sum::<T::Ops, S>(s, a, b, len, m, shift, f64::from(k)) };
                (self.others[0][i], self.others[1][i]) = others;
                None
            }
            Found::Nothing => Some((f64::NEG_INFINITY, 0.0)),
            Found::Special => Some(special(row, weights)),
        }
    }

    /// The logarithms and signs of rows `j..j + 8`.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, j: usize) -> (V64<S>, V64<S>) {
        let (zero, one) = (Double::splat(s, 0.0), Double::splat(s, 1.0));
        let (shift, weight, unit) =
            (load64(s, &self.shift, j), load64(s, &self.weight, j), load64(s, &self.unit, j));
        let [high, low] = [load64(s, &self.others[0], j), load64(s, &self.others[1], j)];
        // r, and 1 + r, each as two numbers.
        let r = Double::div(s, high, unit);
        let rest = Double::fma(s, Double::sub(s, zero, r), unit, high);
        let rest = Double::div(s, Double::add(s, rest, low), unit);
        let (total, e) = two_sum_v(s, one, r);
        let e = Double::add(s, e, rest);
        let whole = Double::add(s, total, e);
        let left = Double::add(s, Double::sub(s, total, whole), e);
        let size = signed(s, whole, whole);
        let (sum, first) = (log(s, size), log(s, signed(s, weight, weight)));
        let (x, e) = two_sum_v(s, shift, first.0);
        let (y, e2) = two_sum_v(s, x, sum.0);
        let low = Double::add(s, Double::add(s, e, e2), Double::add(s, first.1, sum.1));
        let low = Double::add(s, low, Double::div(s, left, whole));
        let none = Double::lt(s, size, Double::splat(s, TINY));
        let sign = signed(s, signed(s, one, unit), whole);
        (
            Double::select(s, none, Double::splat(s, f64::NEG_INFINITY), Double::add(s, y, low)),
            Double::select(s, none, zero, sign),
        )
    }
}

/// The logarithm of `|sum_c b_c exp(a_c)|` for each row of a block of two operands, and the sum's sign: 1, 0, -1 or NaN.
/// Without signs, the logarithm of a negative sum is NaN.
pub(crate) struct WeightedLogSumExp<'a, T: Float> {
    pub(crate) plan: &'a Plan<'a, T::Ops>,
    pub(crate) rows: Range<usize>,
    pub(crate) signs: Option<View<T>>,
    /// The inner extent of the whole batch, for the signs.
    pub(crate) inner: usize,
}

impl<T: Float> Task for WeightedLogSumExp<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        type E<T> = <T as Float>::Ops;
        let WeightedLogSumExp { plan, rows, signs, inner } = self;
        let PerRow::Wide(results) = plan.per_row else { unreachable!("one result per row") };
        let len = plan.shape.len;
        for start in rows.clone().step_by(GROUP) {
            let n = GROUP.min(rows.end - start);
            let row = |i: usize| {
                let [a, b] = &plan.x;
                (a.row(start + i, 1).cast_const(), b.row(start + i, 1).cast_const())
            };
            let (mut log, mut sign) = ([0.0; GROUP], [1.0; GROUP]);
            // SAFETY: the block has these rows, of neighbouring elements.
            let left = unsafe { positive_logs::<E<T>, S>(s, &row, n, len, &mut log) };
            if left != 0 {
                let mut pending = Pending::NEW;
                let mut known = [None; GROUP];
                for i in (0..n).filter(|i| left >> i & 1 == 1) {
                    let (a, b) = row(i);
                    // SAFETY: as above.
                    known[i] = unsafe { pending.add::<T, S>(s, i, a, b, len) };
                }
                let (mut logs, mut signs) = ([0.0; GROUP], [0.0; GROUP]);
                for j in (0..n).step_by(8) {
                    let (of_sums, of_signs) = pending.finish(s, j);
                    store64(s, of_sums, &mut logs, j);
                    store64(s, of_signs, &mut signs, j);
                }
                for i in (0..n).filter(|i| left >> i & 1 == 1) {
                    (log[i], sign[i]) = known[i].unwrap_or((logs[i], signs[i]));
                }
            }
            for i in 0..n {
                match signs {
                    // SAFETY: the view has an element for each row, of which this thread alone has this one.
                    Some(signs) => unsafe { signs.row(start + i, inner).write(E::<T>::from_f64(sign[i])) },
                    None if sign[i] < 0.0 => log[i] = f64::NAN,
                    None => {}
                }
                // SAFETY: as above.
                unsafe { results.row(start + i, 1).write(log[i]) };
            }
        }
    }
}

/// `g b exp(a - lse)` for each element of a block of two operands; 0 where `b` is 0.
pub(crate) struct WeightedBackward<'a, T: Float> {
    pub(crate) plan: &'a Plan<'a, T::Ops>,
    pub(crate) rows: Range<usize>,
    /// `g` and `lse`, for an inner extent of 1.
    pub(crate) per_row: [View<T>; 2],
}

impl<T: Float> Task for WeightedBackward<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        type E<T> = <T as Float>::Ops;
        let WeightedBackward { plan, rows, per_row: [grad, lse] } = self;
        let (len, width) = (plan.shape.len, <E<T> as Element>::WIDTH);
        for row in rows {
            let (a, b) = (plan.x[0].row(row, 1).cast_const(), plan.x[1].row(row, 1).cast_const());
            let out = plan.out.row(row, 1);
            // SAFETY: there is an element for each row.
            let [g, lse] = map_each([grad, lse], |view| E::<T>::to_f64(unsafe { view.row(row, 1).read() }));
            let (m, k) = frexp(g);
            for c in (0..len).step_by(width) {
                let n = (len - c).min(width);
                // SAFETY: as many elements of the row remain.
                unsafe {
                    let x = E::<T>::wide(s, E::<T>::load_first(s, a.add(c), n, E::<T>::ZERO));
                    let weights = E::<T>::wide(s, E::<T>::load_first(s, b.add(c), n, E::<T>::ZERO));
                    let mut y = [Double::splat(s, 0.0); 2];
                    for i in 0..parts::<E<T>>() {
                        y[i] = backward::<E<T>, S>(s, x[i], weights[i], lse, g, (m, f64::from(k)));
                    }
                    let y = E::<T>::canonical(s, E::<T>::narrow(s, y));
                    E::<T>::store_first(s, y, out.add(c), n);
                }
            }
        }
    }
}

/// `g b exp(a - lse)`, where `g = m 2^k`.
#[inline(always)]
fn backward<E: Element, S: Simd>(s: S, a: V64<S>, b: V64<S>, lse: f64, g: f64, (m, k): (f64, f64)) -> V64<S> {
    let (zero, infinity) = (Double::splat(s, 0.0), Double::splat(s, f64::INFINITY));
    let w = weight::<E, S>(s, b);
    let (d, low) = difference::<E, S>(s, a, Double::splat(s, lse));
    let (p, n) = exp_parts::<Double, S>(s, d, low);
    let unit = Double::splat(s, m.abs());
    let product = Double::mul(s, unit, w.m);
    let rest = Double::fma(s, unit, w.m, Double::sub(s, zero, product));
    let y = Double::fma(s, p, rest, Double::mul(s, p, product));
    let y = scale_wide::<Double, S>(s, y, Double::add(s, n, Double::add(s, w.k, Double::splat(s, k))));
    let y = signed(s, if g < 0.0 { Double::sub(s, zero, y) } else { y }, b);
    let y = Double::select(s, Double::lt(s, zero, w.size), y, zero);
    if Double::bits(s, Double::lt(s, w.size, infinity)) == 0xff && g.is_finite() && g != 0.0 {
        return y;
    }
    // What a factor that is zero, infinite or NaN makes of an exponential, however large or small that is.
    let finite = Double::lt(s, signed(s, d, d), infinity);
    let e = Double::select(s, finite, Double::splat(s, 1.0), exp_wide::<Double, S>(s, d, low, zero));
    let formula = Double::mul(s, Double::mul(s, Double::splat(s, g), b), e);
    let usual =
        if g.is_finite() && g != 0.0 { Double::lt(s, w.size, infinity) } else { Double::lt(s, zero, zero) };
    let dropped = Double::lt(s, w.size, Double::splat(s, TINY));
    Double::select(s, dropped, zero, Double::select(s, usual, y, formula))
}
