//! Mean squared error `(p - t)^2` and its gradient `2 (p - t)`, over flat arrays.
//!
//! `f32`: differences and squares in `f64`, where neither rounds by more than `f64` does nor overflows.
//! `f64`: a square's rounding error goes into the sum's low part; a sum that overflowed or came near
//! underflow is computed again with the differences scaled by a power of two; a gradient whose difference
//! overflows is computed from halves. With weights, `w (p - t)^2` and `2 w (p - t)`: in `f64` as pairs, and
//! where a product left the range of `f64`, element by element with the powers of two apart. Sums are over
//! chunks of [`CHUNK`] elements in C order, each one over logical lanes.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::float::{Acc, Double, Element, skip_zero};
use crate::kernels::map::{self, Map};
use crate::kernels::rowsum::MAX_WIDTH;
use crate::lines::AHEAD_BYTES;
use crate::simd::{Simd, Task, prefetch};
use crate::sums::{Sum, Sums};

/// Elements per partial sum.
pub(crate) const CHUNK: usize = 4096;

/// `sum (factor (p - t))^2` over a chunk, as `(high, low)`.
pub(crate) struct SquaredError<E: Element> {
    pub(crate) p: *const E::T,
    pub(crate) t: *const E::T,
    pub(crate) len: usize,
    pub(crate) factor: f64,
}

impl<E: Element> Task for SquaredError<E> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let SquaredError { p, t, len, factor } = self;
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        let mut i = 0;
        while factor == 1.0 && i + E::WIDTH <= len {
            // SAFETY: a vector remains.
            acc = unsafe {
                prefetch_all::<E, 2>([p, t], i);
                E::accumulate_square_from(s, acc, p.add(i), t.add(i))
            };
            i += E::WIDTH;
        }
        for i in (i..len).step_by(E::WIDTH) {
            let n = (len - i).min(E::WIDTH);
            // SAFETY: `n` elements remain.
            let (p, t) = unsafe { (map::load::<E, S>(s, p.add(i), n), map::load::<E, S>(s, t.add(i), n)) };
            acc = E::accumulate_square(s, acc, p, t, factor);
        }
        E::reduce(s, acc)
    }
}

/// Asks for what operands have [`AHEAD_BYTES`] behind element `i`.
#[inline(always)]
fn prefetch_all<E: Element, const N: usize>(operands: [*const E::T; N], i: usize) {
    for x in operands {
        prefetch(x.wrapping_add(i).wrapping_byte_add(AHEAD_BYTES));
    }
}

/// A loss and its gradient in one pass, each with the bits that it has alone.
pub(crate) trait LossAndGradient<E: Element> {
    /// `acc` plus the losses at `i..i + n`, and their gradients; `n <= WIDTH`.
    ///
    /// # Safety
    /// The operands are valid for reading at `i..i + n`.
    unsafe fn at<S: Simd>(&self, s: S, acc: Acc<S>, i: usize, n: usize) -> (Acc<S>, E::V<S>);
}

/// The sum of the losses of a chunk as `(high, low)`, with the gradients to `out`, which may be the very memory of an
/// operand.
pub(crate) struct SumAndWrite<E: Element, L> {
    pub(crate) loss: L,
    pub(crate) out: *mut E::T,
    pub(crate) len: usize,
    pub(crate) stream: bool,
}

/// Elements that are written past the caches together.
pub(crate) const PIECE: usize = 1024;

impl<E: Element, L: LossAndGradient<E>> SumAndWrite<E, L> {
    /// Computes `n` elements from `start` on, their gradients to `to`.
    ///
    /// # Safety
    /// The operands have them, and `to` has room.
    #[inline(always)]
    unsafe fn piece<S: Simd>(&self, s: S, mut acc: Acc<S>, start: usize, n: usize, to: *mut E::T) -> Acc<S> {
        let mut i = 0;
        while i + E::WIDTH <= n {
            if !self.stream {
                prefetch(to.wrapping_add(i).wrapping_byte_add(AHEAD_BYTES).cast_const());
            }
            // SAFETY: a vector remains.
            unsafe {
                let (sums, y) = self.loss.at(s, acc, start + i, E::WIDTH);
                acc = sums;
                E::store(s, E::canonical(s, y), to.add(i));
            }
            i += E::WIDTH;
        }
        if i < n {
            // SAFETY: `n - i` elements remain.
            unsafe {
                let (sums, y) = self.loss.at(s, acc, start + i, n - i);
                acc = sums;
                E::store_first(s, E::canonical(s, y), to.add(i), n - i);
            }
        }
        acc
    }
}

