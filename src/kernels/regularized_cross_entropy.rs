//! Cross-entropy with label smoothing, weighted classes along the row, z-loss, or a temperature with probabilities as
//! labels; and its gradient, in one pass.
//!
//! With `q = log sum exp(x / T)`, class weights `w`, smoothing `e` and `C` classes, the target of class `c` is
//!
//! ```text
//! u_c   = w_c ((1-e) t_c + e/C)        t: the probabilities, or 1 at the label and 0 elsewhere
//! loss  = sum_c u_c (q - x_c / T) + z q^2
//! dx_c  = scale / T ((U + 2 z q) p_c - u_c)        U = sum_c u_c
//! ```
//!
//! For a label `y` both fall into the label's part `a = (1-e) w_y` and an even part `b = e/C` of every weight, so that the
//! label's entry keeps its digits: `a (p_y - 1) + (b sum_c w_c + 2 z q) p_y - b w_y`, with `p_y - 1 = -others / S` at the
//! maximum. All of it is multiplied by the row's sample weight.
//!
//! With smoothing under a mask the classes are those that the row has: logits that are not under it, whatever they are.
//! What the gradient is elsewhere does not matter.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::{add_pairs, divide_pair, mul_pairs, two_sum, value};
use crate::float::{Acc, Double, Element, Float};
use crate::kernels::labels::Labels;
use crate::kernels::logsumexp::{group_logs, special_max};
use crate::kernels::map::{self, Exponentials, Factor, Map, Scale, product_of};
use crate::kernels::rowsum::{Group, MAX_WIDTH, band_sums, first_bits, sum_lanes, tile_max};
use crate::kernels::soft_cross_entropy::{grad, magnified, magnifier, minus, single_factor};
use crate::kernels::temperature::Temperature;
use crate::kernels::weights::{ClassWeight, Classes, SampleWeight};
use crate::lines::{Band, GROUP, Kernel, Rows};
use crate::simd::{Simd, Task, map_each};
use std::mem::MaybeUninit;

/// One loss per row; with the gradient when `GRAD`. The operands are `(x, t)` when `SOFT`, else `x`, with labels. Rows that
/// do not count have loss and gradient 0.
pub(crate) struct RegularizedCrossEntropy<T, const SOFT: bool, const GRAD: bool> {
    pub(crate) labels: Option<Labels>,
    pub(crate) classes: Classes,
    pub(crate) scale: Scale<T>,
    pub(crate) class_weight: ClassWeight<T>,
    /// Their sum, as `(high, low)`; under a mask each row has its own.
    pub(crate) class_total: (f64, f64),
    pub(crate) sample_weight: SampleWeight,
    pub(crate) temperature: Temperature,
    pub(crate) smoothing: f64,
    pub(crate) z_loss: f64,
}

/// So many rows are added up side by side.
const BESIDE: usize = 4;

/// The targets `u` along a row; for labels without their `e/C` and the label's own part.
struct Targets<E: Element> {
    /// The probabilities, or null.
    t: *const E::T,
    /// The class weights, or null.
    weights: *const E::T,
    /// `1 - e` and `e/C`, if there is smoothing.
    smoothing: Option<(E::T, E::T)>,
    mask: RowMask,
}

/// The mask of a row, bytes that are 0 for the classes that it does not have, and the step between them; or null.
type RowMask = (*const u8, isize);

/// The mask of elements `i..i + n`, of no more than a vector.
///
/// # Safety
/// There is a mask, and it has these elements.
#[inline(always)]
unsafe fn mask_at<E: Element, S: Simd>(s: S, (bytes, step): RowMask, i: usize, n: usize) -> E::M<S> {
    // SAFETY: the caller's promise; the array holds a vector.
    unsafe {
        if step == 1 && n == E::WIDTH {
            return E::load_mask(s, bytes.add(i));
        }
        let mut lanes = [0; MAX_WIDTH];
        for (j, lane) in lanes.iter_mut().enumerate().take(n) {
            *lane = bytes.wrapping_offset((i + j) as isize * step).read();
        }
        E::load_mask(s, lanes.as_ptr())
    }
}

