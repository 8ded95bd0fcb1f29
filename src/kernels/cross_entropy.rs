//! Cross-entropy of logits with integer labels `y`, and its gradient, in one pass.
//!
//! ```text
//! loss  = logsumexp(x) - x_y = (max - x_y) + log1p(others / e_max)
//! dx_c  = scale (p_c - [c = y])        p = softmax(x)
//! ```
//!
//! The label's entry at the maximum is `-scale others / S`, which keeps its digits where `p_y - 1` is 0.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Double, Element, Float, V64, mul_pairs_v, or_v, two_sum_v};
use crate::kernels::labels::Labels;
use crate::kernels::logsumexp::{group_of_rows, special_max};
use crate::kernels::map::{self, Factor, Scale, product_of};
use crate::kernels::rowsum::{Group, MAX_WIDTH, load64, store64, tile_sum};
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
    /// The scales of `n` rows, high parts and low parts.
    #[inline(always)]
    fn scales(&self, first: usize, n: usize) -> [[f64; MAX_WIDTH]; 2] {
        match &self.scale {
            Scale::All((high, low)) => [[*high; MAX_WIDTH], [*low; MAX_WIDTH]],
            rows @ Scale::Rows(..) => {
                let mut scales = [[0.0; MAX_WIDTH]; 2];
                (0..n).for_each(|i| (scales[0][i], scales[1][i]) = rows.get(first + i));
                scales
            }
        }
    }

    /// The label's entry of the gradient of each row, before rounding: `-others / S` times the scale where the label
    /// is at the maximum, else `p - 1` times the scale.
    #[inline(always)]
    fn label_entries<S: Simd>(
        s: S,
        group: &Group<T::Ops>,
        label_x: &[T; MAX_WIDTH],
        scales: &[[f64; MAX_WIDTH]; 2],
    ) -> [f64; MAX_WIDTH] {
        type O<T> = <T as Float>::Ops;
        // SAFETY: the arrays hold a vector.
        let [x, shift, reference] =
            [label_x, &group.shift, &group.reference].map(|a| unsafe { O::<T>::load(s, a.as_ptr()) });
        let magic = magic::<O<T>, S>(s, reference);
        let mut e = [T::default(); MAX_WIDTH];
        // SAFETY: as above.
        unsafe {
            O::<T>::store(s, exp_scaled::<O<T>, S>(s, O::<T>::sub(s, x, shift), magic), e.as_mut_ptr())
        };
        let e = e.map(O::<T>::to_f64);
        let mut entries = [0.0; MAX_WIDTH];
        if <O<T> as Element>::COMPENSATED {
            for j in (0..<O<T> as Element>::WIDTH).step_by(8) {
                let entry = pair_entries::<O<T>, S>(s, group, &e, scales, j);
                store64(s, entry[0], &mut entries, j);
                let mut elsewhere = [0.0; MAX_WIDTH];
                store64(s, entry[1], &mut elsewhere, j);
                for i in j..j + 8 {
                    entries[i] = if label_x[i] == group.max[i] { entries[i] } else { elsewhere[i] };
                }
            }
            return entries;
        }
        for i in 0..<O<T> as Element>::WIDTH {
            let scale = scales[0][i];
            // The large factor and the small one of three come together first.
            let at_max = if scale.abs() > 1.0 {
                -group.others[i] * (group.inverse[i] * scale)
            } else {
                -(group.others[i] * group.inverse[i]) * scale
            };
            let elsewhere = (e[i] * group.inverse[i] - 1.0) * scale;
            entries[i] = if label_x[i] == group.max[i] { at_max } else { elsewhere };
        }
        entries
    }
}

/// Both entries of 8 rows, `[at the maximum, elsewhere]`, in pairs of `f64`: every operand has a low part, and the
/// roundings of five operations would add up.
#[inline(always)]
fn pair_entries<E: Element, S: Simd>(
    s: S,
    group: &Group<E>,
    e: &[f64; MAX_WIDTH],
    scales: &[[f64; MAX_WIDTH]; 2],
    j: usize,
) -> [V64<S>; 2] {
    let zero = Double::splat(s, 0.0);
    let pair = |high, low| [load64(s, high, j), load64(s, low, j)];
    let scale = pair(&scales[0], &scales[1]);
    let inverse = pair(&group.inverse, &group.inverse_low);
    let others = pair(&group.others, &group.others_low);
    // Not `others`, which may be zero: its product keeps the sign.
    let minus = inverse.map(|v| Double::sub(s, zero, v));
    // The large factor and the small one of three come together first.
    let small = mul_pairs_v(s, mul_pairs_v(s, others, minus), scale);
    let large = mul_pairs_v(s, others, mul_pairs_v(s, minus, scale));
    let magnitude = Double::max(s, scale[0], Double::sub(s, zero, scale[0]));
    let is_large = Double::lt(s, Double::splat(s, 1.0), magnitude);
    let at_max = [0, 1].map(|i| Double::select(s, is_large, large[i], small[i]));
    let p = mul_pairs_v(s, [load64(s, e, j), zero], inverse);
    let (high, low) = two_sum_v(s, p[0], Double::splat(s, -1.0));
    let elsewhere = mul_pairs_v(s, [high, Double::add(s, low, p[1])], scale);
    // The low part of an overflowed product is no number.
    [at_max, elsewhere].map(|[high, low]| or_v(s, Double::add(s, high, low), high))
}