impl<E: Element, L: LossAndGradient<E>> Task for SumAndWrite<E, L> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        if self.stream {
            let mut piece = [E::ZERO; PIECE];
            let to = piece.as_mut_ptr();
            for start in (0..self.len).step_by(PIECE) {
                let n = (self.len - start).min(PIECE);
                // SAFETY: the operands and the output hold `len` elements, the piece has room for `n`.
                unsafe {
                    acc = self.piece(s, acc, start, n, to);
                    map::write_row(s, &map::Identity::<E>(to), self.out.add(start), n, true);
                }
            }
            s.fence();
        } else {
            // SAFETY: as above.
            acc = unsafe { self.piece(s, acc, 0, self.len, self.out) };
        }
        E::reduce(s, acc)
    }
}

/// [`SquaredError`] and [`Difference`].
pub(crate) struct ErrorAndGradient<E: Element> {
    pub(crate) p: *const E::T,
    pub(crate) t: *const E::T,
    /// Of the gradient.
    pub(crate) factor: f64,
}

impl<E: Element> LossAndGradient<E> for ErrorAndGradient<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, acc: Acc<S>, i: usize, n: usize) -> (Acc<S>, E::V<S>) {
        let &ErrorAndGradient { p, t, factor } = self;
        // SAFETY: the caller's promise.
        unsafe {
            if n == E::WIDTH {
                prefetch_all::<E, 2>([p, t], i);
                return E::square_and_gradient_from(s, acc, p.add(i), t.add(i), factor);
            }
            let (p, t) = (map::load::<E, S>(s, p.add(i), n), map::load::<E, S>(s, t.add(i), n));
            (E::accumulate_square(s, acc, p, t, 1.0), E::square_gradient(s, p, t, factor))
        }
    }
}

/// `out = 2 (p - t) factor`, or `(p - t)^2` where there is no factor.
pub(crate) struct Difference<E: Element> {
    pub(crate) p: *const E::T,
    pub(crate) t: *const E::T,
    pub(crate) out: *mut E::T,
    pub(crate) len: usize,
    pub(crate) factor: Option<f64>,
    pub(crate) stream: bool,
}

struct Scaled<E: Element>(*const E::T, *const E::T, f64);
struct Squared<E: Element>(*const E::T, *const E::T);

impl<E: Element> Map<E> for Scaled<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (p, t) =
            unsafe { (map::load::<E, S>(s, self.0.add(i), n), map::load::<E, S>(s, self.1.add(i), n)) };
        E::canonical(s, E::square_gradient(s, p, t, self.2))
    }
}

impl<E: Element> Map<E> for Squared<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (p, t) =
            unsafe { (map::load::<E, S>(s, self.0.add(i), n), map::load::<E, S>(s, self.1.add(i), n)) };
        E::canonical(s, E::squared_difference(s, p, t))
    }
}

impl<E: Element> Task for Difference<E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the operands hold `len` elements.
        unsafe {
            match self.factor {
                Some(factor) => {
                    map::write_row(s, &Scaled::<E>(self.p, self.t, factor), self.out, self.len, self.stream);
                }
                None => map::write_row(s, &Squared::<E>(self.p, self.t), self.out, self.len, self.stream),
            }
        }
        if self.stream {
            s.fence();
        }
    }
}

/// `out = 2 (p - t) weight`, elementwise.
#[cfg(feature = "python")]
pub(crate) struct WeightedDifference<E: Element> {
    pub(crate) p: *const E::T,
    pub(crate) t: *const E::T,
    pub(crate) weight: *const E::T,
    pub(crate) out: *mut E::T,
    pub(crate) len: usize,
}

#[cfg(feature = "python")]
struct Weighted<E: Element>(*const E::T, *const E::T, *const E::T);

#[cfg(feature = "python")]
impl<E: Element> Map<E> for Weighted<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe {
            let (p, t) = (map::load::<E, S>(s, self.0.add(i), n), map::load::<E, S>(s, self.1.add(i), n));
            let w = map::load::<E, S>(s, self.2.add(i), n);
            E::canonical(s, E::weighted_gradient(s, p, t, w))
        }
    }
}

#[cfg(feature = "python")]
impl<E: Element> Task for WeightedDifference<E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the operands hold `len` elements.
        unsafe { map::write_row(s, &Weighted::<E>(self.p, self.t, self.weight), self.out, self.len, false) };
    }
}

// --- with a weight for every element ---------------------------------------------------------------------

/// The operands of a weighted squared error `w (p - t)^2`. An element of weight 0 counts as exactly 0, whatever it is.
#[derive(Clone, Copy)]
pub(crate) struct Weighing<E: Element> {
    pub(crate) p: *const E::T,
    pub(crate) t: *const E::T,
    pub(crate) weight: *const E::T,
}

