//! Cross-entropy of given probabilities, and its gradient: logarithms and quotients of flat arrays.
//!
//! ```text
//! loss  = -w log p_y                   label y          dp_y = -w / p_y, 0 elsewhere
//! loss  = -w sum_c t_c log p_c         probabilities t  dp_c = -w t_c / p_c
//! ```
//!
//! Nothing is clipped or normalised. What has weight or probability 0 counts as exactly 0, whatever `p` is there. The
//! logarithm is [`log_wide_begin`]'s, in `f64`; of `f64` numbers with its low part, so that a sum loses nothing.
#![expect(unsafe_code, reason = "vector loads take pointers")]

use crate::float::{Acc, Double, Element, skip_zero};
use crate::kernels::map::{self, Map, write_row};
use crate::kernels::rowsum::MAX_WIDTH;
use crate::math::{LogBegun, log_wide_begin, log_wide_end};
use crate::simd::{Simd, Task};
use crate::sums::Sum;
use std::mem::MaybeUninit;

/// Factors `t` (weights, or probabilities) and probabilities `p`, each a flat array.
#[derive(Clone, Copy)]
pub(crate) struct Terms<E: Element> {
    pub(crate) t: *const E::T,
    pub(crate) p: *const E::T,
}

impl<E: Element> Terms<E> {
    /// `t`, and `p` as wide numbers, at `i..i + n`; behind, `t` is 0. Where it is, or is no number, `p` is 1.
    ///
    /// # Safety
    /// Both are valid for reading there.
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> (E::V<S>, Acc<S>) {
        // SAFETY: the caller's promise.
        let (t, p) =
            unsafe { (map::load::<E, S>(s, self.t.add(i), n), map::load::<E, S>(s, self.p.add(i), n)) };
        (t, E::wide(s, skip_zero::<E, S>(s, t, E::splat(s, E::ONE), p)))
    }

    /// `-t log p` at `i..i + n`; 0 behind.
    ///
    /// # Safety
    /// As [`Terms::at`].
    #[inline(always)]
    unsafe fn losses<S: Simd>(&self, s: S, i: usize, n: usize) -> Acc<S> {
        // SAFETY: the caller's promise.
        let (t, p) = unsafe { self.at(s, i, n) };
        loss::<E, S>(s, t, log_wide_end::<E, S>(s, p, log_wide_begin::<E, S>(s, p)))
    }
}

/// `-t log p`, of the logarithm.
#[inline(always)]
fn loss<E: Element, S: Simd>(s: S, t: E::V<S>, log: Acc<S>) -> Acc<S> {
    let zero = Double::splat(s, 0.0);
    E::product(s, E::wide(s, t), [Double::sub(s, zero, log[0]), Double::sub(s, zero, log[1])])
}

/// Vectors whose logarithms are begun before the first is completed: a logarithm of `f32` is a chain of 130 cycles, and the
/// instructions that a processor looks ahead are those of little more than one.
const SOME: usize = 4;

/// `sum -t log p`, as `(high, low)`.
pub(crate) struct LogSum<E: Element> {
    pub(crate) terms: Terms<E>,
    pub(crate) len: usize,
}

impl<E: Element> Task for LogSum<E> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        // (The same sum. In short rows nothing else is under way, and handing a logarithm over costs up to a tenth.)
        if self.len <= 2 * E::WIDTH {
            for i in (0..self.len).step_by(E::WIDTH) {
                // SAFETY: as many elements remain.
                acc = E::merge(s, acc, unsafe { self.terms.losses(s, i, (self.len - i).min(E::WIDTH)) });
            }
            return E::reduce(s, acc);
        }
        let mut logs = [MaybeUninit::<LogBegun<S>>::uninit(); SOME];
        for start in (0..self.len).step_by(SOME * E::WIDTH) {
            let n = (self.len - start).min(SOME * E::WIDTH);
            macro_rules! at {
                ($v:expr) => {
                    // SAFETY: as many elements remain.
                    unsafe { self.terms.at(s, start + $v * E::WIDTH, (n - $v * E::WIDTH).min(E::WIDTH)) }
                };
            }
            let logs = &mut logs[..n.div_ceil(E::WIDTH)];
            for (v, log) in logs.iter_mut().enumerate() {
                log.write(log_wide_begin::<E, S>(s, at!(v).1));
            }
            for (v, log) in logs.iter().enumerate() {
                let (t, p) = at!(v);
                // SAFETY: the loop before has written all of this slice.
                let log = log_wide_end::<E, S>(s, p, unsafe { log.assume_init() });
                acc = E::merge(s, acc, loss::<E, S>(s, t, log));
            }
        }
        E::reduce(s, acc)
    }
}

