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
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::{add_pairs, divide_pair, mul_pairs, two_sum, value};
use crate::float::{Acc, Double, Element, Float};
use crate::kernels::labels::Labels;
use crate::kernels::logsumexp::{group_logs, special_max};
use crate::kernels::map::{self, Exponentials, Factor, Map, Scale, product_of};
use crate::kernels::rowsum::{Group, MAX_WIDTH, first_bits};
use crate::kernels::soft_cross_entropy::{grad, minus, single_factor};
use crate::kernels::temperature::Temperature;
use crate::kernels::weights::{ClassWeight, SampleWeight};
use crate::lines::{Band, GROUP, Kernel, Rows};
use crate::simd::{Simd, Task};

/// One loss per row; with the gradient when `GRAD`. The operands are `(x, t)` when `SOFT`, else `x`, with labels. Rows that
/// do not count have loss and gradient 0.
pub(crate) struct RegularizedCrossEntropy<T, const SOFT: bool, const GRAD: bool> {
    /// Unless `SOFT`.
    pub(crate) labels: Option<Labels>,
    pub(crate) scale: Scale<T>,
    pub(crate) class_weight: ClassWeight<T>,
    /// Their sum, as `(high, low)`.
    pub(crate) class_total: (f64, f64),
    pub(crate) sample_weight: SampleWeight,
    pub(crate) temperature: Temperature,
    pub(crate) smoothing: f64,
    pub(crate) z_loss: f64,
}

/// The targets `u` along a row; for labels without their `e/C` and the label's own part.
struct Targets<E: Element> {
    /// The probabilities, or null.
    t: *const E::T,
    /// The class weights, or null.
    weights: *const E::T,
    /// `1 - e` and `e/C`, if there is smoothing.
    smoothing: Option<(E::T, E::T)>,
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
            if self.weights.is_null() {
                u
            } else {
                E::mul(s, u, map::load::<E, S>(s, self.weights.add(i), n))
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

/// `e factor - u minus`.
struct GradMap<'a, E: Element> {
    exponentials: Exponentials<E>,
    targets: &'a Targets<E>,
    minus: (E::T, E::T),
}

impl<E: Element> Map<E> for GradMap<'_, E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        let factor = &self.exponentials.factor;
        // SAFETY: the caller's promise.
        let (e, u) = unsafe { (self.exponentials.exponentials(s, i, n), self.targets.at(s, i, n)) };
        let parts = [factor.high, factor.low, self.minus.0, self.minus.1];
        grad::<E, S>(s, e, u, parts.map(|v| E::splat(s, v)))
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

/// What a row's label contributes.
#[derive(Clone, Copy, Default)]
struct Own<T> {
    class: usize,
    x: T,
    /// Its exponential, as it is stored.
    e: T,
    /// `w_y`
    weight: f64,
    /// `(1-e) w_y`
    part: (f64, f64),
}

impl<T: Float, const SOFT: bool, const GRAD: bool> RegularizedCrossEntropy<T, SOFT, GRAD> {
    /// The even part of every weight, for labels.
    #[inline(always)]
    fn share(&self, len: usize) -> (f64, f64) {
        divide_pair(self.smoothing, len as f64)
    }

    /// The loss of a row without its sample weight, from `[sum u (max - x), U]`.
    #[inline(always)]
    fn loss(
        &self,
        group: &Group<T::Ops>,
        i: usize,
        own: &Own<T>,
        share: (f64, f64),
        [spread, total]: [(f64, f64); 2],
    ) -> f64 {
        let log = (group.log[i], group.log_low(i));
        let mut loss = (0.0, 0.0);
        if SOFT || self.smoothing > 0.0 {
            loss = add_pairs(mul_pairs(spread, group.cooling(i)), mul_pairs(total, log));
        }
        if !SOFT {
            let distance = two_sum(T::Ops::to_f64(group.max[i]), -T::Ops::to_f64(own.x));
            let plain = add_pairs(mul_pairs(distance, group.cooling(i)), log);
            let plain = if own.part.0 == 0.0 { (0.0, 0.0) } else { mul_pairs(plain, own.part) };
            loss = if self.smoothing > 0.0 { add_pairs(plain, mul_pairs(loss, share)) } else { plain };
        }
        if self.z_loss > 0.0 {
            let lse = group.logsumexp(i);
            loss = add_pairs(loss, mul_pairs(mul_pairs((lse, 0.0), (lse, 0.0)), (self.z_loss, 0.0)));
        }
        value(loss)
    }