impl<E: Element> Targets<E> {
    /// Those at `i..i + n`, and zero beyond.
    ///
    /// # Safety
    /// The pointers that are not null are valid for reading there.
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        let ones = [E::ONE; MAX_WIDTH];
        // SAFETY: `ones` holds a vector; the caller's promise.
        unsafe {
            let mut u = map::load::<E, S>(s, ones.as_ptr(), n);
            if !self.t.is_null() {
                let t = map::load::<E, S>(s, self.t.add(i), n);
                u = match self.smoothing {
                    None => t,
                    Some((keep, share)) => E::fma(s, t, E::splat(s, keep), E::mul(s, u, E::splat(s, share))),
                };
            }
            if !self.weights.is_null() {
                u = E::mul(s, u, map::load::<E, S>(s, self.weights.add(i), n));
            }
            if self.mask.0.is_null() {
                u
            } else {
                E::select(s, mask_at::<E, S>(s, self.mask, i, n), u, E::splat(s, E::ZERO))
            }
        }
    }

    /// One of them.
    ///
    /// # Safety
    /// As [`Targets::at`].
    unsafe fn one(&self, c: usize) -> f64 {
        // SAFETY: the caller's promise.
        unsafe {
            let (bytes, step) = self.mask;
            if !bytes.is_null() && bytes.wrapping_offset(c as isize * step).read() == 0 {
                return 0.0;
            }
            let mut u = if self.t.is_null() { 1.0 } else { E::to_f64(self.t.add(c).read()) };
            if let (Some((keep, share)), false) = (self.smoothing, self.t.is_null()) {
                u = u * E::to_f64(keep) + E::to_f64(share);
            }
            if self.weights.is_null() { u } else { u * E::to_f64(self.weights.add(c).read()) }
        }
    }
}

/// `(sum u (max - x), sum u)` over a row, each as `(high, low)`.
struct Weighted<'a, E: Element> {
    x: *const E::T,
    targets: &'a Targets<E>,
    max: E::T,
    len: usize,
}

impl<E: Element> Task for Weighted<'_, E> {
    type Out = [(f64, f64); 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [(f64, f64); 2] {
        let mut weighted: Acc<S> = [Double::splat(s, 0.0); 2];
        let mut total = weighted;
        let max = E::splat(s, self.max);
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            // SAFETY: `n` elements remain.
            let (x, u) = unsafe { (map::load::<E, S>(s, self.x.add(i), n), self.targets.at(s, i, n)) };
            weighted = E::accumulate_weighted(s, weighted, u, max, x);
            total = E::accumulate(s, total, u);
        }
        [E::reduce(s, weighted), E::reduce(s, total)]
    }
}

/// The indices of the lowest `N` bits of `bits`, which is not 0, the last one again where there are fewer; and the other
/// bits.
fn lowest<const N: usize>(mut bits: u64) -> ([usize; N], u64) {
    let mut at = [bits.trailing_zeros() as usize; N];
    bits &= bits - 1;
    for i in 1..N {
        at[i] = if bits == 0 { at[i - 1] } else { bits.trailing_zeros() as usize };
        bits &= bits.wrapping_sub(1);
    }
    (at, bits)
}

/// The sum of `E::TOGETHER` distances `max - x`.
#[inline(always)]
fn together<E: Element, S: Simd>(s: S, d: [E::V<S>; 4]) -> E::V<S> {
    let pair = E::add(s, d[0], d[1]);
    if E::TOGETHER == 2 { pair } else { E::add(s, pair, E::add(s, d[2], d[3])) }
}

/// `sum w (max - x)` over `N` rows side by side, so that no addition waits for the one before it; not a number where `w` is 0
/// and `x` is -inf. Without weights, `E::TOGETHER` distances of a lane are added before the sum takes them. With `MASK`
/// those of classes that a row does not have are 0; there are no weights then.
struct Even<E: Element, const N: usize, const MASK: bool> {
    /// Where a row begins, its maximum, and its mask.
    rows: [(*const E::T, E::T, RowMask); N],
    /// Or null.
    weights: *const E::T,
    len: usize,
}

impl<E: Element, const N: usize, const MASK: bool> Task for Even<E, N, MASK> {
    type Out = [(f64, f64); N];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [(f64, f64); N] {
        let sums = if !MASK && !self.weights.is_null() {
            self.weighted(s)
        } else if !MASK || self.rows.iter().all(|(.., (_, step))| *step == 1) {
            self.plain::<S, true>(s)
        } else {
            self.plain::<S, false>(s)
        };
        let mut results = [(0.0, 0.0); N];
        for i in 0..N {
            results[i] = E::reduce(s, sums[i]);
        }
        results
    }
}

