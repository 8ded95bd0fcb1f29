//! The `k` largest log-probabilities of a row and their classes, best first.
//!
//! ```text
//! logprob_c = log_softmax(x)_c = (x_c - max) - log1p(others / e_max)
//! ```
//!
//! The logits choose, for log-probabilities grow with them: of equal logits the lower class is the better one, and NaN
//! is better than any number. A bound that `k` logits reach comes from the maxima of parts of the row; vectors of logits
//! that do not reach it are passed over by one comparison, and what is left is few.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::{Element, Float};
use crate::kernels::logsumexp::{group_logs, special_max};
use crate::kernels::map;
use crate::kernels::rowsum::{Group, MAX_WIDTH, band_sums, first_bits};
use crate::kernels::temperature::Temperature;
use crate::lines::{Band, Kernel, Rows};
use crate::shape::View;
use crate::simd::{Simd, Task};
use std::cmp::Ordering;

/// Up to so many candidates per row are kept for all rows of a tile at once.
const FEW: usize = 16;

/// `k` results per row, `1 <= k <= len`, as numbers and as classes.
pub(crate) struct TopK<T> {
    pub(crate) k: usize,
    pub(crate) values: View<T>,
    pub(crate) indices: View<i64>,
    pub(crate) inner: usize,
    pub(crate) temperature: Temperature,
}

// SAFETY: a row's elements are written by the one thread that has the row; the caller of an operation vouches for the
// memory.
unsafe impl<T: Float> Sync for TopK<T> {}

/// A logit and its class as one number; the best one is the least. Its high half is the logit's bits, in an order that
/// falls with the logit (zeros are equal, NaN is the first of all), the low half the class.
type Candidate = u128;

const SIGN: u64 = 1 << 63;

#[inline(always)]
fn candidate<E: Element>(value: E::T, class: usize) -> Candidate {
    let value = E::to_f64(value) + 0.0;
    let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    let falling = if bits < SIGN { !(bits | SIGN) } else { bits };
    u128::from(falling) << 64 | class as u128
}

/// The logit of a candidate.
#[inline(always)]
fn value(candidate: Candidate) -> f64 {
    let falling = (candidate >> 64) as u64;
    f64::from_bits(if falling < SIGN { !falling & !SIGN } else { falling })
}

/// Elements of a row that are looked through for the first candidates.
const PREFIX: usize = 4096;

/// A number that at least `k` of the elements of a row reach: the `k`th largest of the maxima of `2 k` parts of it, or
/// a few more. There is no NaN.
struct Bound<'a, E: Element> {
    x: *const E::T,
    len: usize,
    k: usize,
    /// Memory for the maxima.
    maxima: &'a mut Vec<E::T>,
}

impl<E: Element> Task for Bound<'_, E> {
    type Out = E::T;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> E::T {
        let Bound { x, len, k, maxima } = self;
        // Four vectors at least: one would wait for itself.
        let vectors = (2 * k).div_ceil(E::WIDTH).max(4);
        maxima.clear();
        maxima.resize(vectors * E::WIDTH, E::NEG_INF);
        let step = vectors * E::WIDTH;
        if 2 * k <= E::WIDTH {
            let mut max = [E::splat(s, E::NEG_INF); 4];
            for i in (0..len / step * step).step_by(step) {
                for (j, max) in max.iter_mut().enumerate() {
                    // SAFETY: `i + step <= len`.
                    *max = E::max(s, unsafe { E::load(s, x.add(i + j * E::WIDTH)) }, *max);
                }
            }
            let max = E::max(s, E::max(s, max[0], max[1]), E::max(s, max[2], max[3]));
            // SAFETY: there is room for four vectors.
            unsafe { E::store(s, max, maxima.as_mut_ptr()) };
            // The largest that `k` reach. (A selection would guess wrong at every comparison.)
            let mut bound = E::NEG_INF;
            for &v in &maxima[..E::WIDTH] {
                let below = E::bits(s, E::lt(s, max, E::splat(s, v))).count_ones() as usize;
                bound = if below + k <= E::WIDTH && v > bound { v } else { bound };
            }
            return bound;
        }
        for i in (0..len / step * step).step_by(step) {
            for j in (0..step).step_by(E::WIDTH) {
                // SAFETY: `i + step <= len`; there is room for `step` elements.
                unsafe {
                    let max = maxima.as_mut_ptr().add(j);
                    E::store(s, E::max(s, E::load(s, x.add(i + j)), E::load(s, max)), max);
                }
            }
        }
        let descending = |a: &E::T, b: &E::T| b.partial_cmp(a).unwrap_or(Ordering::Equal);
        *maxima.select_nth_unstable_by(k - 1, descending).1
    }
}

/// Appends the elements of `start..end` that are not less than `limit`; if `BETTER`, those that are greater than the
/// worst of `k` candidates, of which more than a few are never kept. There is no NaN.
struct Collect<'a, E: Element, const BETTER: bool> {
    x: *const E::T,
    start: usize,
    end: usize,
    k: usize,
    limit: E::T,
    candidates: &'a mut Vec<Candidate>,
}

