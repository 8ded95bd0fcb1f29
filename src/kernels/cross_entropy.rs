//! Cross-entropy of logits with integer labels `y`, and its gradient, in one pass.
//!
//! ```text
//! loss  = logsumexp(x) - x_y = (max - x_y) + log1p(others / e_max)
//! dx_c  = scale (p_c - [c = y])        p = softmax(x)
//! ```
//!
//! With weights, a row's loss and gradient are those times `class_weight[y] sample_weight`. With a temperature `T`, `x` is
//! `x / T` above, and the gradient is divided by `T`.
//!
//! The label's entry at the maximum is `-scale others / S`, which keeps its digits where `p_y - 1` is 0.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::mul_pairs;
use crate::float::{Acc, Double, Element, Float, mul_pairs_v, or_v, two_sum_v};
use crate::kernels::labels::Labels;
use crate::kernels::logsumexp::{group_logs, special_max};
use crate::kernels::map::{self, Factor, Scale, product_of};
use crate::kernels::rowsum::{Group, MAX_WIDTH, band_sums, first_bits, put_each};
use crate::kernels::softmax::{scale_tile, write_exponentials};
use crate::kernels::temperature::Temperature;
use crate::kernels::weights::{ClassWeight, SampleWeight};
use crate::lines::{Band, GROUP, Kernel, Rows};
use crate::simd::Simd;

/// Cross-entropy, one loss per row; with the gradient when `GRAD`. Ignored rows have loss and gradient 0.
pub(crate) struct CrossEntropy<T, const GRAD: bool> {
    pub(crate) labels: Labels,
    pub(crate) scale: Scale<T>,
    pub(crate) class_weight: ClassWeight<T>,
    pub(crate) sample_weight: SampleWeight,
    pub(crate) temperature: Temperature,
}

impl<T: Float, const GRAD: bool> CrossEntropy<T, GRAD> {
    #[inline(always)]
    fn is_weighted(&self) -> bool {
        !self.class_weight.is_one() || !self.sample_weight.is_one()
    }

    /// Puts the weights of the counted rows of `n` into the group, if there are any; those of the rows whose weight is not 0.
    #[inline(always)]
    fn weights(
        &self,
        group: &mut Group<T::Ops>,
        first: usize,
        n: usize,
        classes: &[usize; GROUP],
        mut counted: u64,
    ) -> u64 {
        if self.is_weighted() {
            for i in 0..n {
                let mut weight = (1.0, 0.0);
                if counted >> i & 1 == 1 {
                    // SAFETY: labels that count are class numbers.
                    let class = unsafe { self.class_weight.of(classes[i]) };
                    let sample = self.sample_weight.of(first + i);
                    // (The same, but the exact product takes a while.)
                    weight = if class == 1.0 || sample == 1.0 {
                        (class * sample, 0.0)
                    } else {
                        mul_pairs((class, 0.0), (sample, 0.0))
                    };
                    counted &= !(u64::from(weight.0 == 0.0) << i);
                }
                (group.weights[0][i], group.weights[1][i]) = weight;
            }
        }
        counted
    }

    /// A loss of row `i` times its weight, but for a weight of 1 the loss itself.
    #[inline(always)]
    fn weighted(&self, group: &Group<T::Ops>, i: usize, loss: f64) -> f64 {
        if !self.is_weighted() {
            return loss;
        }
        let (high, low) = (group.weights[0][i], group.weights[1][i]);
        let rest = loss * low;
        if rest == 0.0 || !rest.is_finite() { loss * high } else { loss * high + rest }
    }

    /// The scales of `n` rows, high parts and low parts; zero for those that do not count.
    #[inline(always)]
    fn scales(&self, group: &Group<T::Ops>, first: usize, n: usize, counted: u64) -> [[f64; GROUP]; 2] {
        let mut scales = match &self.scale {
            Scale::All((high, low)) => [[*high; GROUP], [*low; GROUP]],
            Scale::Rows(..) => [[0.0; GROUP]; 2],
        };
        let weighted = self.is_weighted();
        let plain = !weighted && self.temperature.is_one();
        if matches!(self.scale, Scale::Rows(..)) || counted != first_bits(n) || !plain {
            for i in 0..n {
                let mut scale = if counted >> i & 1 == 1 { self.scale.get(first + i) } else { (0.0, 0.0) };
                if !plain {
                    let weight =
                        if weighted { (group.weights[0][i], group.weights[1][i]) } else { (1.0, 0.0) };
                    scale = product_of::<T::Ops>(scale, weight);
                    scale = product_of::<T::Ops>(scale, group.cooling(i));
                }
                (scales[0][i], scales[1][i]) = scale;
            }
        }
        scales
    }