impl<E: Element, const N: usize, const MASK: bool> Even<E, N, MASK> {
    /// With `STEADY` the bytes of every mask are neighbours.
    #[inline(always)]
    fn plain<S: Simd, const STEADY: bool>(&self, s: S) -> [Acc<S>; N] {
        let mut sums: [Acc<S>; N] = [[Double::splat(s, 0.0); 2]; N];
        let step = E::TOGETHER * E::WIDTH;
        let whole = self.len - self.len % step;
        let zero = [E::splat(s, E::ZERO); 4];
        for i in (0..whole).step_by(step) {
            for r in 0..N {
                let (x, max, mask) = self.rows[r];
                let (max, mut d) = (E::splat(s, max), zero);
                for k in 0..E::TOGETHER {
                    let at = i + k * E::WIDTH;
                    // SAFETY: `at + WIDTH <= len`.
                    unsafe {
                        d[k] = E::sub(s, max, E::load(s, x.add(at)));
                        if MASK {
                            let mask = if STEADY { (mask.0, 1) } else { mask };
                            d[k] = E::select(s, mask_at::<E, S>(s, mask, at, E::WIDTH), d[k], zero[k]);
                        }
                    }
                }
                sums[r] = E::accumulate(s, sums[r], together::<E, S>(s, d));
            }
        }
        if whole < self.len {
            for r in 0..N {
                let ((x, max, mask), mut d) = (self.rows[r], zero);
                for k in 0..E::TOGETHER {
                    let start = whole + k * E::WIDTH;
                    if start < self.len {
                        let n = (self.len - start).min(E::WIDTH);
                        // SAFETY: `n` elements remain.
                        unsafe {
                            let x = E::load_first(s, x.add(start), n, max);
                            d[k] = E::sub(s, E::splat(s, max), x);
                            if MASK {
                                d[k] = E::select(s, mask_at::<E, S>(s, mask, start, n), d[k], zero[k]);
                            }
                        }
                    }
                }
                sums[r] = E::accumulate(s, sums[r], together::<E, S>(s, d));
            }
        }
        sums
    }

    #[inline(always)]
    fn weighted<S: Simd>(&self, s: S) -> [Acc<S>; N] {
        let mut sums: [Acc<S>; N] = [[Double::splat(s, 0.0); 2]; N];
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            // SAFETY: `n` elements remain.
            let w = unsafe { map::load::<E, S>(s, self.weights.add(i), n) };
            for r in 0..N {
                let (x, max, _) = self.rows[r];
                // SAFETY: as above.
                let x = unsafe {
                    if n == E::WIDTH { E::load(s, x.add(i)) } else { E::load_first(s, x.add(i), n, max) }
                };
                sums[r] = E::accumulate_product(s, sums[r], w, E::sub(s, E::splat(s, max), x));
            }
        }
        sums
    }
}

/// `e (high + low) + (minus_high + minus_low)`: never NaN, since neither the parts are nor the exponentials of a row whose
/// sum is a number.
#[inline(always)]
fn even_grad<E: Element, S: Simd>(
    s: S,
    e: E::V<S>,
    [high, low, minus_high, minus_low]: [E::V<S>; 4],
) -> E::V<S> {
    let rest = E::add(s, minus_high, E::fma(s, e, low, minus_low));
    E::fma(s, e, high, rest)
}

/// `e factor - u minus`.
struct GradMap<'a, E: Element> {
    exponentials: Exponentials<E>,
    targets: &'a Targets<E>,
    parts: [E::T; 4],
}

impl<E: Element> Map<E> for GradMap<'_, E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (e, u) = unsafe { (self.exponentials.exponentials(s, i, n), self.targets.at(s, i, n)) };
        grad::<E, S>(s, e, u, map_each(self.parts, |v| E::splat(s, v)))
    }
}

/// The same where every `u` is 1.
struct EvenMap<E: Element> {
    exponentials: Exponentials<E>,
    parts: [E::T; 4],
}

impl<E: Element> Map<E> for EvenMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let e = unsafe { self.exponentials.exponentials(s, i, n) };
        even_grad::<E, S>(s, e, map_each(self.parts, |v| E::splat(s, v)))
    }
}

/// `(e inverse total - u share) scale`, where the element type cannot hold the products.
struct CarefulMap<'a, E: Element> {
    exponentials: Exponentials<E>,
    targets: &'a Targets<E>,
    share: E::T,
    total: E::T,
    scale: E::T,
}

impl<E: Element> Map<E> for CarefulMap<'_, E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        let splat = |v| E::splat(s, v);
        let factor = &self.exponentials.factor;
        // SAFETY: the caller's promise.
        let (e, u) = unsafe { (self.exponentials.exponentials(s, i, n), self.targets.at(s, i, n)) };
        let p = map::scale::<E, S>(s, e, splat(factor.high), splat(factor.low));
        let u = E::mul(s, u, splat(self.share));
        let difference = E::fma(s, p, splat(self.total), E::sub(s, splat(E::ZERO), u));
        E::canonical(s, E::mul(s, difference, splat(self.scale)))
    }
}

/// A row as the formulas want it.
#[derive(Clone, Copy)]
struct Row<T> {
    sample: f64,
    /// The label, its logit, its stored exponential, its class weight `w_y`, and `(1-e) w_y`.
    class: usize,
    label_x: T,
    label_e: T,
    weight: f64,
    part: (f64, f64),
    /// `e/C`, or 1 for probabilities.
    share: (f64, f64),
    /// `sum u (max - x)` and `U`; for labels without `e/C` and the label's part.
    spread: (f64, f64),
    total: (f64, f64),
}

/// Memory for the rows of a group, of which only those that there are get written.
type Memory<T> = [MaybeUninit<Row<T>>; GROUP];