impl<E: Element, const BETTER: bool> Collect<'_, E, BETTER> {
    /// The lanes to append.
    #[inline(always)]
    fn hits<S: Simd>(s: S, v: E::V<S>, limit: E::V<S>) -> u64 {
        let lanes = if BETTER { E::bits(s, E::lt(s, limit, v)) } else { !E::bits(s, E::lt(s, v, limit)) };
        u64::from(lanes) & first_bits(E::WIDTH)
    }
}

impl<E: Element, const BETTER: bool> Task for Collect<'_, E, BETTER> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Collect { x, start, end, k, limit, candidates } = self;
        let mut limit = E::splat(s, limit);
        let mut i = start;
        while i < end {
            if i + 4 * E::WIDTH <= end {
                // SAFETY: four vectors remain.
                let max = unsafe {
                    let (a, b) = (E::load(s, x.add(i)), E::load(s, x.add(i + E::WIDTH)));
                    let (c, d) = (E::load(s, x.add(i + 2 * E::WIDTH)), E::load(s, x.add(i + 3 * E::WIDTH)));
                    E::max(s, E::max(s, a, b), E::max(s, c, d))
                };
                if Self::hits(s, max, limit) == 0 {
                    i += 4 * E::WIDTH;
                    continue;
                }
            }
            let stop = end.min(i + 4 * E::WIDTH);
            while i < stop {
                let n = (stop - i).min(E::WIDTH);
                // SAFETY: `n` elements remain.
                let v = unsafe { map::load::<E, S>(s, x.add(i), n) };
                let mut hits = Self::hits(s, v, limit) & first_bits(n);
                while hits != 0 {
                    let class = i + hits.trailing_zeros() as usize;
                    hits &= hits - 1;
                    // SAFETY: `class < end`.
                    candidates.push(candidate::<E>(unsafe { x.add(class).read() }, class));
                }
                i += n;
            }
            if BETTER && candidates.len() > 2 * k + 64 {
                limit = E::splat(s, keep_best::<E>(candidates, k));
            }
        }
    }
}

/// Drops all but the `k` best candidates; the value of the worst of them.
fn keep_best<E: Element>(candidates: &mut Vec<Candidate>, k: usize) -> E::T {
    let worst = E::from_f64(value(*candidates.select_nth_unstable(k - 1).1));
    candidates.truncate(k);
    worst
}

/// Memory for the candidates of a row.
struct Memory<T> {
    candidates: Vec<Candidate>,
    maxima: Vec<T>,
}

/// The `k` best candidates of a row, best first.
///
/// # Safety
/// `x` is valid for reading `len >= k >= 1` elements.
unsafe fn best<E: Element, S: Simd>(
    s: S,
    x: *const E::T,
    len: usize,
    k: usize,
    nan: bool,
    memory: &mut Memory<E::T>,
) -> &[Candidate] {
    let Memory { candidates, maxima } = memory;
    candidates.clear();
    let prefix = if nan { len } else { len.min(PREFIX.max(8 * k)) };
    if !nan && prefix >= 8 * k {
        let limit = s.call(Bound::<E> { x, len: prefix, k, maxima });
        s.call(Collect::<E, false> { x, start: 0, end: prefix, k, limit, candidates });
    }
    // Without a bound all of them. (With one there are too few where another thread has changed the row meanwhile.)
    if candidates.len() < k {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts(x, prefix) };
        candidates.clear();
        candidates.extend(row.iter().enumerate().map(|(class, &value)| candidate::<E>(value, class)));
    }
    let limit = keep_best::<E>(candidates, k);
    if prefix < len {
        s.call(Collect::<E, true> { x, start: prefix, end: len, k, limit, candidates });
        keep_best::<E>(candidates, k);
    }
    candidates.sort_unstable();
    candidates
}

impl<T: Float> TopK<T> {
    /// Writes result `place` of a row.
    ///
    /// # Safety
    /// The row is the calling thread's, `place < k`.
    #[inline(always)]
    unsafe fn put(&self, row: usize, place: usize, logprob: f64, class: i64) {
        let logprob = if logprob.is_nan() { T::Ops::NAN } else { T::Ops::from_f64(logprob) };
        let (place, inner) = (place as isize, self.inner);
        // SAFETY: the view has `k` elements for every row; the caller's promise.
        unsafe { self.values.row(row, inner).wrapping_offset(place * self.values.len).write(logprob) };
        // SAFETY: as above.
        unsafe { self.indices.row(row, inner).wrapping_offset(place * self.indices.len).write(class) };
    }
}

/// The best candidates of the rows of a tile so far: vectors of logits and of class numbers, best first.
struct Places<E: Element> {
    values: [E::T; FEW * MAX_WIDTH],
    classes: [E::T; FEW * MAX_WIDTH],
}

