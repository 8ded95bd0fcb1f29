//! `logsumexp(x) = log sum_c exp(x_c)` and its gradient.
//!
//! ```text
//! lse   = max + log1p(others / e_max)
//! dx_c  = g exp(x_c - lse)
//! ```
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Element, Float};
use crate::kernels::map::{self, Map, Scale};
use crate::kernels::rowsum::{Group, MAX_WIDTH, row_others, row_sum, tile_sum};
use crate::lines::{Kernel, Rows, Tile};
use crate::math::exp_wide;
use crate::shape::View;
use crate::simd::Simd;
use std::marker::PhantomData;

/// A special row's maximum: NaN if it holds one, else +inf or -inf.
///
/// # Safety
/// `x` is valid for reading `len` elements.
pub(crate) unsafe fn special_max<E: Element>(x: *const E::T, len: usize) -> f64 {
    // SAFETY: the caller's promise.
    let row = unsafe { std::slice::from_raw_parts(x, len) };
    row.iter()
        .map(|&v| E::to_f64(v))
        .fold(f64::NEG_INFINITY, |m, v| if m.is_nan() || v.is_nan() { f64::NAN } else { m.max(v) })
}

/// The sums of up to `WIDTH` rows, `others` and `log` included; the bits of special rows are set in the
/// second result, and their `log` is zero.
///
/// # Safety
/// As [`Kernel::rows`].
#[inline(always)]
pub(crate) unsafe fn group_of_rows<E: Element, S: Simd>(
    s: S,
    rows: &Rows<E>,
    counted: u32,
    store: bool,
) -> (Group<E>, u32) {
    let counted = counted & ((1 << rows.n) - 1);
    let mut group = Group::new(rows.n);
    for i in 0..rows.n {
        if counted >> i & 1 == 0 {
            continue;
        }
        let out = if store && !rows.stored.is_null() {
            rows.stored.wrapping_add(i * rows.len)
        } else {
            std::ptr::null_mut()
        };
        // SAFETY: the caller's promise; `stored` has room for all rows.
        group.set(i, &unsafe { row_sum::<E, S>(s, rows.x[0][i], rows.len, out, rows.ahead) });
    }
    let special = group.special(rows.n) & counted;
    let mut dominated = group.finish_others(s, rows.len) & counted & !special;
    while dominated != 0 {
        let i = dominated.trailing_zeros() as usize;
        dominated &= dominated - 1;
        // SAFETY: the caller's promise.
        let others = unsafe { row_others::<E, S>(s, rows.x[0][i], rows.len, &group.row(i)) };
        group.set_others(i, others);
    }
    group.finish_log(s);
    for i in 0..rows.n {
        if special >> i & 1 == 1 {
            group.log[i] = 0.0;
        }
    }
    (group, special)
}

/// logsumexp, one result per row.
pub(crate) struct LogSumExp<E>(pub(crate) PhantomData<E>);

impl<E: Element> Kernel for LogSumExp<E> {
    type E = E;
    const INPUTS: usize = 1;
    const WRITES: bool = false;
    const PER_ROW: bool = true;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, per_row: *mut f64) {
        // SAFETY: the caller's promise.
        let (group, special) = unsafe { group_of_rows::<E, S>(s, rows, u32::MAX, false) };
        for i in 0..rows.n {
            let lse = if special >> i & 1 == 1 {
                // SAFETY: the caller's promise.
                unsafe { special_max::<E>(rows.x[0][i], rows.len) }
            } else {
                group.logsumexp(i)
            };
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(lse) };
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<E>, per_row: *mut f64) -> u32 {
        // SAFETY: the caller's promise.
        let (mut group, unusual) = unsafe { tile_sum::<E, S, true>(s, tile.x[0], tile.len) };
        let dominated = group.finish_others(s, tile.len);
        group.finish_log(s);
        for i in 0..tile.n {
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(group.logsumexp(i)) };
        }
        unusual | dominated
    }
}

/// `grad * exp(x - lse)`, elementwise.
pub(crate) struct LogSumExpBackward<T> {
    pub(crate) grad: Scale<T>,
    pub(crate) lse: View<T>,
    pub(crate) inner: usize,
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T: Float> Sync for LogSumExpBackward<T> {}

/// A factor and the power of two that it was divided by: results below the normal range must come from
/// exponentials that are still in it.
#[inline(always)]
pub(crate) fn offset_factor<E: Element>(factor: f64) -> (E::T, E::T) {
    if factor.abs() >= E::OFFSET_FROM {
        (E::from_f64(factor * E::OFFSET_POWER), E::OFFSET)
    } else {
        (E::from_f64(factor), E::ZERO)
    }
}

struct BackwardMap<E: Element> {
    x: *const E::T,
    lse: E::T,
    factor: E::T,
    offset: E::T,
}

/// `factor * 2^offset * exp(x - lse)`, with the difference's rounding error taken along.
#[inline(always)]
fn backward<E: Element, S: Simd>(
    s: S,
    x: E::V<S>,
    lse: E::V<S>,
    factor: E::V<S>,
    offset: E::V<S>,
) -> E::V<S> {
    // TwoSum of x and -lse; (d - t) is the part of x in d, and -t the part of lse.
    let d = E::sub(s, x, lse);
    let t = E::sub(s, d, x);
    let low = E::sub(s, E::sub(s, x, E::sub(s, d, t)), E::add(s, lse, t));
    E::canonical(s, E::mul(s, exp_wide::<E, S>(s, d, low, offset), factor))
}

impl<E: Element> Map<E> for BackwardMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let x = unsafe { map::load::<E, S>(s, self.x.add(i), n) };
        let splat = |v| E::splat(s, v);
        backward::<E, S>(s, x, splat(self.lse), splat(self.factor), splat(self.offset))
    }
}

impl<T: Float> LogSumExpBackward<T> {
    #[inline(always)]
    fn parameters(&self, row: usize) -> (T, T, T) {
        // SAFETY: the view has an element for every row.
        let lse = unsafe { self.lse.row(row, self.inner).read() };
        let (factor, offset) = offset_factor::<T::Ops>(self.grad.get(row).0);
        (lse, factor, offset)
    }
}

impl<T: Float> Kernel for LogSumExpBackward<T> {
    type E = T::Ops;
    const INPUTS: usize = 1;
    const WRITES: bool = true;
    const PER_ROW: bool = false;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, _per_row: *mut f64) {
        for i in 0..rows.n {
            let (lse, factor, offset) = self.parameters(rows.first + i);
            let map = BackwardMap::<T::Ops> { x: rows.x[0][i], lse, factor, offset };
            // SAFETY: the caller's promise.
            unsafe { map::write_row(s, &map, rows.out[i], rows.len, rows.stream) };
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<T::Ops>, _per_row: *mut f64) -> u32 {
        let mut parameters = [[T::default(); MAX_WIDTH]; 3];
        for i in 0..tile.n {
            let (lse, factor, offset) = self.parameters(tile.first + i);
            (parameters[0][i], parameters[1][i], parameters[2][i]) = (lse, factor, offset);
        }
        // SAFETY: the arrays hold a vector.
        let [lse, factor, offset] = parameters.each_ref().map(|a| unsafe { T::Ops::load(s, a.as_ptr()) });
        for c in 0..tile.len {
            let p = tile.x[0].wrapping_add(c * <T::Ops as Element>::WIDTH);
            // SAFETY: `c < len`.
            unsafe { T::Ops::store(s, backward::<T::Ops, S>(s, T::Ops::load(s, p), lse, factor, offset), p) };
        }
        0
    }
}