/// [`LogSum`] of rows that follow one another.
pub(crate) struct RowSums<'a, E: Element> {
    pub(crate) terms: Terms<E>,
    pub(crate) len: usize,
    /// One result per row.
    pub(crate) sums: &'a mut [(f64, f64)],
}

impl<E: Element> Task for RowSums<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (row, sum) in self.sums.iter_mut().enumerate() {
            let Terms { t, p } = self.terms;
            let terms = Terms { t: t.wrapping_add(row * self.len), p: p.wrapping_add(row * self.len) };
            *sum = LogSum::<E> { terms, len: self.len }.run(s);
        }
    }
}

/// `-t log p`, elementwise.
pub(crate) struct LogLosses<E: Element>(pub(crate) Terms<E>);

impl<E: Element> Map<E> for LogLosses<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        E::canonical(s, E::value(s, unsafe { self.0.losses(s, i, n) }))
    }
}

/// `-t factor / p`, elementwise, and 0 where `t` is 0; the factor is one number as `(high, low)`, or an array.
pub(crate) struct Quotients<E: Element> {
    pub(crate) terms: Terms<E>,
    pub(crate) factor: (f64, f64),
    /// Null where there is one factor.
    pub(crate) factors: *const E::T,
}

impl<E: Element> Map<E> for Quotients<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (t, p, factor) = unsafe {
            (
                map::load::<E, S>(s, self.terms.t.add(i), n),
                map::load::<E, S>(s, self.terms.p.add(i), n),
                map::wide_factor::<E, S>(s, self.factor, self.factors, i, n),
            )
        };
        let product = E::product(s, E::wide(s, t), factor);
        let zero = Double::splat(s, 0.0);
        let minus = [Double::sub(s, zero, product[0]), Double::sub(s, zero, product[1])];
        let mut y = if E::COMPENSATED {
            E::div(s, E::value(s, minus), p)
        } else {
            let p = E::wide(s, p);
            E::narrow(s, [Double::div(s, minus[0], p[0]), Double::div(s, minus[1], p[1])])
        };
        if E::COMPENSATED {
            let left = map::out_of_range::<E, S>(s, product) & map::nonzero_bits::<E, S>(s, t);
            if left != 0 {
                y = mended::<E, S>(s, y, left, [t, p, E::value(s, factor)]);
            }
        }
        E::canonical(s, map::zero_where::<E, S>(s, t, y))
    }
}

/// Replaces the lanes of `y` whose product left the range of `f64`.
#[cold]
#[inline(never)]
fn mended<E: Element, S: Simd>(s: S, y: E::V<S>, lanes: u32, [t, p, factor]: [E::V<S>; 3]) -> E::V<S> {
    let (mut ts, mut ps) = ([E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH]);
    let (mut ys, mut factors) = ([E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH]);
    // SAFETY: the arrays hold a vector.
    unsafe {
        E::store(s, t, ts.as_mut_ptr());
        E::store(s, p, ps.as_mut_ptr());
        E::store(s, y, ys.as_mut_ptr());
        E::store(s, factor, factors.as_mut_ptr());
    }
    for i in 0..E::WIDTH {
        let (t, p, factor) = (E::to_f64(ts[i]), E::to_f64(ps[i]), E::to_f64(factors[i]));
        if lanes >> i & 1 == 1 {
            ys[i] = E::from_f64(if p == 0.0 {
                -(t.signum() * if factor == 0.0 { 0.0 } else { factor.signum() }) / p
            } else {
                Sum::product(&[-1.0, t, factor]).over(Sum::new((p, 0.0), 0)).rounded()
            });
        }
    }
    // SAFETY: as above.
    unsafe { E::load(s, ys.as_ptr()) }
}

/// [`Quotients`] of rows that follow one another, each with a factor of its own.
pub(crate) struct RowQuotients<'a, E: Element> {
    pub(crate) terms: Terms<E>,
    pub(crate) len: usize,
    /// One per row.
    pub(crate) factors: &'a [(f64, f64)],
    pub(crate) out: *mut E::T,
}

impl<E: Element> Task for RowQuotients<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (row, &factor) in self.factors.iter().enumerate() {
            let Terms { t, p } = self.terms;
            let start = row * self.len;
            let out = self.out.wrapping_add(start);
            if factor == (0.0, 0.0) {
                // SAFETY: the rows hold `len` elements each.
                unsafe { map::fill::<E>(out, self.len, E::ZERO) };
                continue;
            }
            let terms = Terms { t: t.wrapping_add(start), p: p.wrapping_add(start) };
            let map = Quotients::<E> { terms, factor, factors: std::ptr::null() };
            // SAFETY: as above.
            unsafe { write_row(s, &map, out, self.len, false) };
        }
    }
}