impl<E: Element> Places<E> {
    #[inline(always)]
    fn load<S: Simd>(s: S, a: &[E::T; FEW * MAX_WIDTH], place: usize) -> E::V<S> {
        let lanes: &[E::T] = &a[place * E::WIDTH..(place + 1) * E::WIDTH];
        // SAFETY: a vector of elements.
        unsafe { E::load(s, lanes.as_ptr()) }
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, v: E::V<S>, a: &mut [E::T; FEW * MAX_WIDTH], place: usize) {
        let lanes: &mut [E::T] = &mut a[place * E::WIDTH..(place + 1) * E::WIDTH];
        // SAFETY: a vector of elements.
        unsafe { E::store(s, v, lanes.as_mut_ptr()) }
    }

    /// Puts one more class, `(x, class)`, behind those of each lane that are not less, where the first `filled` of
    /// `k` places are taken.
    #[inline(always)]
    fn insert<S: Simd>(&mut self, s: S, filled: usize, k: usize, x: E::V<S>, class: E::V<S>) {
        let last = filled.min(k - 1);
        // The lanes in which a place is given up: an empty one, or one whose candidate is less.
        let mut moves = if filled < k {
            E::lt(s, E::splat(s, E::ZERO), E::splat(s, E::ONE))
        } else {
            E::lt(s, Self::load(s, &self.values, last), x)
        };
        if E::bits(s, moves) == 0 {
            return;
        }
        for place in (1..=last).rev() {
            let (value, number) =
                (Self::load(s, &self.values, place - 1), Self::load(s, &self.classes, place - 1));
            // Either the candidate before moves here, or the new one has found its place.
            let before = E::lt(s, value, x);
            let (new_value, new_number) =
                (E::select(s, before, value, x), E::select(s, before, number, class));
            let (value, number) = (Self::load(s, &self.values, place), Self::load(s, &self.classes, place));
            Self::store(s, E::select(s, moves, new_value, value), &mut self.values, place);
            Self::store(s, E::select(s, moves, new_number, number), &mut self.classes, place);
            moves = before;
        }
        let (value, number) = (Self::load(s, &self.values, 0), Self::load(s, &self.classes, 0));
        Self::store(s, E::select(s, moves, x, value), &mut self.values, 0);
        Self::store(s, E::select(s, moves, class, number), &mut self.classes, 0);
    }
}

impl<T: Float> Kernel for TopK<T> {
    type E = T::Ops;
    const INPUTS: usize = 1;
    const WRITES: bool = false;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<T::Ops>, group: &mut Group<T::Ops>, _per_row: *mut f64) {
        // SAFETY: the caller's promise.
        let special = unsafe { group_logs::<T::Ops, S>(s, rows, group, &self.temperature, u64::MAX, false) };
        let mut memory = Memory { candidates: Vec::new(), maxima: Vec::new() };
        for i in 0..rows.n {
            let x = rows.x(0, i);
            let max = if special >> i & 1 == 1 {
                // SAFETY: the caller's promise.
                unsafe { special_max::<T::Ops>(x, rows.len) }
            } else {
                T::Ops::to_f64(group.max[i])
            };
            // SAFETY: as above; `1 <= k <= len`.
            let candidates = unsafe { best::<T::Ops, S>(s, x, rows.len, self.k, max.is_nan(), &mut memory) };
            for (place, &candidate) in candidates.iter().enumerate() {
                let class = candidate as u64 as i64;
                // SAFETY: there are `k` candidates. (The logarithm of a special row is zero.)
                unsafe {
                    let logprob = group.cooled(i, value(candidate) - max) - group.log[i];
                    self.put(rows.first + i, place, logprob, class);
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
        _per_row: *mut f64,
    ) -> u64 {
        type O<T> = <T as Float>::Ops;
        let width = <O<T> as Element>::WIDTH;
        if self.k > FEW {
            return first_bits(band.n);
        }
        // SAFETY: the caller's promise.
        let unusual = unsafe { band_sums::<O<T>, S, false>(s, band, group, &self.temperature) };
        let again = group.finish_log(s, band.len) | unusual;
        let none = [T::default(); FEW * MAX_WIDTH];
        let mut places = Places::<O<T>> { values: none, classes: none };
        for j in (0..band.n).step_by(width) {
            let mut class = O::<T>::splat(s, O::<T>::ZERO);
            for c in 0..band.len {
                places.insert(s, c.min(self.k), self.k, band.at(s, 0, j, c), class);
                class = O::<T>::add(s, class, O::<T>::splat(s, O::<T>::ONE));
            }
            for i in 0..width.min(band.n - j) {
                let (max, log) = (O::<T>::to_f64(group.max[j + i]), group.log[j + i]);
                for place in 0..self.k {
                    let lane = place * width + i;
                    let (value, class) =
                        (O::<T>::to_f64(places.values[lane]), O::<T>::to_f64(places.classes[lane]) as i64);
                    // SAFETY: `place < k`.
                    unsafe {
                        let logprob = group.cooled(j + i, value - max) - log;
                        self.put(band.first + j + i, place, logprob, class);
                    }
                }
            }
        }
        again
    }
}