    /// The same, of a row whose maximum is not finite, or whose sum of `u (max - x)` is not: from halves in one case.
    #[inline(never)]
    unsafe fn careful_loss(
        &self,
        x: *const T,
        len: usize,
        targets: &Targets<T::Ops>,
        own: &Own<T>,
        row: Option<(f64, (f64, f64), f64, f64)>,
    ) -> f64 {
        // SAFETY: the caller's promise.
        let max = unsafe { special_max::<T::Ops>(x, len) };
        let (max, cooling, log, lse) = row.unwrap_or((max, (1.0, 0.0), 0.0, max));
        let mut sum = (0.0, 0.0);
        let mut add = |u: f64, x: f64| {
            if u != 0.0 {
                let half = two_sum(0.5 * max, -0.5 * x);
                let half = add_pairs(mul_pairs(half, cooling), (0.5 * log, 0.0));
                sum = add_pairs(sum, mul_pairs((u, 0.0), half));
            }
        };
        if SOFT || self.smoothing > 0.0 {
            let share = if SOFT { 1.0 } else { self.smoothing / len as f64 };
            for c in 0..len {
                // SAFETY: `c < len`.
                add(unsafe { targets.one(c) } * share, T::Ops::to_f64(unsafe { x.add(c).read() }));
            }
        }
        if !SOFT {
            add(own.part.0, T::Ops::to_f64(own.x));
        }
        let z = if self.z_loss > 0.0 { self.z_loss * lse * lse } else { 0.0 };
        if max.is_nan() { f64::NAN } else { 2.0 * value(sum) + z }
    }

