//! Mean squared error `(p - t)^2` and its gradient `2 (p - t)`, over flat arrays.
//!
//! `f32`: differences and squares in `f64`, where neither rounds by more than `f64` does nor overflows. `f64`: a
//! square's rounding error goes into the sum's low part; a sum that overflowed or came near underflow is computed
//! again with the differences scaled by a power of two; a gradient whose difference overflows is computed from halves.
//! Sums are over chunks of [`CHUNK`] elements in C order, each one over logical lanes.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::float::{Acc, Double, Element};
use crate::kernels::map::{self, Map};
use crate::lines::AHEAD_BYTES;
use crate::simd::{Simd, Task, prefetch};

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
            for x in [self.p, self.t] {
                prefetch(x.wrapping_add(i).wrapping_byte_add(AHEAD_BYTES));
            }
            // SAFETY: `n` elements remain.
            let (p, t) =
                unsafe { (map::load::<E, S>(s, self.p.add(i), n), map::load::<E, S>(s, self.t.add(i), n)) };
            acc = E::accumulate_square(s, acc, p, t, self.factor);
        }
        E::reduce(s, acc)
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
