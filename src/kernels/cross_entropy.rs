//! Cross-entropy of logits with integer labels `y`, and its gradient, in one pass.
//!
//! ```text
//! loss  = logsumexp(x) - x_y = (max - x_y) + log1p(others / e_max)
//! dx_c  = scale (p_c - [c = y])        p = softmax(x)
//! ```
//!
//! The label's entry at the maximum is `-scale others / S`, which keeps its digits where `p_y - 1` is 0.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Element, Float};
use crate::kernels::labels::Labels;
use crate::kernels::logsumexp::{group_of_rows, special_max};
use crate::kernels::map::{self, Factors, Scale};
use crate::kernels::rowsum::{Group, MAX_WIDTH, tile_sum};
use crate::kernels::softmax::{scale_tile, write_exponentials};
use crate::lines::{Kernel, Rows, Tile};
use crate::math::{exp_scaled, magic};
use crate::simd::Simd;

/// Cross-entropy, one loss per row; with the gradient when `GRAD`. Ignored rows have loss and gradient 0.
pub(crate) struct CrossEntropy<T, const GRAD: bool> {
    pub(crate) labels: Labels,
    pub(crate) scale: Scale<T>,
}

impl<T: Float, const GRAD: bool> CrossEntropy<T, GRAD> {
    /// The label's entry of the gradient of each row, before rounding.
    #[inline(always)]
    fn label_entries<S: Simd>(
        &self,
        s: S,
        group: &Group<T::Ops>,
        label_x: &[T; MAX_WIDTH],
        first: usize,
        n: usize,
    ) -> [f64; MAX_WIDTH] {
        type O<T> = <T as Float>::Ops;
        // SAFETY: the arrays hold a vector.
        let load = |a: &[T; MAX_WIDTH]| unsafe { O::<T>::load(s, a.as_ptr()) };
        let shifted = O::<T>::sub(s, load(label_x), load(&group.shift));
        let mut e = [T::default(); MAX_WIDTH];
        // SAFETY: as above.
        unsafe { O::<T>::store(s, exp_scaled::<O<T>, S>(s, shifted, magic::<O<T>, S>(s, load(&group.reference))), e.as_mut_ptr()) };
        let mut entries = [0.0; MAX_WIDTH];
        for i in 0..n {
            let entry = if label_x[i] == group.max[i] {
                -group.others[i] * group.inverse[i]
            } else {
                O::<T>::to_f64(e[i]) * group.inverse[i] - 1.0
            };
            entries[i] = entry * self.scale.get(first + i);
        }
        entries
    }
}

impl<T: Float, const GRAD: bool> Kernel for CrossEntropy<T, GRAD> {
    type E = T::Ops;
    const INPUTS: usize = 1;
    const WRITES: bool = GRAD;
    const PER_ROW: bool = true;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, per_row: *mut f64) {
        let mut label_x = [T::default(); MAX_WIDTH];
        let mut classes = [None; MAX_WIDTH];
        let mut counted = 0;
        for i in 0..rows.n {
            classes[i] = self.labels.get(rows.first + i);
            if let Some(y) = classes[i] {
                // SAFETY: labels are class numbers.
                label_x[i] = unsafe { rows.x[0][i].add(y).read() };
                counted |= 1 << i;
            }
        }
        // SAFETY: the caller's promise.
        let (mut group, special) = unsafe { group_of_rows::<T::Ops, S>(s, rows, counted, GRAD) };
        for i in 0..rows.n {
            let loss = if counted >> i & 1 == 0 {
                0.0
            } else {
                let max = if special >> i & 1 == 1 {
                    // SAFETY: the caller's promise.
                    unsafe { special_max::<T::Ops>(rows.x[0][i], rows.len) }
                } else {
                    T::Ops::to_f64(group.max[i])
                };
                (max - T::Ops::to_f64(label_x[i])) + group.log[i]
            };
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(loss) };
        }
        if !GRAD {
            return;
        }
        group.finish_inverse(s);
        let entries = self.label_entries(s, &group, &label_x, rows.first, rows.n);
        for i in 0..rows.n {
            let Some(y) = classes[i] else {
                // SAFETY: the caller's promise.
                unsafe { map::fill::<T::Ops>(rows.out[i], rows.len, T::default()) };
                continue;
            };
            if special >> i & 1 == 1 {
                // SAFETY: the caller's promise.
                unsafe { map::fill::<T::Ops>(rows.out[i], rows.len, T::Ops::NAN) };
                continue;
            }
            let factors = Factors::new(group.inverse[i], self.scale.get(rows.first + i));
            // SAFETY: the caller's promise; labels are class numbers.
            unsafe {
                write_exponentials(s, rows, &group, i, factors);
                rows.out[i].add(y).write(rounded::<T>(entries[i]));
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<T::Ops>, per_row: *mut f64) -> u32 {
        let width = <T::Ops as Element>::WIDTH;
        let mut label_x = [T::default(); MAX_WIDTH];
        let mut classes = [None; MAX_WIDTH];
        for i in 0..tile.n {
            classes[i] = self.labels.get(tile.first + i);
            // SAFETY: labels are class numbers.
            label_x[i] = unsafe { tile.x[0].add(classes[i].unwrap_or(0) * width + i).read() };
        }
        // SAFETY: the caller's promise.
        let (mut group, unusual) = unsafe {
            if GRAD {
                tile_sum::<T::Ops, S, true>(s, tile.x[0], tile.len)
            } else {
                tile_sum::<T::Ops, S, false>(s, tile.x[0], tile.len)
            }
        };
        let mut again = group.finish_others(s, tile.len) | unusual;
        group.finish_log(s);
        for i in 0..tile.n {
            let loss = (T::Ops::to_f64(group.max[i]) - T::Ops::to_f64(label_x[i])) + group.log[i];
            let counted = classes[i].is_some();
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(if counted { loss } else { 0.0 }) };
        }
        if !GRAD {
            return again & counted_lanes(&classes);
        }
        group.finish_inverse(s);
        let entries = self.label_entries(s, &group, &label_x, tile.first, tile.n);
        let mut factor = [T::default(); MAX_WIDTH];
        for i in 0..tile.n {
            let factors = Factors::<T::Ops>::new(group.inverse[i], self.scale.get(tile.first + i));
            again |= u32::from(!factors.is_single()) << i;
            factor[i] = factors.first;
        }
        // SAFETY: the caller's promise.
        unsafe { scale_tile::<T::Ops, S>(s, tile, &factor) };
        for i in 0..tile.n {
            let column = tile.x[0].wrapping_add(i);
            // SAFETY: labels are class numbers; `c < len`.
            unsafe {
                match classes[i] {
                    Some(y) => column.add(y * width).write(rounded::<T>(entries[i])),
                    None => (0..tile.len).for_each(|c| column.add(c * width).write(T::default())),
                }
            }
        }
        again & counted_lanes(&classes)
    }
}

#[inline(always)]
fn rounded<T: Float>(x: f64) -> T {
    if x.is_nan() { T::Ops::NAN } else { T::Ops::from_f64(x) }
}

#[inline(always)]
fn counted_lanes(classes: &[Option<usize>; MAX_WIDTH]) -> u32 {
    classes.iter().enumerate().fold(0, |mask, (i, class)| mask | u32::from(class.is_some()) << i)
}