impl<T: Float, const GRAD: bool> Kernel for CrossEntropy<T, GRAD> {
    type E = T::Ops;
    const INPUTS: usize = 1;
    const WRITES: bool = GRAD;
    const PER_ROW: bool = true;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, per_row: *mut f64) {
        let (classes, counted) = self.labels.classes(rows.first, rows.n);
        let mut label_x = [T::default(); MAX_WIDTH];
        for i in 0..rows.n {
            if counted >> i & 1 == 1 {
                // SAFETY: labels that count are class numbers.
                label_x[i] = unsafe { rows.x[0][i].add(classes[i]).read() };
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
        let scales = self.scales(rows.first, rows.n);
        let entries = Self::label_entries(s, &group, &label_x, &scales);
        for i in 0..rows.n {
            let blank = if counted >> i & 1 == 0 {
                Some(T::default())
            } else {
                (special >> i & 1 == 1).then_some(T::Ops::NAN)
            };
            // SAFETY: the caller's promise; labels are class numbers.
            unsafe {
                if let Some(value) = blank {
                    map::fill::<T::Ops>(rows.out[i], rows.len, value);
                } else {
                    let own = Some((classes[i], rounded::<T>(entries[i])));
                    write_exponentials(
                        s,
                        rows,
                        &group,
                        i,
                        Factor::new(group.inverse_pair(i), (scales[0][i], scales[1][i])),
                        own,
                    );
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<T::Ops>, per_row: *mut f64) -> u32 {
        let width = <T::Ops as Element>::WIDTH;
        let (classes, counted) = self.labels.classes(tile.first, tile.n);
        let mut label_x = [T::default(); MAX_WIDTH];
        for i in 0..width {
            // SAFETY: labels are class numbers; the lanes beyond the rows have class 0.
            label_x[i] = unsafe { tile.x[0].add(classes[i] * width + i).read() };
        }
        // SAFETY: the caller's promise.
        let (mut group, unusual) = unsafe { tile_sum::<T::Ops, S, true>(s, tile.x[0], tile.len) };
        let mut again = group.finish_others(s, tile.len) | unusual;
        group.finish_log(s);
        let mut losses = [0.0; MAX_WIDTH];
        for i in 0..width {
            let loss = (T::Ops::to_f64(group.max[i]) - T::Ops::to_f64(label_x[i])) + group.log[i];
            losses[i] = if counted >> i & 1 == 1 { loss } else { 0.0 };
        }
        // SAFETY: `per_row` has room for `n` results.
        unsafe { std::ptr::copy_nonoverlapping(losses.as_ptr(), per_row, tile.n) };
        if !GRAD {
            return again & counted;
        }
        group.finish_inverse(s);
        let scales = self.scales(tile.first, tile.n);
        let entries = Self::label_entries(s, &group, &label_x, &scales);
        let mut factors = [(0.0, 0.0); MAX_WIDTH];
        for i in 0..width {
            let factor = Factor::<T::Ops>::new(group.inverse_pair(i), (scales[0][i], scales[1][i]));
            let exact = product_of::<T::Ops>(group.inverse_pair(i), (scales[0][i], scales[1][i]));
            factors[i] = if counted >> i & 1 == 1 { exact } else { (0.0, 0.0) };
            again |= u32::from(!factor.is_single()) << i;
        }
        // SAFETY: the caller's promise.
        unsafe { scale_tile::<T::Ops, S>(s, tile, &factors) };
        for i in 0..tile.n {
            if counted >> i & 1 == 1 {
                // SAFETY: labels are class numbers.
                unsafe { tile.x[0].add(classes[i] * width + i).write(rounded::<T>(entries[i])) };
            }
        }
        // An ignored row has factor 0; where its exponentials were no numbers, or infinite, that is no zero.
        let mut blank = !counted & unusual & ((1 << tile.n) - 1);
        while blank != 0 {
            let lane = blank.trailing_zeros() as usize;
            blank &= blank - 1;
            for c in 0..tile.len {
                // SAFETY: `c < len`.
                unsafe { tile.x[0].add(c * width + lane).write(T::default()) };
            }
        }
        again & counted
    }
}

#[inline(always)]
fn rounded<T: Float>(x: f64) -> T {
    if x.is_nan() { T::Ops::NAN } else { T::Ops::from_f64(x) }
}