/// The rows of a group.
struct Batch<'a, T> {
    /// Those that count.
    counted: u64,
    rows: &'a mut [Row<T>],
}

/// What a row's gradient is made of: `e (high + low) - u (minus_high + minus_low)`.
struct Gradient<T> {
    parts: [T; 4],
    /// The label's entry.
    entry: T,
    /// Whether the element type cannot hold the parts; then `(U + 2 z q)` and the scale count.
    careful: bool,
    total: (f64, f64),
    scale: (f64, f64),
}

impl<T: Float, const SOFT: bool, const GRAD: bool> RegularizedCrossEntropy<T, SOFT, GRAD> {
    /// The even part of every weight, for labels.
    #[inline(always)]
    fn share(&self, classes: f64) -> (f64, f64) {
        if SOFT { (1.0, 0.0) } else { divide_pair(self.smoothing, classes) }
    }

    /// Whether `sum u (max - x)` is needed.
    #[inline(always)]
    fn spreads(&self) -> bool {
        SOFT || self.smoothing > 0.0
    }

    /// Whether all targets without the label's part are equal, but for a mask.
    #[inline(always)]
    fn is_even(&self) -> bool {
        !SOFT && self.class_weight.is_one()
    }

    #[inline(always)]
    fn masked(&self) -> bool {
        matches!(self.classes, Classes::Masked { .. })
    }

    /// Whether the targets are added up as such.
    #[inline(always)]
    fn adds_targets(&self) -> bool {
        SOFT || self.masked() && !self.class_weight.is_one()
    }

    /// How many classes a row of the batch has, of `len` elements.
    #[inline(always)]
    fn count(&self, row: usize, len: usize) -> f64 {
        match &self.classes {
            Classes::All => len as f64,
            // SAFETY: the view has a number for every row.
            Classes::Masked { counts, .. } => unsafe { counts.row(row, 1).read() },
        }
    }

    /// The mask of a row of the batch.
    #[inline(always)]
    fn mask(&self, row: usize) -> RowMask {
        match &self.classes {
            Classes::All => (std::ptr::null(), 0),
            Classes::Masked { mask, .. } => (mask.row(row, 1).cast_const(), mask.len),
        }
    }

