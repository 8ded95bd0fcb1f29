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
use crate::kernels::map;
use crate::kernels::mse::PIECE;
use crate::lines::AHEAD_BYTES;
use crate::math::{exp_split, exp_wide, log1p_unit_begin, log1p_unit_end};
use crate::simd::{Simd, Task, prefetch};
use std::mem::MaybeUninit;

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
    /// From what [`Lanes::exponential`] found.
    #[inline(always)]
    fn new(s: S, e: Acc<S>, magnitude: E::V<S>) -> Self {
        let is_far = far::<E, S>(s, magnitude);
        let near = if E::COMPENSATED {
            E::wide(s, E::select(s, is_far, E::splat(s, E::ZERO), E::narrow(s, e)))
        } else {
            e
        };
        Exponential { near, far: e, is_far }
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

    /// `exp(-|x|)`: where `|x|` is far, 0 (`f32`), or times `2^FAR_POWER`.
    #[inline(always)]
    fn exponential(&self, s: S) -> Acc<S> {
        let zero = E::splat(s, E::ZERO);
        let magnitude = self.magnitude(s);
        let (minus, is_far) = (E::sub(s, zero, magnitude), far::<E, S>(s, magnitude));
        if E::COMPENSATED {
            let offset = E::select(s, is_far, E::splat(s, E::from_f64(FAR_POWER)), zero);
            return E::wide(s, exp_wide::<E, S>(s, minus, zero, offset));
        }
        let (p, n) = exp_split::<E, S>(s, E::select(s, is_far, zero, minus));
        let (p, n) = (E::wide(s, E::select(s, is_far, zero, p)), E::wide(s, n));
        [Double::scale(s, p[0], n[0]), Double::scale(s, p[1], n[1])]
    }

    /// The loss, from the exponential and `log1p` of the near one.
    #[inline(always)]
    fn loss<const WEIGHTED: bool>(&self, s: S, e: &Exponential<E, S>, log: Acc<S>) -> Acc<S> {
        let (zero, one) = (E::splat(s, E::ZERO), E::splat(s, E::ONE));
        let (positive, rest) = self.coefficients::<WEIGHTED>(s);
        let below = E::lt(s, self.x, zero);
        let slope = select::<E, S>(s, below, positive, rest);
        // Zero exactly where the slope is.
        let factor = E::select(s, below, self.t, E::sub(s, self.t, one));
        let mut a = skip_zero::<E, S>(s, factor, zero, self.magnitude(s));
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

    /// The gradient times a factor, from the exponential and `sigmoid(|x|)`.
    #[inline(always)]
    fn gradient<const WEIGHTED: bool>(
        &self,
        s: S,
        e: &Exponential<E, S>,
        large: Acc<S>,
        factor: Acc<S>,
    ) -> Acc<S> {
        let (positive, rest) = self.coefficients::<WEIGHTED>(s);
        let factor = if WEIGHTED { E::product(s, factor, E::wide(s, self.weight)) } else { factor };
        let below = E::lt(s, self.x, E::splat(s, E::ZERO));
        let positive = minus(s, positive);
        let small = E::product(s, e.near, large);
        let of_large = E::product(s, factor, select::<E, S>(s, below, positive, rest));
        let of_small = E::product(s, factor, select::<E, S>(s, below, rest, positive));
        E::merge(s, E::product(s, of_large, large), e.times(s, of_small, small))
    }
}

/// Where `exp(-|x|)` is far.
#[inline(always)]
fn far<E: Element, S: Simd>(s: S, magnitude: E::V<S>) -> E::M<S> {
    E::lt(s, E::splat(s, E::from_f64(if E::COMPENSATED { FAR } else { GONE })), magnitude)
}

/// A [`Pass`] gives the sum of the losses.
pub(crate) const SUM: u8 = 1;
/// A [`Pass`] writes each loss.
pub(crate) const LOSSES: u8 = 2;
/// A [`Pass`] writes the gradient.
pub(crate) const GRADIENT: u8 = 4;

/// A pass over a chunk, which computes `WHAT`: one of the three, or the sum and the gradient; without [`SUM`] it gives zero.
/// Whoever makes one promises `len` elements of the operands, and of the factors unless they are null; and of `out`, which
/// is apart from them or the very memory of an operand. For the sum alone, `out` is not used and nothing is streamed.
pub(crate) struct Pass<E: Element, const WEIGHTED: bool, const WHAT: u8> {
    pub(crate) of: Logistic<E>,
    pub(crate) len: usize,
    /// What multiplies the gradient: one number as `(high, low)`, unless there is an array.
    pub(crate) factor: (f64, f64),
    /// Null where there is one factor.
    pub(crate) factors: *const E::T,
    pub(crate) out: *mut E::T,
    pub(crate) stream: bool,
}

/// Vectors that each step is taken for before the next one: an element is a chain of two hundred cycles, of which the processor
/// would hold less than one vector's.
const SOME: usize = 8;

impl<E: Element, const WEIGHTED: bool, const WHAT: u8> Pass<E, WEIGHTED, WHAT> {
    /// Computes `n` elements from `start` on, [`SOME`] vectors at most.
    ///
    /// # Safety
    /// The operands have them; `to` has room for results, if there are any, and is as the promise says of `out`.
    #[inline(always)]
    unsafe fn some<S: Simd>(&self, s: S, mut acc: Acc<S>, start: usize, n: usize, to: *mut E::T) -> Acc<S> {
        let mut memory = [[MaybeUninit::<Acc<S>>::uninit(); SOME]; 3];
        let [exponentials, logs, larges] = &mut memory;
        let vectors = n.div_ceil(E::WIDTH);
        macro_rules! lanes {
            ($v:expr) => {
                // SAFETY: as many elements remain.
                unsafe {
                    self.of.at::<WEIGHTED, S>(s, start + $v * E::WIDTH, (n - $v * E::WIDTH).min(E::WIDTH))
                }
            };
        }
        for v in 0..vectors {
            for x in [self.of.x, self.of.t] {
                prefetch(x.wrapping_add(start + v * E::WIDTH).wrapping_byte_add(AHEAD_BYTES));
            }
            if WHAT != SUM && !self.stream {
                prefetch(to.wrapping_add(v * E::WIDTH).wrapping_byte_add(AHEAD_BYTES).cast_const());
            }
            exponentials[v].write(lanes!(v).exponential(s));
        }
        macro_rules! exponential {
            ($v:expr, $lanes:expr) => {
                // SAFETY: written above.
                Exponential::<E, S>::new(s, unsafe { exponentials[$v].assume_init() }, $lanes.magnitude(s))
            };
        }
        if WHAT & (SUM | LOSSES) != 0 {
            for v in 0..vectors {
                logs[v].write(log1p_unit_begin::<E, S>(s, exponential!(v, lanes!(v)).near));
            }
            for log in &mut logs[..vectors] {
                // SAFETY: written above.
                log.write(log1p_unit_end::<E, S>(s, unsafe { log.assume_init() }));
            }
        }
        if WHAT & GRADIENT != 0 {
            let one = E::wide(s, E::splat(s, E::ONE));
            for v in 0..vectors {
                let sum = E::merge(s, one, exponential!(v, lanes!(v)).near);
                larges[v].write(E::inverse(s, sum));
            }
        }
        for v in 0..vectors {
            let lanes = lanes!(v);
            let e = exponential!(v, lanes);
            if WHAT & (SUM | LOSSES) != 0 {
                // SAFETY: written above.
                let loss = lanes.loss::<WEIGHTED>(s, &e, unsafe { logs[v].assume_init() });
                if WHAT & SUM != 0 {
                    acc = E::merge(s, acc, loss);
                } else {
                    // SAFETY: the caller's promise.
                    unsafe { put::<E, S, WEIGHTED>(s, &lanes, E::value(s, loss), to, v, n) };
                }
            }
            if WHAT & GRADIENT != 0 {
                let (i, left) = (start + v * E::WIDTH, (n - v * E::WIDTH).min(E::WIDTH));
                // SAFETY: the caller's promise; written above.
                unsafe {
                    let factor = map::wide_factor::<E, S>(s, self.factor, self.factors, i, left);
                    let gradient = lanes.gradient::<WEIGHTED>(s, &e, larges[v].assume_init(), factor);
                    put::<E, S, WEIGHTED>(s, &lanes, E::value(s, gradient), to, v, n);
                }
            }
        }
        acc
    }
}

/// Writes vector `v` of `n` results.
///
/// # Safety
/// `to` has room for `n` results, of which the vector has at least one.
#[inline(always)]
unsafe fn put<E: Element, S: Simd, const WEIGHTED: bool>(
    s: S,
    lanes: &Lanes<E, S>,
    y: E::V<S>,
    to: *mut E::T,
    v: usize,
    n: usize,
) {
    let y = E::canonical(s, if WEIGHTED { map::zero_where::<E, S>(s, lanes.weight, y) } else { y });
    let (i, left) = (v * E::WIDTH, n - v * E::WIDTH);
    // SAFETY: the caller's promise.
    unsafe {
        if left >= E::WIDTH { E::store(s, y, to.add(i)) } else { E::store_first(s, y, to.add(i), left) }
    }
}

impl<E: Element, const WEIGHTED: bool, const WHAT: u8> Task for Pass<E, WEIGHTED, WHAT> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        const {
            assert!(matches!(WHAT, SUM | LOSSES | GRADIENT) || WHAT == SUM | GRADIENT);
        }
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        let mut piece = MaybeUninit::<[E::T; PIECE]>::uninit();
        for start in (0..self.len).step_by(PIECE) {
            let n = (self.len - start).min(PIECE);
            let to = if self.stream { piece.as_mut_ptr().cast() } else { self.out.wrapping_add(start) };
            for i in (0..n).step_by(SOME * E::WIDTH) {
                // SAFETY: the maker's promise; the piece has room for `n`.
                acc =
                    unsafe { self.some(s, acc, start + i, (n - i).min(SOME * E::WIDTH), to.wrapping_add(i)) };
            }
            if self.stream {
                // SAFETY: as above; the piece holds `n` results.
                unsafe { map::write_row(s, &map::Identity::<E>(to), self.out.add(start), n, true) };
            }
        }
        if self.stream {
            s.fence();
        }
        E::reduce(s, acc)
    }
}
