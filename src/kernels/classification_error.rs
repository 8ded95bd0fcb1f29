//! Whether a row's first maximum is elsewhere than at its label (0 or 1 per row).
//!
//! With `v = x_y` the row is right exactly when `x_c < v` for all `c < y` and `x_c <= v` for all `c > y`;
//! a NaN anywhere fails.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::Element;
use crate::kernels::labels::Labels;
use crate::kernels::map;
use crate::kernels::rowsum::MAX_WIDTH;
use crate::lines::{Kernel, Rows, Tile};
use crate::simd::{Simd, Task};
use std::marker::PhantomData;

/// One error (0 or 1) per row; ignored rows have none.
pub(crate) struct ClassificationError<E> {
    pub(crate) labels: Labels,
    pub(crate) element: PhantomData<E>,
}

/// Whether any of `len` elements is NaN, above `value`, or, when `STRICT`, equal to it.
struct Beats<E: Element, const STRICT: bool> {
    x: *const E::T,
    len: usize,
    value: E::T,
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
    const PER_ROW: bool = true;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, per_row: *mut f64) {
        for i in 0..rows.n {
            let wrong = self.labels.get(rows.first + i).is_some_and(|y| {
                let x = rows.x[0][i];
                // SAFETY: labels are class numbers.
                let value = unsafe { x.add(y).read() };
                // From the label on, so that a NaN at the label is seen too.
                s.call(Beats::<E, false> { x: x.wrapping_add(y), len: rows.len - y, value })
                    || s.call(Beats::<E, true> { x, len: y, value })
            });
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(f64::from(u8::from(wrong))) };
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<E>, per_row: *mut f64) -> u32 {
        let (labels, counted) = self.labels.classes(tile.first, tile.n);
        let (mut values, mut classes) = ([E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH]);
        for i in 0..tile.n {
            // SAFETY: labels are class numbers, 0 where ignored.
            values[i] = unsafe { tile.x[0].add(labels[i] * E::WIDTH + i).read() };
            classes[i] = E::from_f64(labels[i] as f64);
        }
        // SAFETY: the arrays hold a vector.
        let (value, class) = unsafe { (E::load(s, values.as_ptr()), E::load(s, classes.as_ptr())) };
        let (mut wrong, mut number) = (0, E::splat(s, E::ZERO));
        for c in 0..tile.len {
            // SAFETY: `c < len`.
            let x = unsafe { E::load(s, tile.x[0].add(c * E::WIDTH)) };
            let before = E::bits(s, E::lt(s, number, class));
            number = E::add(s, number, E::splat(s, E::ONE));
            let below = E::bits(s, E::lt(s, x, value));
            wrong |= E::bits(s, E::lt(s, value, x)) | E::nan_bits(s, x) | (before & !below);
        }
        for i in 0..tile.n {
            let error = (wrong & counted) >> i & 1;
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(f64::from(error)) };
        }
        0
    }
}