    /// The labels and weights of `n` rows; `at(i, c)` is where logit `c` of row `i` is.
    ///
    /// # Safety
    /// `at` gives valid pointers for every class.
    #[inline(always)]
    unsafe fn batch<'a>(
        &self,
        memory: &'a mut Memory<T>,
        first: usize,
        n: usize,
        len: usize,
        at: impl Fn(usize, usize) -> *const T,
    ) -> Batch<'a, T> {
        let (class, mut counted) = match &self.labels {
            Some(labels) => labels.classes(first, n),
            None => ([0; GROUP], first_bits(n)),
        };
        let plain = Row {
            sample: 1.0,
            class: 0,
            label_x: T::default(),
            label_e: T::default(),
            weight: 1.0,
            part: (1.0 - self.smoothing, 0.0),
            share: self.share(len as f64),
            spread: (0.0, 0.0),
            total: self.class_total,
        };
        for (i, memory) in memory[..n].iter_mut().enumerate() {
            let row = memory.write(plain);
            if counted >> i & 1 == 0 {
                continue;
            }
            row.sample = self.sample_weight.of(first + i);
            if self.masked() {
                let classes = self.count(first + i, len);
                (row.share, row.total) = (self.share(classes), (classes, 0.0));
            }
            if !SOFT {
                row.class = class[i];
                // SAFETY: labels that count are class numbers.
                unsafe {
                    row.label_x = at(i, class[i]).read();
                    row.weight = self.class_weight.of(class[i]);
                }
                if !self.class_weight.is_one() {
                    row.part = mul_pairs((1.0 - self.smoothing, 0.0), (row.weight, 0.0));
                }
            }
            let nothing = !SOFT && self.smoothing == 0.0 && row.weight == 0.0;
            counted &= !(u64::from(row.sample == 0.0 || nothing) << i);
        }
        // SAFETY: the first `n` are written.
        let rows = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), n) };
        Batch { counted, rows }
    }

    /// The stored exponentials of the labels' logits.
    #[inline(always)]
    fn label_exponentials<S: Simd>(s: S, group: &Group<T::Ops>, batch: &mut Batch<T>) {
        let width = <T::Ops as Element>::WIDTH;
        for (j, rows) in batch.rows.chunks_mut(width).enumerate() {
            let mut lanes = [T::default(); MAX_WIDTH];
            for (lane, row) in lanes.iter_mut().zip(rows.iter()) {
                *lane = row.label_x;
            }
            // SAFETY: `lanes` holds a vector.
            unsafe {
                let x = T::Ops::load(s, lanes.as_ptr());
                T::Ops::store(s, group.exponentials(s, x, j * width), lanes.as_mut_ptr());
            }
            for (row, &lane) in rows.iter_mut().zip(&lanes) {
                row.label_e = lane;
            }
        }
    }

    /// What the targets of a row are multiplied by to have all digits.
    #[inline(always)]
    fn magnifier(&self, row: &Row<T>) -> f64 {
        if SOFT { magnifier::<T::Ops>(row.total.0) } else { 1.0 }
    }

    /// The loss of row `i` with its sample weight; for `f64` in pairs.
    #[inline(always)]
    fn loss(&self, group: &Group<T::Ops>, row: &Row<T>, i: usize) -> f64 {
        type O<T> = <T as Float>::Ops;
        let share = row.share;
        let max = O::<T>::to_f64(group.max[i]);
        let label = O::<T>::to_f64(row.label_x);
        if !O::<T>::COMPENSATED {
            let log = group.log[i];
            let mut loss = 0.0;
            if self.spreads() {
                loss = share.0 * (group.cooled(i, row.spread.0) + row.total.0 * log);
            }
            if !SOFT && row.part.0 != 0.0 {
                loss += row.part.0 * (group.cooled(i, max - label) + log);
            }
            if self.z_loss > 0.0 {
                let lse = group.logsumexp(i);
                loss += self.z_loss * (lse * lse);
            }
            return loss * row.sample;
        }
        let log = (group.log[i], group.log_low(i));
        let mut loss = (0.0, 0.0);
        if self.spreads() {
            loss = add_pairs(mul_pairs(row.spread, group.cooling(i)), mul_pairs(row.total, log));
            loss = if SOFT { loss } else { mul_pairs(loss, share) };
        }
        if !SOFT && row.part.0 != 0.0 {
            let distance = two_sum(max, -label);
            let plain = add_pairs(mul_pairs(distance, group.cooling(i)), log);
            loss = add_pairs(loss, mul_pairs(plain, row.part));
        }
        if self.z_loss > 0.0 {
            let lse = (group.logsumexp(i), 0.0);
            loss = add_pairs(loss, mul_pairs(mul_pairs(lse, lse), (self.z_loss, 0.0)));
        }
        value(loss) * row.sample
    }

    /// The loss of a row whose maximum is not finite, or (`group`) whose sum of `u (max - x)` is not or whose targets are
    /// tiny: from halves.
    ///
    /// # Safety
    /// `x` and the targets are valid for reading `len` elements.
    #[inline(never)]
    unsafe fn careful_loss(
        &self,
        x: *const T,
        len: usize,
        targets: &Targets<T::Ops>,
        row: &Row<T>,
        i: usize,
        group: Option<&Group<T::Ops>>,
    ) -> f64 {
        // SAFETY: the caller's promise.
        let max = unsafe { special_max::<T::Ops>(x, len) };
        let (cooling, log, lse) =
            group.map_or(((1.0, 0.0), 0.0, max), |g| (g.cooling(i), g.log[i], g.logsumexp(i)));
        let share = value(row.share);
        let sum = magnified(self.magnifier(row), |by| {
            let mut sum = (0.0, 0.0);
            let mut add = |u: f64, x: f64| {
                if u != 0.0 {
                    let half = two_sum(0.5 * max, -0.5 * x);
                    let half = add_pairs(mul_pairs(half, cooling), (0.5 * log, 0.0));
                    sum = add_pairs(sum, mul_pairs((u * by, 0.0), half));
                }
            };
            for c in 0..if self.spreads() { len } else { 0 } {
                // SAFETY: `c < len`.
                add(unsafe { targets.one(c) } * share, T::Ops::to_f64(unsafe { x.add(c).read() }));
            }
            if !SOFT {
                add(value(row.part), T::Ops::to_f64(row.label_x));
            }
            2.0 * value(sum)
        });
        let z = if self.z_loss > 0.0 { self.z_loss * lse * lse } else { 0.0 };
        let loss = if max.is_nan() { f64::NAN } else { sum + z };
        loss * row.sample
    }

    /// What the gradient of row `i` is made of, number `index` of the array.
    #[inline(always)]
    fn gradient(&self, group: &Group<T::Ops>, row: &Row<T>, i: usize, index: usize) -> Gradient<T> {
        type O<T> = <T as Float>::Ops;
        let inverse = group.inverse_pair(i);
        let scale = product_of::<O<T>>(self.scale.get(index), (row.sample, 0.0));
        let scale = product_of::<O<T>>(scale, group.cooling(i));
        // `U + 2 z q`, for labels without the label's part.
        let mut even = if SOFT { row.total } else { product_of::<O<T>>(row.share, row.total) };
        if self.z_loss > 0.0 {
            let z = product_of::<O<T>>((2.0 * self.z_loss, 0.0), (group.logsumexp(i), 0.0));
            even = add_pairs(even, z);
        }
        let total = if SOFT { even } else { add_pairs(even, row.part) };
        let mut entry = T::default();
        if !SOFT {
            let value = Self::label_entry(group, row, i, even, scale);
            entry = if value.is_nan() { T::Ops::NAN } else { O::<T>::from_f64(value) };
        }
        let even_scale = product_of::<O<T>>(scale, row.share);
        let inside = even_scale.0 == 0.0 || even_scale.0.abs() > O::<T>::FACTOR_RANGE.0;
        let factor = single_factor::<O<T>>(inverse, total, scale).filter(|_| inside);
        let parts = factor.map_or([T::default(); 4], |factor| {
            let (minus_high, minus_low) = minus::<O<T>>(even_scale);
            [factor.high, factor.low, minus_high, minus_low]
        });
        Gradient { parts, entry, careful: factor.is_none(), total, scale }
    }

    /// The label's entry of row `i`; for `f64` in pairs.
    #[inline(always)]
    fn label_entry(
        group: &Group<T::Ops>,
        row: &Row<T>,
        i: usize,
        even: (f64, f64),
        scale: (f64, f64),
    ) -> f64 {
        let (inverse, share, part, weight) = (group.inverse_pair(i), row.share, row.part, row.weight);
        let e = T::Ops::to_f64(row.label_e);
        let at_max = row.label_x >= group.max[i];
        if !T::Ops::COMPENSATED {
            let p = e * inverse.0;
            let others = if at_max { group.others[i] * inverse.0 } else { 1.0 - p };
            return (value(even) * p - part.0 * others - share.0 * weight) * scale.0;
        }
        let p = mul_pairs((e, 0.0), inverse);
        let minus = |a: (f64, f64)| (-a.0, -a.1);
        let minus_others = if at_max {
            minus(mul_pairs((group.others[i], group.others_low[i]), inverse))
        } else {
            add_pairs(p, (-1.0, 0.0))
        };
        let own = add_pairs(mul_pairs(part, minus_others), minus(mul_pairs(share, (weight, 0.0))));
        value(mul_pairs(add_pairs(mul_pairs(even, p), own), scale))
    }

    /// The probabilities' factor and the even part of a smoothed target, if there is smoothing.
    #[inline(always)]
    fn smoothing(&self, classes: f64) -> Option<(T, T)> {
        let rounded = T::Ops::from_f64;
        (SOFT && self.smoothing > 0.0)
            .then(|| (rounded(1.0 - self.smoothing), rounded(self.smoothing / classes)))
    }
}

