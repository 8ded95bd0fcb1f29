//! Binary cross-entropy of logits with targets `t`, and its gradient, over flat arrays.
//!
//! ```text
//! loss = w (P t log(1 + exp(-x)) + (1 - t) log(1 + exp(x)))       w: weight, P: weight of positive targets
//!      = w ((P t + 1 - t) log1p(e) + B |x|)                       e = exp(-|x|),  B = x < 0 ? P t : 1 - t
//! dx   = w ((1 - t) sigmoid(x) - P t sigmoid(-x))                 sigmoid(|x|) = 1/(1+e),  sigmoid(-|x|) = e/(1+e)
//! ```
//!
//! For targets from 0 to 1 all terms of the loss are positive, and for 0 and 1 one term of the gradient is exactly 0:
//! nothing cancels. `0 inf` counts as 0.
//!
//! `f32`: the exponential in `f32`, everything else in `f64`, which no product leaves. `f64`: pairs; where
//! `|x| > FAR`, `e` is both `log1p(e)` and `e/(1+e)`, and is carried times `2^FAR_POWER`, so that a weight
//! may bring it back into the range.
#![expect(unsafe_code, reason = "vector loads take pointers")]

use crate::float::{Acc, Double, Element, skip_zero};
use crate::kernels::map::{self, Map};
use crate::lines::AHEAD_BYTES;
use crate::math::{exp_split, exp_wide, log1p_unit};
use crate::simd::{Simd, Task, prefetch};

/// From here on `exp(-|x|)` is carried on a scale of its own (`f64`).
const FAR: f64 = 300.0;
const FAR_POWER: f64 = 512.0;
/// `2^-FAR_POWER`
const FAR_SCALE: f64 = f64::from_bits((1023 - 512) << 52);
/// Beyond this `exp(-|x|)` is 0, whatever `f32` numbers it is multiplied by.
const GONE: f64 = 690.0;

/// The operands. The weights are null in a kernel without.
#[derive(Clone, Copy)]
pub(crate) struct Logistic<E: Element> {
    pub(crate) x: *const E::T,
    pub(crate) t: *const E::T,
    pub(crate) pos_weight: *const E::T,
    pub(crate) weight: *const E::T,
}

/// The operands at some elements.
struct Lanes<E: Element, S: Simd> {
    x: E::V<S>,
    t: E::V<S>,
    pos_weight: E::V<S>,
    weight: E::V<S>,
}

impl<E: Element> Logistic<E> {
    /// The operands at `i..i + n`, then neutral ones: their loss is 0. An element of weight 0 becomes neutral as well.
    ///
    /// # Safety
    /// The operands are valid for reading there.
    #[inline(always)]
    unsafe fn at<const WEIGHTED: bool, S: Simd>(&self, s: S, i: usize, n: usize) -> Lanes<E, S> {
        let one = E::splat(s, E::ONE);
        // SAFETY: the caller's promise.
        let (x, t) = unsafe {
            (
                if n == E::WIDTH {
                    E::load(s, self.x.add(i))
                } else {
                    E::load_first(s, self.x.add(i), n, E::NEG_INF)
                },
                map::load::<E, S>(s, self.t.add(i), n),
            )
        };
        if !WEIGHTED {
            return Lanes { x, t, pos_weight: one, weight: one };
        }
        // SAFETY: the caller's promise.
        let (pos_weight, weight) = unsafe {
            (map::load::<E, S>(s, self.pos_weight.add(i), n), map::load::<E, S>(s, self.weight.add(i), n))
        };
        Lanes {
            x: skip_zero::<E, S>(s, weight, E::splat(s, E::NEG_INF), x),
            t: skip_zero::<E, S>(s, weight, E::splat(s, E::ZERO), t),
            pos_weight: skip_zero::<E, S>(s, weight, one, pos_weight),
            weight,
        }
    }
}

/// `exp(-|x|)` where `|x|` is not far, 0 elsewhere; and the same elsewhere, times `2^FAR_POWER`.
struct Exponential<E: Element, S: Simd> {
    near: Acc<S>,
    far: Acc<S>,
    /// Where it is far.
    is_far: E::M<S>,
}