/// `p`, `t` and `w` at some elements.
struct Weighed<E: Element, S: Simd> {
    p: E::V<S>,
    t: E::V<S>,
    weight: E::V<S>,
}

impl<E: Element> Weighing<E> {
    /// # Safety
    /// The operands are valid for reading at `i..i + n`.
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> Weighed<E, S> {
        // SAFETY: the caller's promise.
        unsafe {
            Weighed {
                p: map::load::<E, S>(s, self.p.add(i), n),
                t: map::load::<E, S>(s, self.t.add(i), n),
                weight: map::load::<E, S>(s, self.weight.add(i), n),
            }
        }
    }
}

impl<E: Element, S: Simd> Weighed<E, S> {
    /// `p - t`; exact but for the rounding of `f64`.
    #[inline(always)]
    fn difference(&self, s: S) -> Acc<S> {
        if E::COMPENSATED {
            E::wide(s, E::sub(s, self.p, self.t))
        } else {
            E::merge(s, E::wide(s, self.p), E::wide(s, E::sub(s, E::splat(s, E::ZERO), self.t)))
        }
    }

    /// With 0 for what has the weight 0.
    #[inline(always)]
    fn counted(self, s: S) -> Self {
        let (weight, zero) = (self.weight, E::splat(s, E::ZERO));
        let p = skip_zero::<E, S>(s, weight, zero, self.p);
        let t = skip_zero::<E, S>(s, weight, zero, self.t);
        Weighed { p, t, weight }
    }

    /// `acc + w d^2`.
    #[inline(always)]
    fn add_square(&self, s: S, acc: Acc<S>, d: Acc<S>) -> Acc<S> {
        E::merge(s, acc, E::product(s, E::product(s, E::wide(s, self.weight), d), d))
    }

    /// `2 w d factor` as wide numbers, with `w factor`.
    #[inline(always)]
    fn slope(&self, s: S, d: Acc<S>, factor: Acc<S>) -> [Acc<S>; 2] {
        let weight = E::product(s, E::wide(s, self.weight), factor);
        let half = E::product(s, weight, d);
        [E::merge(s, half, half), weight]
    }

    /// Bit `i` is set where weight and difference are neither 0 nor NaN.
    #[inline(always)]
    fn counts(&self, s: S) -> u32 {
        let d = E::sub(s, self.p, self.t);
        map::nonzero_bits::<E, S>(s, self.weight) & map::nonzero_bits::<E, S>(s, d)
    }

    /// Replaces the lanes of `y` that left the range of `f64` on the way.
    #[cold]
    #[inline(never)]
    fn mended(&self, s: S, y: E::V<S>, lanes: u32, factor: Option<E::V<S>>) -> E::V<S> {
        let (mut p, mut t, mut w) = ([E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH]);
        let (mut y_lanes, mut factors) = ([E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH]);
        // SAFETY: the arrays hold a vector.
        unsafe {
            E::store(s, self.p, p.as_mut_ptr());
            E::store(s, self.t, t.as_mut_ptr());
            E::store(s, self.weight, w.as_mut_ptr());
            E::store(s, y, y_lanes.as_mut_ptr());
            E::store(s, factor.unwrap_or(y), factors.as_mut_ptr());
        }
        for i in 0..E::WIDTH {
            if lanes >> i & 1 == 1 {
                let (p, t, w) = (E::to_f64(p[i]), E::to_f64(t[i]), E::to_f64(w[i]));
                y_lanes[i] = E::from_f64(match factor {
                    Some(_) => weighted_slope(p, t, w, E::to_f64(factors[i])).rounded(),
                    None => weighted_square(p, t, w).rounded(),
                });
            }
        }
        // SAFETY: as above.
        unsafe { E::load(s, y_lanes.as_ptr()) }
    }
}

/// `(d, scale)` with `scale d = p - t`, which may overflow.
fn halved_difference(p: f64, t: f64) -> (f64, f64) {
    let d = p - t;
    if d.is_infinite() { (p * 0.5 - t * 0.5, 2.0) } else { (d, 1.0) }
}

/// `w (p - t)^2` for numbers of any size.
pub(crate) fn weighted_square(p: f64, t: f64, w: f64) -> Sum {
    if w == 0.0 {
        return Sum::default();
    }
    let (d, scale) = halved_difference(p, t);
    Sum::product(&[w, d, d, scale * scale])
}

/// `2 w (p - t) factor` for numbers of any size.
fn weighted_slope(p: f64, t: f64, w: f64, factor: f64) -> Sum {
    let (d, scale) = halved_difference(p, t);
    Sum::product(&[w, d, 2.0 * scale, factor])
}

