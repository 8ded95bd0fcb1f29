//! `logsumexp(x) = log sum_c exp(x_c)` and its gradient.
//!
//! ```text
//! lse   = max + log1p(others / e_max)
//! dx_c  = g exp(x_c - lse)
//! ```
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Element, Float};
use crate::kernels::map::{self, Map, Scale};
use crate::kernels::rowsum::{Group, MAX_WIDTH, band_sums, first_bits, group_sums, row_others};
use crate::kernels::temperature::Temperature;
use crate::lines::{Band, Kernel, Rows};
use crate::math::exp_wide;
use crate::shape::View;
use crate::simd::{Simd, map_each};
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

/// The sums of the `counted` rows, `others` and `log` included; the bits of special rows are set in the result, and
/// their `log` is zero.
///
/// # Safety
/// As [`Kernel::rows`].
#[inline(always)]
pub(crate) unsafe fn group_logs<E: Element, S: Simd>(
    s: S,
    rows: &Rows<E>,
    group: &mut Group<E>,
    temperature: &Temperature,
    counted: u64,
    store: bool,
) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { group_sums(s, rows, group, temperature, counted, store) };
    let special = group.special(s) & counted;
    let dominated = group.finish_log(s, rows.len) & counted & !special & first_bits(rows.n);
    if dominated != 0 {
        let mut left = dominated;
        while left != 0 {
            let i = left.trailing_zeros() as usize;
            left &= left - 1;
            // SAFETY: the caller's promise.
            let others =
                unsafe { row_others::<E, S>(s, rows.row(s, i), rows.len, &group.row(i), group.heat(i)) };
            group.set_others(i, others);
        }
        group.log_again(s, dominated);
    }
    let mut left = special;
    while left != 0 {
        group.log[left.trailing_zeros() as usize] = 0.0;
        left &= left - 1;
    }
    special
}

/// Writes logsumexp of every row, after [`group_logs`].
///
/// # Safety
/// As [`Kernel::rows`].
#[inline(always)]
pub(crate) unsafe fn put_logsumexp<E: Element, S: Simd>(
    s: S,
    rows: &Rows<E>,
    group: &Group<E>,
    mut special: u64,
    per_row: *mut f64,
) {
    // SAFETY: the caller's promise.
    unsafe { group.put_logsumexp(per_row) };
    while special != 0 {
        let i = special.trailing_zeros() as usize;
        special &= special - 1;
        // SAFETY: as above; the caller's promise.
        unsafe { per_row.add(i).write(special_max::<E>(rows.row(s, i), rows.len)) };
    }
}

/// logsumexp, one result per row.
pub(crate) struct LogSumExp<E>(pub(crate) PhantomData<E>);

impl<E: Element> Kernel for LogSumExp<E> {
    type E = E;
    const INPUTS: usize = 1;
    const WRITES: bool = false;

    #[inline(always)]
    fn reads_halves(&self) -> bool {
        true
    }

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, group: &mut Group<E>, per_row: *mut f64) {
        // SAFETY: the caller's promise.
        unsafe {
            let special = group_logs::<E, S>(s, rows, group, &Temperature::One, u64::MAX, false);
            put_logsumexp(s, rows, group, special, per_row);
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(&self, s: S, band: &Band<E>, group: &mut Group<E>, per_row: *mut f64) -> u64 {
        // SAFETY: the caller's promise.
        let unusual = unsafe { band_sums::<E, S, true>(s, band, group, &Temperature::One) };
        let dominated = group.finish_log(s, band.len);
        // SAFETY: the caller's promise.
        unsafe { group.put_logsumexp(per_row) };
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

    #[inline(always)]
    unsafe fn rows<S: Simd>(
        &self,
        s: S,
        rows: &Rows<T::Ops>,
        _group: &mut Group<T::Ops>,
        _per_row: *mut f64,
    ) {
        for i in 0..rows.n {
            let (lse, factor, offset) = self.parameters(rows.first + i);
            let map = BackwardMap::<T::Ops> { x: rows.x(0, i), lse, factor, offset };
            // SAFETY: the caller's promise.
            unsafe { map::write_row(s, &map, rows.out(i), rows.len, rows.stream) };
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(
        &self,
        s: S,
        band: &Band<T::Ops>,
        _group: &mut Group<T::Ops>,
        _per_row: *mut f64,
    ) -> u64 {
        let width = <T::Ops as Element>::WIDTH;
        for j in (0..band.n).step_by(width) {
            let mut parameters = [[T::default(); MAX_WIDTH]; 3];
            for i in 0..width.min(band.n - j) {
                let (lse, factor, offset) = self.parameters(band.first + j + i);
                (parameters[0][i], parameters[1][i], parameters[2][i]) = (lse, factor, offset);
            }
            // SAFETY: the arrays hold a vector.
            let [lse, factor, offset] =
                map_each(parameters.each_ref(), |a| unsafe { T::Ops::load(s, a.as_ptr()) });
            for c in 0..band.len {
                let x = band.at(s, 0, j, c);
                band.put(s, j, c, backward::<T::Ops, S>(s, x, lse, factor, offset));
            }
        }
        0
    }
}