impl<E: Element, S: Simd> Exponential<E, S> {
    #[inline(always)]
    fn new(s: S, magnitude: E::V<S>) -> Self {
        let zero = E::splat(s, E::ZERO);
        let minus = E::sub(s, zero, magnitude);
        if E::COMPENSATED {
            let is_far = E::lt(s, E::splat(s, E::from_f64(FAR)), magnitude);
            let offset = E::select(s, is_far, E::splat(s, E::from_f64(FAR_POWER)), zero);
            let e = exp_wide::<E, S>(s, minus, zero, offset);
            let near = E::wide(s, E::select(s, is_far, zero, e));
            return Exponential { near, far: E::wide(s, e), is_far };
        }
        let limit = E::splat(s, E::from_f64(GONE));
        let gone = E::lt(s, limit, magnitude);
        let (p, n) = exp_split::<E, S>(s, E::select(s, gone, zero, minus));
        let (p, n) = (E::wide(s, E::select(s, gone, zero, p)), E::wide(s, n));
        let near = [Double::scale(s, p[0], n[0]), Double::scale(s, p[1], n[1])];
        Exponential { near, far: near, is_far: gone }
    }

    /// `factor value` of the near exponential, or `factor e` where that is far.
    #[inline(always)]
    fn times(&self, s: S, factor: Acc<S>, value: Acc<S>) -> Acc<S> {
        if !E::COMPENSATED {
            return E::product(s, factor, value);
        }
        let y = E::product(s, factor, select::<E, S>(s, self.is_far, self.far, value));
        let scale = E::select(s, self.is_far, E::splat(s, E::from_f64(FAR_SCALE)), E::splat(s, E::ONE));
        let scale = E::wide(s, scale)[0];
        [Double::mul(s, y[0], scale), Double::mul(s, y[1], scale)]
    }
}

/// `if m { a } else { b }` for pairs.
#[inline(always)]
fn select<E: Element, S: Simd>(s: S, m: E::M<S>, a: Acc<S>, b: Acc<S>) -> Acc<S> {
    let (one, zero) = (E::splat(s, E::ONE), E::splat(s, E::ZERO));
    let sign = E::wide(s, E::select(s, m, one, zero));
    let mut y = b;
    for i in 0..2 {
        // The mask as one of `f64` lanes: for pairs both parts have the same.
        let which = Double::lt(s, Double::splat(s, 0.0), sign[if E::COMPENSATED { 0 } else { i }]);
        y[i] = Double::select(s, which, a[i], b[i]);
    }
    y
}

#[inline(always)]
fn minus<S: Simd>(s: S, a: Acc<S>) -> Acc<S> {
    let zero = Double::splat(s, 0.0);
    [Double::sub(s, zero, a[0]), Double::sub(s, zero, a[1])]
}

impl<E: Element, S: Simd> Lanes<E, S> {
    /// `|x|`
    #[inline(always)]
    fn magnitude(&self, s: S) -> E::V<S> {
        E::max(s, self.x, E::sub(s, E::splat(s, E::ZERO), self.x))
    }

    /// `(P t, 1 - t)`
    #[inline(always)]
    fn coefficients<const WEIGHTED: bool>(&self, s: S) -> (Acc<S>, Acc<S>) {
        let t = E::wide(s, self.t);
        let rest = E::without(s, E::wide(s, E::splat(s, E::ONE)), self.t);
        (if WEIGHTED { E::product(s, E::wide(s, self.pos_weight), t) } else { t }, rest)
    }