/// `sum w (p - t)^2` over a chunk, as `(high, low)`; `f64` terms may leave the range on the way.
///
/// With `w d` first, a product that comes near underflow belongs to a term that is near it too, or to none that counts.
pub(crate) struct WeightedError<E: Element> {
    pub(crate) of: Weighing<E>,
    pub(crate) len: usize,
}

impl<E: Element> Task for WeightedError<E> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            prefetch_all::<E, 3>([self.of.p, self.of.t, self.of.weight], i);
            // SAFETY: `n` elements remain.
            let operands = unsafe { self.of.at(s, i, n) }.counted(s);
            acc = operands.add_square(s, acc, operands.difference(s));
        }
        E::reduce(s, acc)
    }
}

/// The sum of [`WeightedError`] for `f64` terms of any size.
///
/// # Safety
/// The operands are valid for reading `len` elements.
#[cold]
pub(crate) unsafe fn weighted_error_of_any_size<E: Element>(of: Weighing<E>, len: usize) -> Sum {
    let at = |i: usize| {
        // SAFETY: `i < len`.
        unsafe { (of.p.add(i).read(), of.t.add(i).read(), of.weight.add(i).read()) }
    };
    let counts = |(p, t, w): (E::T, E::T, E::T)| w != E::ZERO && (p != t || !E::to_f64(w).is_finite());
    if !(0..len).map(at).any(counts) {
        return Sum::default();
    }
    let sums = Sums::new(len);
    for i in 0..len {
        let (p, t, w) = at(i);
        let term = weighted_square(E::to_f64(p), E::to_f64(t), E::to_f64(w));
        // SAFETY: there is one thread.
        unsafe { sums.set(i, term) };
    }
    sums.total()
}

/// `w (p - t)^2`, elementwise.
pub(crate) struct WeightedSquares<E: Element>(pub(crate) Weighing<E>);

impl<E: Element> Map<E> for WeightedSquares<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let operands = unsafe { self.0.at(s, i, n) };
        let d = operands.difference(s);
        let square = E::product(s, E::product(s, E::wide(s, operands.weight), d), d);
        let mut y = E::value(s, square);
        if E::COMPENSATED {
            let left = map::out_of_range::<E, S>(s, square) & operands.counts(s);
            if left != 0 {
                y = operands.mended(s, y, left, None);
            }
        }
        E::canonical(s, map::zero_where::<E, S>(s, operands.weight, y))
    }
}

/// `2 w (p - t) factor`, elementwise; the factor is one number as `(high, low)`, or an array.
pub(crate) struct WeightedGradient<E: Element> {
    pub(crate) of: Weighing<E>,
    pub(crate) factor: (f64, f64),
    /// Null where there is one factor.
    pub(crate) factors: *const E::T,
}

impl<E: Element> Map<E> for WeightedGradient<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let operands = unsafe { self.of.at(s, i, n) };
        // SAFETY: the caller's promise.
        let factor = unsafe { map::wide_factor::<E, S>(s, self.factor, self.factors, i, n) };
        let [slope, weight] = operands.slope(s, operands.difference(s), factor);
        let mut y = E::value(s, slope);
        if E::COMPENSATED {
            let outside = map::out_of_range::<E, S>(s, weight) | map::out_of_range::<E, S>(s, slope);
            let left = outside & operands.counts(s);
            if left != 0 {
                y = operands.mended(s, y, left, Some(E::value(s, factor)));
            }
        }
        E::canonical(s, map::zero_where::<E, S>(s, operands.weight, y))
    }
}

/// [`WeightedError`] and [`WeightedGradient`] with one factor, for `f32`, whose losses do not leave the range of `f64`.
pub(crate) struct WeightedErrorAndGradient<E: Element> {
    pub(crate) of: Weighing<E>,
    pub(crate) factor: f64,
}

impl<E: Element> LossAndGradient<E> for WeightedErrorAndGradient<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, acc: Acc<S>, i: usize, n: usize) -> (Acc<S>, E::V<S>) {
        debug_assert!(!E::COMPENSATED);
        prefetch_all::<E, 3>([self.of.p, self.of.t, self.of.weight], i);
        // SAFETY: the caller's promise.
        let operands = unsafe { self.of.at(s, i, n) }.counted(s);
        let d = operands.difference(s);
        let [slope, _] = operands.slope(s, d, [Double::splat(s, self.factor); 2]);
        let y = map::zero_where::<E, S>(s, operands.weight, E::value(s, slope));
        (operands.add_square(s, acc, d), y)
    }
}