    /// Writes the losses of `n` rows, right where they are neither special nor dominated.
    ///
    /// # Safety
    /// `per_row` is valid for writing `n` results.
    #[inline(always)]
    unsafe fn losses(&self, group: &Group<T::Ops>, label_x: &[T; GROUP], n: usize, per_row: *mut f64) {
        let distance = |i: usize| T::Ops::to_f64(group.max[i]) - T::Ops::to_f64(label_x[i]);
        if self.temperature.is_one() && !self.is_weighted() {
            // SAFETY: the caller's promise.
            unsafe { put_each(n, per_row, |i| distance(i) + group.log[i]) };
        } else {
            for i in 0..n {
                let loss = group.cooled(i, distance(i)) + group.log[i];
                // SAFETY: as above.
                unsafe { per_row.add(i).write(self.weighted(group, i, loss)) };
            }
        }
    }

    /// The label's entry of the gradient of rows `j..j + WIDTH`: `-others / S` times the scale where the label is at
    /// the maximum, else `p - 1` times the scale.
    #[inline(always)]
    fn label_entries<S: Simd>(
        s: S,
        group: &Group<T::Ops>,
        label_x: &[T; GROUP],
        scales: &[[f64; GROUP]; 2],
        j: usize,
    ) -> <T::Ops as Element>::V<S> {
        type O<T> = <T as Float>::Ops;
        let (x, max) = (Group::<O<T>>::load(s, label_x, j), Group::<O<T>>::load(s, &group.max, j));
        let e = group.exponentials(s, x, j);
        let others = O::<T>::load_wide(s, &group.others, &group.others_low, j);
        let scale = O::<T>::load_wide(s, &scales[0], &scales[1], j);
        let inverse = group.inverses(s, j);
        let e = O::<T>::wide(s, e);
        let [at_max, elsewhere] = if <O<T> as Element>::COMPENSATED {
            pair_entries(s, others, e, inverse, scale)
        } else {
            wide_entries(s, others, e, inverse, scale)
        };
        let (at_max, elsewhere) = (O::<T>::narrow(s, at_max), O::<T>::narrow(s, elsewhere));
        O::<T>::canonical(s, O::<T>::select(s, O::<T>::lt(s, x, max), elsewhere, at_max))
    }
}

/// Both entries of 16 rows, `[at the maximum, elsewhere]`, in `f64`.
#[inline(always)]
fn wide_entries<S: Simd>(s: S, others: Acc<S>, e: Acc<S>, inverse: Acc<S>, scale: Acc<S>) -> [Acc<S>; 2] {
    let zero = Double::splat(s, 0.0);
    let (mut at_max, mut elsewhere) = ([zero; 2], [zero; 2]);
    for i in 0..2 {
        // Not `others`, which may be zero: its product keeps the sign.
        let minus = Double::sub(s, zero, inverse[i]);
        // The large factor and the small one of three come together first.
        let small = Double::mul(s, Double::mul(s, others[i], minus), scale[i]);
        let large = Double::mul(s, others[i], Double::mul(s, minus, scale[i]));
        let magnitude = Double::max(s, scale[i], Double::sub(s, zero, scale[i]));
        at_max[i] = Double::select(s, Double::lt(s, Double::splat(s, 1.0), magnitude), large, small);
        let p = Double::mul(s, e[i], inverse[i]);
        elsewhere[i] = Double::mul(s, Double::add(s, p, Double::splat(s, -1.0)), scale[i]);
    }
    [at_max, elsewhere]
}

/// Both entries of 8 rows, `[at the maximum, elsewhere]`, in pairs of `f64`: every operand has a low part, and the
/// roundings of five operations would add up.
#[inline(always)]
fn pair_entries<S: Simd>(s: S, others: Acc<S>, e: Acc<S>, inverse: Acc<S>, scale: Acc<S>) -> [Acc<S>; 2] {
    let zero = Double::splat(s, 0.0);
    let minus = [Double::sub(s, zero, inverse[0]), Double::sub(s, zero, inverse[1])];
    let small = mul_pairs_v(s, mul_pairs_v(s, others, minus), scale);
    let large = mul_pairs_v(s, others, mul_pairs_v(s, minus, scale));
    let magnitude = Double::max(s, scale[0], Double::sub(s, zero, scale[0]));
    let is_large = Double::lt(s, Double::splat(s, 1.0), magnitude);
    let at_max =
        [Double::select(s, is_large, large[0], small[0]), Double::select(s, is_large, large[1], small[1])];
    let p = mul_pairs_v(s, e, inverse);
    let (high, low) = two_sum_v(s, p[0], Double::splat(s, -1.0));
    let elsewhere = mul_pairs_v(s, [high, Double::add(s, low, p[1])], scale);
    // The low part of an overflowed product is no number.
    [
        [or_v(s, Double::add(s, at_max[0], at_max[1]), at_max[0]), zero],
        [or_v(s, Double::add(s, elsewhere[0], elsewhere[1]), elsewhere[0]), zero],
    ]
}

impl<T: Float, const GRAD: bool> Kernel for CrossEntropy<T, GRAD> {
    type E = T::Ops;
    const INPUTS: usize = 1;
    const WRITES: bool = GRAD;