    #[inline(always)]
    fn loss<const WEIGHTED: bool>(&self, s: S) -> Acc<S> {
        let (zero, one) = (E::splat(s, E::ZERO), E::splat(s, E::ONE));
        let a = self.magnitude(s);
        let e = Exponential::<E, S>::new(s, a);
        let log = log1p_unit::<E, S>(s, e.near);
        let (positive, rest) = self.coefficients::<WEIGHTED>(s);
        let below = E::lt(s, self.x, zero);
        let slope = select::<E, S>(s, below, positive, rest);
        // Zero exactly where the slope is.
        let factor = E::select(s, below, self.t, E::sub(s, self.t, one));
        let mut a = skip_zero::<E, S>(s, factor, zero, a);
        if WEIGHTED {
            a = skip_zero::<E, S>(s, E::select(s, below, self.pos_weight, one), zero, a);
        }
        let linear = E::product(s, slope, E::wide(s, a));
        if WEIGHTED {
            let weight = E::wide(s, self.weight);
            let both = E::product(s, weight, E::merge(s, positive, rest));
            return E::merge(s, E::product(s, weight, linear), e.times(s, both, log));
        }
        E::merge(s, linear, e.times(s, E::wide(s, one), log))
    }

    /// The gradient times a factor.
    #[inline(always)]
    fn gradient<const WEIGHTED: bool>(&self, s: S, factor: Acc<S>) -> Acc<S> {
        let e = Exponential::<E, S>::new(s, self.magnitude(s));
        let (positive, rest) = self.coefficients::<WEIGHTED>(s);
        let factor = if WEIGHTED { E::product(s, factor, E::wide(s, self.weight)) } else { factor };
        let below = E::lt(s, self.x, E::splat(s, E::ZERO));
        let positive = minus(s, positive);
        let large = E::inverse(s, E::merge(s, E::wide(s, E::splat(s, E::ONE)), e.near));
        let small = E::product(s, e.near, large);
        let of_large = E::product(s, factor, select::<E, S>(s, below, positive, rest));
        let of_small = E::product(s, factor, select::<E, S>(s, below, rest, positive));
        E::merge(s, E::product(s, of_large, large), e.times(s, of_small, small))
    }
}

/// The sum of the losses of a chunk, as `(high, low)`.
pub(crate) struct LossSum<E: Element, const WEIGHTED: bool> {
    pub(crate) of: Logistic<E>,
    pub(crate) len: usize,
}

impl<E: Element, const WEIGHTED: bool> Task for LossSum<E, WEIGHTED> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            for x in [self.of.x, self.of.t] {
                prefetch(x.wrapping_add(i).wrapping_byte_add(AHEAD_BYTES));
            }
            // SAFETY: `n` elements remain.
            let lanes = unsafe { self.of.at::<WEIGHTED, S>(s, i, n) };
            acc = E::merge(s, acc, lanes.loss::<WEIGHTED>(s));
        }
        E::reduce(s, acc)
    }
}

/// The loss, elementwise.
pub(crate) struct Losses<E: Element, const WEIGHTED: bool>(pub(crate) Logistic<E>);

impl<E: Element, const WEIGHTED: bool> Map<E> for Losses<E, WEIGHTED> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let lanes = unsafe { self.0.at::<WEIGHTED, S>(s, i, n) };
        let loss = E::value(s, lanes.loss::<WEIGHTED>(s));
        E::canonical(s, if WEIGHTED { map::zero_where::<E, S>(s, lanes.weight, loss) } else { loss })
    }
}

/// The gradient times a factor, elementwise; the factor is one number as `(high, low)`, or an array.
pub(crate) struct LossGradient<E: Element, const WEIGHTED: bool> {
    pub(crate) of: Logistic<E>,
    pub(crate) factor: (f64, f64),
    /// Null where there is one factor.
    pub(crate) factors: *const E::T,
}

impl<E: Element, const WEIGHTED: bool> Map<E> for LossGradient<E, WEIGHTED> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let lanes = unsafe { self.of.at::<WEIGHTED, S>(s, i, n) };
        // SAFETY: the caller's promise.
        let factor = unsafe { map::wide_factor::<E, S>(s, self.factor, self.factors, i, n) };
        let gradient = E::value(s, lanes.gradient::<WEIGHTED>(s, factor));
        E::canonical(s, if WEIGHTED { map::zero_where::<E, S>(s, lanes.weight, gradient) } else { gradient })
    }
}