impl<T: Float, const SOFT: bool, const GRAD: bool> Kernel for RegularizedCrossEntropy<T, SOFT, GRAD> {
    type E = T::Ops;
    const INPUTS: usize = if SOFT { 2 } else { 1 };
    const WRITES: bool = GRAD;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, group: &mut Group<T::Ops>, per_row: *mut f64) {
        type O<T> = <T as Float>::Ops;
        let (n, len) = (rows.n, rows.len);
        let mut memory = [MaybeUninit::uninit(); GROUP];
        // SAFETY: the caller's promise.
        let mut batch =
            unsafe { self.batch(&mut memory, rows.first, n, len, |i, c| rows.x(0, i).wrapping_add(c)) };
        let counted = batch.counted;
        // SAFETY: as above.
        let special = unsafe { group_logs::<O<T>, S>(s, rows, group, &self.temperature, counted, GRAD) };
        let targets = |i: usize| Targets::<O<T>> {
            t: if SOFT { rows.x(1, i) } else { std::ptr::null() },
            weights: self.class_weight.pointer(),
            smoothing: self.smoothing(self.count(rows.first + i, len)),
            mask: self.mask(rows.first + i),
        };
        let mut left = if self.spreads() { counted & !special } else { 0 };
        while self.adds_targets() && left != 0 {
            let i = left.trailing_zeros() as usize;
            left &= left - 1;
            let (x, max) = (rows.x(0, i), group.max[i]);
            [batch.rows[i].spread, batch.rows[i].total] =
                s.call(Weighted { x, targets: &targets(i), max, len });
        }
        let row = |i: usize| (rows.x(0, i), group.max[i], self.mask(rows.first + i));
        let weights = self.class_weight.pointer();
        macro_rules! spread {
            ($many:expr, $mask:literal) => {{
                // The last row again where there are fewer.
                let (at, rest) = lowest::<$many>(left);
                let sums = s.call(Even::<O<T>, $many, $mask> { rows: map_each(at, row), weights, len });
                left = rest;
                for i in 0..$many {
                    batch.rows[at[i]].spread = sums[i];
                }
            }};
        }
        while left != 0 {
            match (left.count_ones() > 2, self.masked()) {
                (true, false) => spread!(BESIDE, false),
                (true, true) => spread!(BESIDE, true),
                (false, false) => spread!(2, false),
                (false, true) => spread!(2, true),
            }
        }
        for i in 0..n {
            let row = &batch.rows[i];
            let loss = if counted >> i & 1 == 0 {
                0.0
            } else if special >> i & 1 == 1 {
                // SAFETY: the caller's promise.
                unsafe { self.careful_loss(rows.x(0, i), len, &targets(i), row, i, None) }
            } else if row.spread.0.is_finite() && self.magnifier(row) == 1.0 {
                self.loss(group, row, i)
            } else {
                // SAFETY: as above.
                unsafe { self.careful_loss(rows.x(0, i), len, &targets(i), row, i, Some(&*group)) }
            };
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(loss) };
        }
        if !GRAD {
            return;
        }
        group.finish_inverse(s);
        Self::label_exponentials(s, group, &mut batch);
        for i in 0..n {
            let (x, out) = (rows.x(0, i), rows.out(i));
            if (special | !counted) >> i & 1 == 1 {
                let value = if counted >> i & 1 == 1 { T::Ops::NAN } else { T::default() };
                // SAFETY: the caller's promise.
                unsafe { map::fill::<O<T>>(out, len, value) };
                continue;
            }
            let row = &batch.rows[i];
            let gradient = self.gradient(group, row, i, rows.first + i);
            let exponentials = Exponentials {
                x,
                e: rows.stored(i).cast_const(),
                shift: group.shift[i],
                reference: group.reference[i],
                heat: group.heat(i),
                factor: Factor::new(group.inverse_pair(i), (1.0, 0.0)),
            };
            // What is under a mask is overwritten later.
            let targets = Targets { mask: (std::ptr::null(), 0), ..targets(i) };
            let entry = (!SOFT).then_some((row.class, gradient.entry));
            let parts = gradient.parts;
            // SAFETY: the caller's promise; labels are class numbers.
            unsafe {
                if gradient.careful {
                    let [share, total, scale] =
                        map_each([row.share, gradient.total, gradient.scale], |v| O::<T>::from_f64(value(v)));
                    let map = CarefulMap { exponentials, targets: &targets, share, total, scale };
                    map::write_row_but(s, &map, out, len, rows.stream, entry);
                } else if self.is_even() {
                    map::write_row_but(s, &EvenMap { exponentials, parts }, out, len, rows.stream, entry);
                } else {
                    let map = GradMap { exponentials, targets: &targets, parts };
                    map::write_row_but(s, &map, out, len, rows.stream, entry);
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
        let (n, len) = (band.n, band.len);
        let width = <O<T> as Element>::WIDTH;
        let zero = O::<T>::splat(s, O::<T>::ZERO);
        // `1 - e` and, for each row, `e/C` of smoothed probabilities.
        let (mut keep, mut shares) = (None, [T::default(); GROUP]);
        for (i, share) in shares.iter_mut().enumerate().take(n) {
            if let Some((factor, even)) = self.smoothing(self.count(band.first + i, len)) {
                (keep, *share) = (Some(O::<T>::splat(s, factor)), even);
            }
        }
        let mut memory = [MaybeUninit::uninit(); GROUP];
        let at = |i, c| band.element(0, i, c).cast_const();
        // SAFETY: the caller's promise.
        let mut batch = unsafe { self.batch(&mut memory, band.first, n, len, at) };
        let counted = batch.counted;
        // The target of class `c` of rows `j..j + width`: the operations of `Targets`.
        macro_rules! target {
            ($j:expr, $c:expr) => {{
                let mut u = O::<T>::splat(s, O::<T>::ONE);
                if SOFT {
                    let t = band.at(s, 1, $j, $c);
                    u = match keep {
                        None => t,
                        Some(keep) => O::<T>::fma(s, t, keep, Group::<O<T>>::load(s, &shares, $j)),
                    };
                }
                if !self.class_weight.is_one() {
                    // SAFETY: a class.
                    let weight = unsafe { self.class_weight.pointer().add($c).read() };
                    u = O::<T>::mul(s, u, O::<T>::splat(s, weight));
                }
                u
            }};
        }
        // `v` where row and class are not under the mask, else 0. Until the exponentials take their place, -inf tells.
        macro_rules! unmasked {
            ($j:expr, $c:expr, $v:expr) => {{
                let v = $v;
                if self.masked() {
                    let below = O::<T>::splat(s, O::<T>::NEG_INF);
                    O::<T>::select(s, O::<T>::lt(s, below, band.at(s, 0, $j, $c)), v, zero)
                } else {
                    v
                }
            }};
        }
        let mut again = 0;
        if self.spreads() {
            let (mut high, mut low) = ([0.0; GROUP], [0.0; GROUP]);
            for j in (0..n).step_by(width) {
                // SAFETY: the caller's promise.
                let max = unsafe { tile_max::<O<T>, S>(s, band.tile(0, j), len) };
                if self.masked() {
                    // A row with a logit of -inf of its own is done again.
                    let (mut counts, one) = (zero, O::<T>::splat(s, O::<T>::ONE));
                    for c in 0..len {
                        counts = O::<T>::add(s, counts, unmasked!(j, c, one));
                    }
                    let mut lanes = [T::default(); GROUP];
                    Group::<O<T>>::store(s, counts, &mut lanes, j);
                    for i in j..(j + width).min(n) {
                        let unlike = self.count(band.first + i, len) != O::<T>::to_f64(lanes[i]);
                        again |= u64::from(unlike) << i;
                    }
                }
                let spread = if self.adds_targets() {
                    sum_lanes!(O<T>, S, s, len, |c, acc| {
                        let u = unmasked!(j, c, target!(j, c));
                        O::<T>::accumulate_weighted(s, acc, u, max, band.at(s, 0, j, c))
                    })
                } else if self.class_weight.is_one() {
                    sum_lanes!(O<T>, S, s, len, by O::<T>::TOGETHER, |c, acc| {
                        let mut d = [O::<T>::splat(s, O::<T>::ZERO); 4];
                        for k in 0..O::<T>::TOGETHER {
                            if c + k * width < len {
                                let at = c + k * width;
                                d[k] = unmasked!(j, at, O::<T>::sub(s, max, band.at(s, 0, j, at)));
                            }
                        }
                        O::<T>::accumulate(s, acc, together::<O<T>, S>(s, d))
                    })
                } else {
                    sum_lanes!(O<T>, S, s, len, |c, acc| {
                        let distance = O::<T>::sub(s, max, band.at(s, 0, j, c));
                        O::<T>::accumulate_product(s, acc, target!(j, c), distance)
                    })
                };
                O::<T>::store_wide(s, spread, &mut high, &mut low, j);
                for i in j..(j + width).min(n) {
                    batch.rows[i].spread =
                        (high[i], if <O<T> as Element>::COMPENSATED { low[i] } else { 0.0 });
                    again |= u64::from(!high[i].is_finite()) << i;
                }
                if self.adds_targets() {
                    let total = sum_lanes!(O<T>, S, s, len, |c, acc| {
                        O::<T>::accumulate(s, acc, unmasked!(j, c, target!(j, c)))
                    });
                    O::<T>::store_wide(s, total, &mut high, &mut low, j);
                    for i in j..(j + width).min(n) {
                        batch.rows[i].total =
                            (high[i], if <O<T> as Element>::COMPENSATED { low[i] } else { 0.0 });
                        again |= u64::from(self.magnifier(&batch.rows[i]) != 1.0) << i;
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        let unusual = unsafe { band_sums::<O<T>, S, true>(s, band, group, &self.temperature) };
        again |= unusual | group.finish_log(s, len);
        for i in 0..n {
            let loss = if counted >> i & 1 == 1 { self.loss(group, &batch.rows[i], i) } else { 0.0 };
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(loss) };
        }
        if !GRAD {
            return again & counted;
        }
        group.finish_inverse(s);
        Self::label_exponentials(s, group, &mut batch);
        for j in (0..n).step_by(width) {
            // Zeros for rows that do not count.
            let (mut parts, mut entries) = ([[T::default(); MAX_WIDTH]; 4], [T::default(); MAX_WIDTH]);
            for i in j..(j + width).min(n) {
                if counted >> i & 1 == 1 {
                    let gradient = self.gradient(group, &batch.rows[i], i, band.first + i);
                    for part in 0..4 {
                        parts[part][i - j] = gradient.parts[part];
                    }
                    entries[i - j] = gradient.entry;
                    again |= u64::from(gradient.careful) << i;
                }
            }
            // SAFETY: the arrays hold a vector.
            let parts = map_each(parts.each_ref(), |lanes| unsafe { O::<T>::load(s, lanes.as_ptr()) });
            for c in 0..len {
                let e = band.at(s, 0, j, c);
                let dx = if self.is_even() {
                    even_grad::<O<T>, S>(s, e, parts)
                } else {
                    grad::<O<T>, S>(s, e, target!(j, c), parts)
                };
                band.put(s, j, c, dx);
            }
            for i in j..(j + width).min(n) {
                if !SOFT && counted >> i & 1 == 1 {
                    // SAFETY: labels are class numbers.
                    unsafe { band.element(0, i, batch.rows[i].class).write(entries[i - j]) };
                }
            }
        }
        // A row that does not count has zeros for parts; but its exponentials may be no numbers.
        let mut blank = !counted & first_bits(n);
        while blank != 0 {
            let i = blank.trailing_zeros() as usize;
            blank &= blank - 1;
            for c in 0..len {
                // SAFETY: `c < len`.
                unsafe { band.element(0, i, c).write(T::default()) };
            }
        }
        again & counted
    }
}
