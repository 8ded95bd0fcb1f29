//! Mean squared error `(p - t)^2` and its gradient `2 (p - t)`, over flat arrays.
//!
//! `f32`: differences and squares in `f64`, where neither rounds by more than `f64` does nor overflows.
//! `f64`: a square's rounding error goes into the sum's low part; a sum that overflowed or came near underflow is computed again with the differences scaled by a
//! power of two. Sums are over chunks of [`CHUNK`] elements in C order, each one over logical lanes.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::float::{Acc, Double, Element};
use crate::kernels::map::{self, Map};
use crate::simd::{Simd, Task};

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
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            // SAFETY: `n` elements remain.
            let (p, t) =
                unsafe { (map::load::<E, S>(s, self.p.add(i), n), map::load::<E, S>(s, self.t.add(i), n)) };
            acc = E::accumulate_square(s, acc, p, t, self.factor);
        }
        E::reduce(s, acc)
    }
}

/// What is computed for each element.
pub(crate) enum Values {
    /// `(p - t)^2`
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Squares,
    /// `factor (p - t)`
    Scaled(f64),
    /// The same, where `p - t` may overflow although the result does not.
    Halves(f64),
}

/// One value per element.
pub(crate) struct Difference<E: Element> {
    pub(crate) p: *const E::T,
    pub(crate) t: *const E::T,
    pub(crate) out: *mut E::T,
    pub(crate) len: usize,
    pub(crate) kind: Values,
    pub(crate) stream: bool,
}

struct Scaled<E: Element>(*const E::T, *const E::T, f64);
struct Halves<E: Element>(*const E::T, *const E::T, f64);
struct Squared<E: Element>(*const E::T, *const E::T);

impl<E: Element> Map<E> for Scaled<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (p, t) =
            unsafe { (map::load::<E, S>(s, self.0.add(i), n), map::load::<E, S>(s, self.1.add(i), n)) };
        E::canonical(s, E::scaled_difference(s, p, t, self.2))
    }
}

impl<E: Element> Map<E> for Halves<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (p, t) =
            unsafe { (map::load::<E, S>(s, self.0.add(i), n), map::load::<E, S>(s, self.1.add(i), n)) };
        let times = |v, factor: f64| E::mul(s, v, E::splat(s, E::from_f64(factor)));
        let half = E::sub(s, times(p, 0.5), times(t, 0.5));
        E::canonical(s, times(times(half, self.2), 2.0))
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
            let (p, t, out, len, stream) = (self.p, self.t, self.out, self.len, self.stream);
            match self.kind {
                Values::Squares => map::write_row(s, &Squared::<E>(p, t), out, len, stream),
                Values::Scaled(factor) => map::write_row(s, &Scaled::<E>(p, t, factor), out, len, stream),
                Values::Halves(factor) => map::write_row(s, &Halves::<E>(p, t, factor), out, len, stream),
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
            E::canonical(s, E::weighted_difference(s, p, t, w))
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
