//! The temperature: logits are divided by it before anything else, without being rounded to it.
//!
//! A quotient `x / T` rounded to the element type would cost the exponential `|x / T|` times that rounding. So it is
//! kept as a pair: with `1 / T = a + b` in two parts,
//!
//! ```text
//! q = x a        low = (x a - q) + x b        exp(x / T) = exp(q + low)
//! ```
//!
//! where the first difference is exact (one fused multiply-add). Maxima, labels and shifts are those of the logits
//! themselves: dividing by a positive number keeps their order.
#![expect(unsafe_code, reason = "temperatures are read through strided views, vectors through pointers")]

use crate::exact::divide_pair;
use crate::float::Element;
use crate::kernels::rowsum::MAX_WIDTH;
use crate::lines::Band;
use crate::math::{Begun, exp_begin, exp_end};
use crate::shape::View;
use crate::simd::Simd;

/// The temperature of each row.
#[derive(Clone, Copy)]
pub(crate) enum Temperature {
    /// 1 everywhere.
    One,
    /// One for all rows.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    All(f64),
    /// One per row; with the batch's inner extent.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Rows(View<f64>, usize),
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl Sync for Temperature {}

impl Temperature {
    #[inline(always)]
    pub(crate) fn is_one(&self) -> bool {
        matches!(self, Temperature::One)
    }

    /// The reciprocal of a row's temperature as `(high, low)`.
    #[inline(always)]
    pub(crate) fn inverse(&self, row: usize) -> (f64, f64) {
        match self {
            Temperature::One => (1.0, 0.0),
            Temperature::All(t) => divide_pair(1.0, *t),
            // SAFETY: the view has an element for every row.
            Temperature::Rows(view, inner) => divide_pair(1.0, unsafe { view.row(row, *inner).read() }),
        }
    }
}

impl Temperature {
    /// The reciprocal of a row's temperature, rounded.
    #[inline(always)]
    pub(crate) fn cooling<E: Element>(&self, row: usize) -> E::T {
        E::from_f64(self.inverse(row).0)
    }

    /// Divides the results of rows `j..j + WIDTH` of a band.
    #[inline(always)]
    pub(crate) fn cool_tile<E: Element, S: Simd>(&self, s: S, band: &Band<E>, j: usize) {
        if self.is_one() {
            return;
        }
        let mut cooling = [E::ONE; MAX_WIDTH];
        for i in 0..E::WIDTH.min(band.n - j) {
            cooling[i] = self.cooling::<E>(band.first + j + i);
        }
        // SAFETY: the array holds a vector.
        let cooling = unsafe { E::load(s, cooling.as_ptr()) };
        for c in 0..band.len {
            band.put(s, j, c, E::mul(s, band.at(s, 0, j, c), cooling));
        }
    }
}

/// A reciprocal temperature as two numbers of the element type, the first one finite.
#[inline(always)]
pub(crate) fn heat<E: Element>((high, low): (f64, f64)) -> [E::T; 2] {
    let largest = E::to_f64(E::MAX);
    let first = E::from_f64(high.min(largest));
    let rest = (high - E::to_f64(first)) + low;
    [first, if high < largest { E::from_f64(rest) } else { E::ZERO }]
}

/// `exp(x (a + b)) * 2^-reference` for the two parts of a reciprocal temperature: [`exp_scaled`](crate::math::exp_scaled)
/// of a quotient.
#[inline(always)]
pub(crate) fn exp_tempered<E: Element, S: Simd>(
    s: S,
    x: E::V<S>,
    heat: [E::V<S>; 2],
    magic: E::V<S>,
) -> E::V<S> {
    exp_end::<E, S>(s, begin_tempered::<E, S>(s, x, heat, magic))
}

/// Begins [`exp_tempered`], for [`exp_end`] to complete.
#[inline(always)]
pub(crate) fn begin_tempered<E: Element, S: Simd>(
    s: S,
    x: E::V<S>,
    heat: [E::V<S>; 2],
    magic: E::V<S>,
) -> Begun<E, S> {
    let q = E::mul(s, x, heat[0]);
    let low = E::fma(s, x, heat[0], E::sub(s, E::splat(s, E::ZERO), q));
    exp_begin::<E, S>(s, q, Some(E::fma(s, x, heat[1], low)), magic)
}