    /// The label's entry without the scale.
    #[inline(always)]
    fn label_entry(
        &self,
        group: &Group<T::Ops>,
        i: usize,
        own: &Own<T>,
        share: (f64, f64),
        total: f64,
    ) -> f64 {
        let inverse = group.inverse_pair(i);
        let (p, _) = product_of::<T::Ops>((T::Ops::to_f64(own.e), 0.0), inverse);
        let others = if own.x < group.max[i] { 1.0 - p } else { group.others[i] * inverse.0 };
        total * p - own.part.0 * others - value(share) * own.weight
    }
}

impl<T: Float, const SOFT: bool, const GRAD: bool> Kernel for RegularizedCrossEntropy<T, SOFT, GRAD> {
    type E = T::Ops;
    const INPUTS: usize = if SOFT { 2 } else { 1 };
    const WRITES: bool = GRAD;
    /// No form for tiles.
    const SHORT: usize = 0;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, group: &mut Group<T::Ops>, per_row: *mut f64) {
        type O<T> = <T as Float>::Ops;
        let (classes, mut counted) = match &self.labels {
            Some(labels) => labels.classes(rows.first, rows.n),
            None => ([0; GROUP], first_bits(rows.n)),
        };
        let mut samples = [1.0; GROUP];
        let mut own = [Own::<T>::default(); GROUP];
        for i in 0..rows.n {
            if counted >> i & 1 == 0 {
                continue;
            }
            samples[i] = self.sample_weight.of(rows.first + i);
            if !SOFT {
                // SAFETY: labels that count are class numbers.
                let (x, weight) =
                    unsafe { (rows.x(0, i).add(classes[i]).read(), self.class_weight.of(classes[i])) };
                let part = mul_pairs((1.0 - self.smoothing, 0.0), (weight, 0.0));
                own[i] = Own { class: classes[i], x, e: T::default(), weight, part };
            }
            let nothing = !SOFT && self.smoothing == 0.0 && own[i].weight == 0.0;
            counted &= !(u64::from(samples[i] == 0.0 || nothing) << i);
        }
        // SAFETY: the caller's promise.
        let special = unsafe { group_logs::<O<T>, S>(s, rows, group, &self.temperature, counted, GRAD) };
        group.finish_inverse(s);
        if GRAD && !SOFT {
            let mut lanes = [T::default(); GROUP];
            for j in (0..rows.n).step_by(O::<T>::WIDTH) {
                for i in j..(j + O::<T>::WIDTH).min(rows.n) {
                    lanes[i] = own[i].x;
                }
                let e = group.exponentials(s, Group::<O<T>>::load(s, &lanes, j), j);
                Group::<O<T>>::store(s, e, &mut lanes, j);
            }
            for i in 0..rows.n {
                own[i].e = lanes[i];
            }
        }
        let share = if SOFT { (1.0, 0.0) } else { self.share(rows.len) };
        let smoothing = (SOFT && self.smoothing > 0.0)
            .then(|| (O::<T>::from_f64(1.0 - self.smoothing), O::<T>::from_f64(value(self.share(rows.len)))));
        for i in 0..rows.n {
            let (x, len, out) = (rows.x(0, i), rows.len, rows.out(i));
            let t = if SOFT { rows.x(1, i) } else { std::ptr::null() };
            let targets = Targets::<O<T>> { t, weights: self.class_weight.pointer(), smoothing };
            let is_special = special >> i & 1 == 1;
            if counted >> i & 1 == 0 {
                // SAFETY: `i < n`; the caller's promise.
                unsafe {
                    per_row.add(i).write(0.0);
                    if GRAD {
                        map::fill::<O<T>>(out, len, T::default());
                    }
                }
                continue;
            }
            let mut sums = [(0.0, 0.0), if SOFT { (0.0, 0.0) } else { self.class_total }];
            if !is_special && (SOFT || self.smoothing > 0.0) {
                let [spread, total] = s.call(Weighted { x, targets: &targets, max: group.max[i], len });
                sums = [spread, if SOFT { total } else { self.class_total }];
            }
            let loss = if is_special {
                // SAFETY: the caller's promise.
                unsafe { self.careful_loss(x, len, &targets, &own[i], None) }
            } else if sums[0].0.is_finite() {
                self.loss(group, i, &own[i], share, sums)
            } else {
                let row = (O::<T>::to_f64(group.max[i]), group.cooling(i), group.log[i], group.logsumexp(i));
                // SAFETY: as above.
                unsafe { self.careful_loss(x, len, &targets, &own[i], Some(row)) }
            };
            // SAFETY: `i < n`.
            unsafe { per_row.add(i).write(loss * samples[i]) };
            if !GRAD {
                continue;
            }
            if is_special {
                // SAFETY: the caller's promise.
                unsafe { map::fill::<O<T>>(out, len, T::Ops::NAN) };
                continue;
            }
            let scale = product_of::<O<T>>(self.scale.get(rows.first + i), (samples[i], 0.0));
            let scale = product_of::<O<T>>(scale, group.cooling(i));
            // `U + 2 z q`, and that without the label's part.
            let even = if SOFT { sums[1] } else { mul_pairs(share, sums[1]) };
            let even = if self.z_loss > 0.0 {
                add_pairs(even, mul_pairs((2.0 * self.z_loss, 0.0), (group.logsumexp(i), 0.0)))
            } else {
                even
            };
            let total = if SOFT { even } else { add_pairs(even, own[i].part) };
            let entry = (!SOFT).then(|| {
                let entry = self.label_entry(group, i, &own[i], share, value(even)) * value(scale);
                (own[i].class, if entry.is_nan() { T::Ops::NAN } else { O::<T>::from_f64(entry) })
            });
            let even_scale = product_of::<O<T>>(scale, share);
            let factor = single_factor::<O<T>>(group.inverse_pair(i), total, scale)
                .filter(|_| even_scale.0 == 0.0 || even_scale.0.abs() > O::<T>::FACTOR_RANGE.0);
            let careful = Factor::new(group.inverse_pair(i), (1.0, 0.0));
            let exponentials = Exponentials {
                x,
                e: rows.stored(i).cast_const(),
                shift: group.shift[i],
                reference: group.reference[i],
                heat: group.heat(i),
                factor: factor.unwrap_or(careful),
            };
            // SAFETY: the caller's promise; labels are class numbers.
            unsafe {
                if factor.is_some() {
                    let map = GradMap { exponentials, targets: &targets, minus: minus::<O<T>>(even_scale) };
                    map::write_row_but(s, &map, out, len, rows.stream, entry);
                } else {
                    let [share, total, scale] = [share, total, scale].map(|v| O::<T>::from_f64(value(v)));
                    let map = CarefulMap { exponentials, targets: &targets, share, total, scale };
                    map::write_row_but(s, &map, out, len, rows.stream, entry);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(
        &self,
        _s: S,
        _band: &Band<T::Ops>,
        _group: &mut Group<T::Ops>,
        _per_row: *mut f64,
    ) -> u64 {
        u64::MAX
    }
}