    #[inline(always)]
    fn reads_halves(&self) -> bool {
        self.temperature.is_one()
    }

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, group: &mut Group<T::Ops>, per_row: *mut f64) {
        let width = <T::Ops as Element>::WIDTH;
        let (classes, counted) = self.labels.classes(rows.first, rows.n);
        let counted = self.weights(group, rows.first, rows.n, &classes, counted);
        // SAFETY: labels that count are class numbers.
        let label_x = unsafe { rows.chosen(s, &classes, counted) };
        // SAFETY: the caller's promise.
        let special = unsafe { group_logs::<T::Ops, S>(s, rows, group, &self.temperature, counted, GRAD) };
        // SAFETY: as above.
        unsafe { self.losses(group, &label_x, rows.n, per_row) };
        let mut odd = (special | !counted) & first_bits(rows.n);
        while odd != 0 {
            let i = odd.trailing_zeros() as usize;
            odd &= odd - 1;
            let loss = if counted >> i & 1 == 0 {
                0.0
            } else {
                // SAFETY: the caller's promise.
                let max = unsafe { special_max::<T::Ops>(rows.row(s, i), rows.len) };
                self.weighted(group, i, max - T::Ops::to_f64(label_x[i]))
            };
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(loss) };
        }
        if !GRAD {
            return;
        }
        group.finish_inverse(s);
        let scales = self.scales(group, rows.first, rows.n, counted);
        let mut entries = [T::default(); GROUP];
        for j in (0..rows.n).step_by(width) {
            let entry = Self::label_entries(s, group, &label_x, &scales, j);
            Group::<T::Ops>::store(s, entry, &mut entries, j);
        }
        for i in 0..rows.n {
            let blank = if counted >> i & 1 == 0 {
                Some(T::default())
            } else {
                (special >> i & 1 == 1).then_some(T::Ops::NAN)
            };
            // SAFETY: the caller's promise; labels are class numbers.
            unsafe {
                if let Some(value) = blank {
                    map::fill::<T::Ops>(rows.out(i), rows.len, value);
                } else {
                    let factor = Factor::new(group.inverse_pair(i), (scales[0][i], scales[1][i]));
                    write_exponentials(s, rows, group, i, factor, Some((classes[i], entries[i])));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(
        &self,
        s: S,
        band: &Band<T::Ops>,
        group: &mut Group<T::Ops>,
        per_row: *mut f64,
    ) -> u64 {
        type O<T> = <T as Float>::Ops;
        let width = <O<T> as Element>::WIDTH;
        let (classes, counted) = self.labels.classes(band.first, band.n);
        let counted = self.weights(group, band.first, band.n, &classes, counted);
        let mut label_x = [T::default(); GROUP];
        for j in (0..band.n).step_by(width) {
            let tile = band.tile(0, j);
            for i in 0..width.min(band.n - j) {
                // SAFETY: labels are class numbers, 0 where ignored.
                label_x[j + i] = unsafe { tile.add(classes[j + i] * width + i).read() };
            }
        }
        // SAFETY: the caller's promise.
        let unusual = unsafe { band_sums::<O<T>, S, true>(s, band, group, &self.temperature) };
        let mut again = group.finish_log(s, band.len) | unusual;
        // SAFETY: as above.
        unsafe { self.losses(group, &label_x, band.n, per_row) };
        let mut ignored = !counted & first_bits(band.n);
        while ignored != 0 {
            // SAFETY: bit numbers below `n`.
            unsafe { per_row.add(ignored.trailing_zeros() as usize).write(0.0) };
            ignored &= ignored - 1;
        }
        if !GRAD {
            return again & counted;
        }
        group.finish_inverse(s);
        let scales = self.scales(group, band.first, band.n, counted);
        for j in (0..band.n).step_by(width) {
            let scale = O::<T>::load_wide(s, &scales[0], &scales[1], j);
            let factor = O::<T>::product(s, group.inverses(s, j), scale);
            again |= u64::from(map::out_of_range::<O<T>, S>(s, factor)) << j;
            scale_tile(s, band, j, factor);
            let mut entries = [T::default(); MAX_WIDTH];
            let entry = Self::label_entries(s, group, &label_x, &scales, j);
            // SAFETY: the array holds a vector.
            unsafe { O::<T>::store(s, entry, entries.as_mut_ptr()) };
            let tile = band.tile(0, j);
            let n = width.min(band.n - j);
            let all = counted >> j & first_bits(n) == first_bits(n);
            for i in 0..n {
                if all || counted >> (j + i) & 1 == 1 {
                    // SAFETY: labels are class numbers.
                    unsafe { tile.add(classes[j + i] * width + i).write(entries[i]) };
                }
            }
        }
        // An ignored row has factor 0; where its exponentials were no numbers, or infinite, that is no zero.
        let mut blank = !counted & unusual & first_bits(band.n);
        while blank != 0 {
            let i = blank.trailing_zeros() as usize;
            blank &= blank - 1;
            for c in 0..band.len {
                // SAFETY: `c < len`.
                unsafe { band.element(0, i, c).write(T::default()) };
            }
        }
        again & counted
    }
}
