//! Whether a row's first maximum is elsewhere than at its label: 0, or the row's weight.
//!
//! With `v = x_y` the row is right exactly when `x_c < v` for all `c < y` and `x_c <= v` for all `c > y`;
//! a NaN anywhere fails.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Double, Element};
use crate::kernels::labels::Labels;
use crate::kernels::map;
use crate::kernels::rowsum::{Group, MAX_WIDTH};
use crate::lines::{Band, Kernel, Rows};
use crate::shape::View;
use crate::simd::{Simd, Task};
use std::marker::PhantomData;

/// A weight per row.
#[derive(Clone, Copy)]
pub(crate) struct Weights {
    pub(crate) view: View<f64>,
    pub(crate) inner: usize,
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl Sync for Weights {}

impl Weights {
    #[inline(always)]
    fn get(&self, row: usize) -> f64 {
        // SAFETY: the view has an element for every row.
        let weight = unsafe { self.view.row(row, self.inner).read() };
        if weight.is_nan() { f64::NAN } else { weight }
    }
}

/// One error per row: its weight, or 1 where there are none. Rows that are right, and ignored ones, have 0.
pub(crate) struct ClassificationError<E> {
    pub(crate) labels: Labels,
    pub(crate) weights: Option<Weights>,
    pub(crate) element: PhantomData<E>,
}

impl<E> ClassificationError<E> {
    /// Gives the rows that are wrong their weights, if there are any.
    ///
    /// # Safety
    /// `per_row` holds 0 or 1 for `n` rows from `first` on.
    #[inline(always)]
    unsafe fn weigh(&self, first: usize, n: usize, per_row: *mut f64) {
        let Some(weights) = &self.weights else { return };
        for i in 0..n {
            // SAFETY: `i < n`.
            unsafe {
                if per_row.add(i).read() != 0.0 {
                    per_row.add(i).write(weights.get(first + i));
                }
            }
        }
    }
}

/// Whether any of `len` elements is NaN, above `value`, or, when `STRICT`, equal to it.
pub(crate) struct Beats<E: Element, const STRICT: bool> {
    pub(crate) x: *const E::T,
    pub(crate) len: usize,
    pub(crate) value: E::T,
}

impl<E: Element, const STRICT: bool> Task for Beats<E, STRICT> {
    type Out = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let value = E::splat(s, self.value);
        let mut found = 0;
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            // SAFETY: `n` elements remain.
            let x = unsafe { map::load::<E, S>(s, self.x.add(i), n) };
            let here = if STRICT {
                !E::bits(s, E::lt(s, x, value))
            } else {
                E::bits(s, E::lt(s, value, x)) | E::nan_bits(s, x)
            };
            found |= here & ((1 << n) - 1);
        }
        found != 0
    }
}

impl<E: Element> Kernel for ClassificationError<E> {
    type E = E;
    const INPUTS: usize = 1;
    const WRITES: bool = false;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, _group: &mut Group<E>, per_row: *mut f64) {
        for i in 0..rows.n {
            let wrong = self.labels.get(rows.first + i).is_some_and(|y| {
                let x = rows.x(0, i);
                // SAFETY: labels are class numbers.
                let value = unsafe { x.add(y).read() };
                // From the label on, so that a NaN at the label is seen too.
                s.call(Beats::<E, false> { x: x.wrapping_add(y), len: rows.len - y, value })
                    || s.call(Beats::<E, true> { x, len: y, value })
            });
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(f64::from(u8::from(wrong))) };
        }
        // SAFETY: just written.
        unsafe { self.weigh(rows.first, rows.n, per_row) };
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(&self, s: S, band: &Band<E>, _group: &mut Group<E>, per_row: *mut f64) -> u64 {
        let (labels, counted) = self.labels.classes(band.first, band.n);
        for j in (0..band.n).step_by(E::WIDTH) {
            let n = E::WIDTH.min(band.n - j);
            let (mut values, mut classes) = ([E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH]);
            for i in 0..n {
                // SAFETY: labels are class numbers, 0 where ignored.
                values[i] = unsafe { band.element(0, j + i, labels[j + i]).read() };
                classes[i] = E::from_f64(labels[j + i] as f64);
            }
            // SAFETY: the arrays hold a vector.
            let (value, class) = unsafe { (E::load(s, values.as_ptr()), E::load(s, classes.as_ptr())) };
            let (mut wrong, mut number) = (0, E::splat(s, E::ZERO));
            for c in 0..band.len {
                let x = band.at(s, 0, j, c);
                let before = E::bits(s, E::lt(s, number, class));
                number = E::add(s, number, E::splat(s, E::ONE));
                let below = E::bits(s, E::lt(s, x, value));
                wrong |= E::bits(s, E::lt(s, value, x)) | E::nan_bits(s, x) | (before & !below);
            }
            for i in 0..n {
                let error = u64::from(wrong) >> i & counted >> (j + i) & 1;
                // SAFETY: `j + i < n`.
                unsafe { per_row.add(j + i).write(f64::from(u8::from(error == 1))) };
            }
        }
        // SAFETY: just written.
        unsafe { self.weigh(band.first, band.n, per_row) };
        0
    }
}

/// The weight of each row that is not ignored, by which a mean is divided. It reads no array operand.
pub(crate) struct CountedWeights {
    pub(crate) labels: Labels,
    pub(crate) weights: Weights,
}

impl CountedWeights {
    /// # Safety
    /// `per_row` is valid for writing `n` results.
    #[inline(always)]
    unsafe fn put(&self, first: usize, n: usize, per_row: *mut f64) {
        let (_, counted) = self.labels.classes(first, n);
        for i in 0..n {
            let weight = if counted >> i & 1 == 1 { self.weights.get(first + i) } else { 0.0 };
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(weight) };
        }
    }
}

impl Kernel for CountedWeights {
    type E = Double;
    const INPUTS: usize = 0;
    const WRITES: bool = false;
    /// There is nothing to put side by side.
    const SHORT: usize = 0;

    #[inline(always)]
    unsafe fn rows<S: Simd>(
        &self,
        _s: S,
        rows: &Rows<Double>,
        _group: &mut Group<Double>,
        per_row: *mut f64,
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.put(rows.first, rows.n, per_row) };
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(
        &self,
        _s: S,
        band: &Band<Double>,
        _group: &mut Group<Double>,
        per_row: *mut f64,
    ) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { self.put(band.first, band.n, per_row) };
        0
    }
}
