//! The log-probability of a row's label `y`, and whether the label is the row's first maximum.
//!
//! ```text
//! logprob = log_softmax(x)_y = (x_y - max) - log1p(others / e_max)        x: the logits over the temperature
//! ```
//!
//! It is minus the cross-entropy, operation by operation. The maximum is that of the row's sum; only where the label
//! reaches it are the elements before the label looked at again, in a row that is still in the caches.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::Element;
use crate::kernels::classification_error::Beats;
use crate::kernels::labels::Labels;
use crate::kernels::logsumexp::{group_logs, special_max};
use crate::kernels::rowsum::{Group, MAX_WIDTH, band_sums};
use crate::kernels::temperature::Temperature;
use crate::lines::{Band, GROUP, Kernel, Rows};
use crate::shape::View;
use crate::simd::Simd;
use std::marker::PhantomData;

/// One log-probability per row, and one truth value into `is_argmax`. Ignored rows have 0 and 0.
pub(crate) struct TokenLogprobs<E> {
    pub(crate) labels: Labels,
    /// 1 where the label is the first maximum, as `bool` has it.
    pub(crate) is_argmax: View<u8>,
    pub(crate) inner: usize,
    pub(crate) temperature: Temperature,
    pub(crate) element: PhantomData<E>,
}

// SAFETY: a row's element is written by the one thread that has the row; the caller of an operation vouches for the
// memory.
unsafe impl<E: Element> Sync for TokenLogprobs<E> {}

impl<E: Element> TokenLogprobs<E> {
    /// Writes the results of row `i` of those from `first` on.
    ///
    /// # Safety
    /// The row is the calling thread's; `per_row` is valid for writing element `i`.
    #[inline(always)]
    unsafe fn put(&self, first: usize, i: usize, logprob: f64, is_argmax: bool, per_row: *mut f64) {
        // SAFETY: the view has an element for every row; the caller's promise.
        unsafe { self.is_argmax.row(first + i, self.inner).write(u8::from(is_argmax)) };
        // SAFETY: the caller's promise.
        unsafe { per_row.add(i).write(logprob) };
    }
}

impl<E: Element> Kernel for TokenLogprobs<E> {
    type E = E;
    const INPUTS: usize = 1;
    const WRITES: bool = false;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, group: &mut Group<E>, per_row: *mut f64) {
        let (classes, counted) = self.labels.classes(rows.first, rows.n);
        // SAFETY: the caller's promise.
        let special = unsafe { group_logs::<E, S>(s, rows, group, &self.temperature, counted, false) };
        for i in 0..rows.n {
            let (mut logprob, mut is_argmax) = (0.0, false);
            if counted >> i & 1 == 1 {
                let (x, y) = (rows.x(0, i), classes[i]);
                // SAFETY: labels that count are class numbers.
                let value = unsafe { x.add(y).read() };
                let max = if special >> i & 1 == 1 {
                    // SAFETY: the caller's promise.
                    unsafe { special_max::<E>(x, rows.len) }
                } else {
                    E::to_f64(group.max[i])
                };
                // (The logarithm of a special row is zero.)
                logprob = group.cooled(i, E::to_f64(value) - max) - group.log[i];
                is_argmax = E::to_f64(value) == max && !s.call(Beats::<E, true> { x, len: y, value });
            }
            // SAFETY: `i < n`.
            unsafe { self.put(rows.first, i, logprob, is_argmax, per_row) };
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(&self, s: S, band: &Band<E>, group: &mut Group<E>, per_row: *mut f64) -> u64 {
        let (labels, counted) = self.labels.classes(band.first, band.n);
        let mut values = [E::ZERO; GROUP];
        for i in 0..band.n {
            // SAFETY: labels are class numbers, 0 where ignored.
            values[i] = unsafe { band.element(0, i, labels[i]).read() };
        }
        // SAFETY: the caller's promise.
        let unusual = unsafe { band_sums::<E, S, false>(s, band, group, &self.temperature) };
        let again = group.finish_log(s, band.len) | unusual;
        for j in (0..band.n).step_by(E::WIDTH) {
            let n = E::WIDTH.min(band.n - j);
            let (mut classes, mut last) = ([E::ZERO; MAX_WIDTH], 0);
            for i in 0..n {
                classes[i] = E::from_f64(labels[j + i] as f64);
                last = last.max(labels[j + i]);
            }
            // SAFETY: the array holds a vector.
            let class = unsafe { E::load(s, classes.as_ptr()) };
            let max = Group::<E>::load(s, &group.max, j);
            // The lanes in which an element before the label is the maximum.
            let (mut earlier, mut number) = (0, E::splat(s, E::ZERO));
            for c in 0..last {
                let before = E::bits(s, E::lt(s, number, class));
                number = E::add(s, number, E::splat(s, E::ONE));
                earlier |= before & !E::bits(s, E::lt(s, band.at(s, 0, j, c), max));
            }
            for i in 0..n {
                let (value, max) = (E::to_f64(values[j + i]), E::to_f64(group.max[j + i]));
                let (mut logprob, mut is_argmax) = (0.0, false);
                if counted >> (j + i) & 1 == 1 {
                    logprob = group.cooled(j + i, value - max) - group.log[j + i];
                    is_argmax = value == max && earlier >> i & 1 == 0;
                }
                // SAFETY: `j + i < n` of the band.
                unsafe { self.put(band.first, j + i, logprob, is_argmax, per_row) };
            }
        }
        again & counted
    }
}
