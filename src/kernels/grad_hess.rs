//! Gradient and diagonal Hessian of cross-entropy with integer labels `y`, for gradient boosting.
//!
//! ```text
//! g_c = w (p_c - [c = y])           p = softmax(x)
//! h_c = max(v f_c, floor)           f_c = p_c (1 - p_c)  or  |p_c - [c = y]|
//! ```
//!
//! `1 - p_c` is `others / S` at the row's maximum, and a plain difference elsewhere, where `p_c <= 1/2`. Both factors
//! stay in `f64` (for `f32`) or in pairs of it (for `f64`) until the result is rounded.
//!
//! There are two results per element, so this kernel has a walk of its own: rows of any layout are put side by side in
//! tiles, and the results taken from there. A row that is longer than a block, special or dominated goes by itself.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::divide_pair;
use crate::float::{Acc, Double, Element, Float, Single, V64, load64};
use crate::kernels::labels::Labels;
use crate::kernels::map::{self, product_of};
use crate::kernels::rowsum::{Group, MAX_WIDTH, first_bits, row_others, row_sum, tile_sum};
use crate::kernels::temperature::Temperature;
use crate::lines::{Buffer, GROUP, stage, unstage};
use crate::shape::{Shape, View};
use crate::simd::{Simd, Task, map_each};
use std::cell::Cell;
use std::ops::Range;

/// The form of the diagonal Hessian of cross-entropy that boosting uses; `p` is the softmax of the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hessian {
    /// `p (1 - p)`, the diagonal itself.
    Exact,
    /// `2 p (1 - p)`, a bound of the whole matrix; XGBoost's.
    Upper,
    /// `K / (K - 1) p (1 - p)` for `K` classes, LightGBM's; 0 for a single class.
    LightGbm,
    /// `|p - [c = y]|`, the size of the gradient.
    Residual,
}

impl Hessian {
    /// The factor of `p (1 - p)`, or of the residual, times `scale`.
    pub(crate) fn factor<E: Element>(self, classes: usize, scale: f64) -> (f64, f64) {
        let factor = match self {
            Hessian::Upper => (2.0, 0.0),
            Hessian::LightGbm if classes > 1 => divide_pair(classes as f64, (classes - 1) as f64),
            _ => (1.0, 0.0),
        };
        product_of::<E>(factor, (scale, 0.0))
    }
}

/// One weight per row, of either type, or 1 for all.
#[derive(Clone, Copy)]
pub(crate) enum Weights {
    One,
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Single(View<f32>),
    Double(View<f64>),
}

impl Weights {
    #[inline(always)]
    fn get(&self, row: usize) -> f64 {
        match self {
            Weights::One => 1.0,
            // SAFETY: the view has an element for every row.
            Weights::Single(view) => f64::from(unsafe { view.row(row, 1).read() }),
            // SAFETY: as above.
            Weights::Double(view) => unsafe { view.row(row, 1).read() },
        }
    }
}

/// Where gradient and Hessian go: as they were computed, or rounded once more.
#[derive(Clone, Copy)]
pub(crate) enum Results<T> {
    Same([View<T>; 2]),
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Narrow([View<f32>; 2]),
}

/// The operands and options of a call; rows follow one another along the outer axis, `shape.inner` is 1.
pub(crate) struct GradHess<T> {
    pub(crate) shape: Shape,
    pub(crate) x: View<T>,
    pub(crate) labels: Labels,
    pub(crate) weights: Weights,
    pub(crate) hessian: Hessian,
    /// [`Hessian::factor`]
    pub(crate) factor: (f64, f64),
    pub(crate) floor: f64,
    /// Apart from all operands and from each other, or one of them exactly `x`.
    pub(crate) results: Results<T>,
    pub(crate) stream: bool,
}

impl<T> GradHess<T> {
    /// Whether the classes of a row of any array are not neighbours.
    pub(crate) fn is_strided(&self) -> bool {
        let results = match &self.results {
            Results::Same(to) => to.map(|to| to.len),
            Results::Narrow(to) => to.map(|to| to.len),
        };
        self.x.len != 1 || results != [1, 1]
    }
}

// SAFETY: operands are only read, a row's results are touched by one thread; the caller of the operation vouches for
// the memory.
unsafe impl<T: Float> Sync for GradHess<T> {}

/// Some rows of a call.
pub(crate) struct Chunk<'a, T> {
    pub(crate) call: &'a GradHess<T>,
    pub(crate) rows: Range<usize>,
}

/// Bytes of a band for one array, where all arrays have rows of neighbouring elements. Elsewhere bands are as tall as
/// can be, for each class may lie in a page of its own.
const BAND_BYTES: usize = 32 * 1024;
/// The fewest rows of a band but the last: a vector of `f32`.
const MIN_BAND: usize = 16;

/// Scratch memory that a thread keeps between calls.
const KEPT_BYTES: usize = 1024 * 1024;

/// A thread's scratch memory: bands, a row, bands of narrower results, a group.
type Scratch = [Buffer; 4];

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// The factors of each row's gradient and Hessian: `(high + low) * power`.
struct RowFactors {
    high: [f64; GROUP],
    low: [f64; GROUP],
    power: [f64; GROUP],
}

impl RowFactors {
    const ONE: RowFactors = RowFactors { high: [1.0; GROUP], low: [0.0; GROUP], power: [1.0; GROUP] };

    /// The factor of numbers that are `1 / power` times too large. A factor below 1 comes first, for what it makes of
    /// them may be too small once they are scaled back; a larger one after that.
    #[inline(always)]
    fn set(&mut self, i: usize, (high, low): (f64, f64), power: f64) {
        let (before, after) = if high.abs() < 1.0 { (1.0, power) } else { (power, 1.0) };
        (self.high[i], self.low[i], self.power[i]) = (high * before, low * before, after);
    }

    #[inline(always)]
    fn load<E: Element, S: Simd>(&self, s: S, j: usize) -> LaneFactors<S> {
        let factor = E::load_wide(s, &self.high, &self.low, j);
        LaneFactors { factor, power: load64(s, &self.power, j) }
    }

    /// The factor of row 0 in all lanes.
    #[inline(always)]
    fn splat<E: Element, S: Simd>(&self, s: S) -> LaneFactors<S> {
        LaneFactors {
            factor: splat_wide::<E, S>(s, (self.high[0], self.low[0])),
            power: Double::splat(s, self.power[0]),
        }
    }
}

struct LaneFactors<S: Simd> {
    factor: Acc<S>,
    power: V64<S>,
}

impl<S: Simd> LaneFactors<S> {
    /// `v (high + low) power`, rounded.
    #[inline(always)]
    fn times<E: Element>(&self, s: S, v: Acc<S>) -> E::V<S> {
        let y = E::product(s, v, self.factor);
        if E::COMPENSATED {
            E::value(s, [Double::mul(s, y[0], self.power), Double::mul(s, y[1], self.power)])
        } else {
            E::value(s, y)
        }
    }
}

#[inline(always)]
fn splat_wide<E: Element, S: Simd>(s: S, (high, low): (f64, f64)) -> Acc<S> {
    [Double::splat(s, high), Double::splat(s, if E::COMPENSATED { low } else { high })]
}

#[inline(always)]
fn minus<S: Simd>(s: S, v: Acc<S>) -> Acc<S> {
    let zero = Double::splat(s, 0.0);
    [Double::sub(s, zero, v[0]), Double::sub(s, zero, v[1])]
}

/// By what probabilities are too large while they are computed, and its reciprocal: for `f64` so much that the
/// smallest subnormal one is a normal number.
#[inline(always)]
fn powers<E: Element>() -> (f64, f64) {
    if E::COMPENSATED { (1.0 / E::OFFSET_POWER, E::OFFSET_POWER) } else { (1.0, 1.0) }
}

/// What the entries of rows are computed from, one row in each lane. Probabilities are `2^k` times too large, see
/// [`powers`].
struct Lanes<E: Element, S: Simd> {
    one: Acc<S>,
    /// `1 / S`
    inverse: Acc<S>,
    /// `p` at the maximum.
    peak: Acc<S>,
    /// `1 - p` at the maximum.
    rest: Acc<S>,
    grad: LaneFactors<S>,
    hess: LaneFactors<S>,
    floor: E::V<S>,
    /// Whether the Hessian is the size of the gradient.
    residual: bool,
}

impl<E: Element, S: Simd> Lanes<E, S> {
    #[inline(always)]
    fn new(
        s: S,
        inverse: Acc<S>,
        peak: E::V<S>,
        others: Acc<S>,
        [grad, hess]: [LaneFactors<S>; 2],
        (hessian, floor): (Hessian, f64),
    ) -> Self {
        let (up, _) = powers::<E>();
        let up = Double::splat(s, up);
        let inverse = [Double::mul(s, inverse[0], up), Double::mul(s, inverse[1], up)];
        Lanes {
            one: if E::COMPENSATED { [up, Double::splat(s, 0.0)] } else { [up, up] },
            inverse,
            peak: E::product(s, E::wide(s, peak), inverse),
            rest: E::product(s, others, inverse),
            grad,
            hess,
            floor: E::splat(s, E::from_f64(floor)),
            residual: hessian == Hessian::Residual,
        }
    }

    /// `p` and `1 - p` of stored exponentials.
    #[inline(always)]
    fn probabilities(&self, s: S, e: E::V<S>) -> [Acc<S>; 2] {
        let p = E::product(s, E::wide(s, e), self.inverse);
        let mut q = E::merge(s, self.one, minus(s, p));
        for i in 0..2 {
            let k = if E::COMPENSATED { 0 } else { i };
            q[i] = Double::select(s, Double::lt(s, p[k], self.peak[k]), q[i], self.rest[i]);
        }
        [p, q]
    }

    /// Gradient and Hessian away from the label.
    #[inline(always)]
    fn entries(&self, s: S, e: E::V<S>) -> [E::V<S>; 2] {
        let [p, q] = self.probabilities(s, e);
        let f = if self.residual { p } else { E::product(s, p, q) };
        [self.grad.times::<E>(s, p), E::max(s, self.floor, self.hess.times::<E>(s, f))]
    }

    /// Gradient and Hessian at the label.
    #[inline(always)]
    fn label_entries(&self, s: S, e: E::V<S>) -> [E::V<S>; 2] {
        let [p, q] = self.probabilities(s, e);
        let f = if self.residual { q } else { E::product(s, p, q) };
        [self.grad.times::<E>(s, minus(s, q)), E::max(s, self.floor, self.hess.times::<E>(s, f))]
    }
}

/// Rows in memory: the first element, and the steps to the next row and to the next class.
#[derive(Clone, Copy)]
struct Lines<T> {
    first: *mut T,
    row: isize,
    class: isize,
}

impl<T: Copy> Lines<T> {
    /// The rows of a view from `row` on.
    fn of(view: &View<T>, row: usize) -> Lines<T> {
        Lines { first: view.row(row, 1), row: view.outer, class: view.len }
    }

    /// Copies `n` rows of `len` elements.
    ///
    /// # Safety
    /// Both are valid for that and do not overlap.
    #[inline(always)]
    unsafe fn copy_to(self, to: Lines<T>, n: usize, len: usize) {
        let at = |lines: &Lines<T>, i: usize, c: usize| {
            lines.first.wrapping_offset(i as isize * lines.row + c as isize * lines.class)
        };
        if self.class == 1 && to.class == 1 {
            for i in 0..n {
                // SAFETY: the caller's promise.
                unsafe { std::ptr::copy_nonoverlapping(at(&self, i, 0), at(&to, i, 0), len) };
            }
            return;
        }
        for c in 0..len {
            for i in 0..n {
                // SAFETY: as above.
                unsafe { at(&to, i, c).write(at(&self, i, c).read()) };
            }
        }
    }
}

/// Where a chunk works.
struct Memory<'a, T: Float> {
    /// Exponentials, gradient and Hessian of a band.
    tiles: [*mut T; 3],
    /// From tile to tile.
    size: usize,
    /// Logits, gradient and Hessian of rows by themselves.
    rows: [*mut T; 3],
    /// From row to row.
    row_size: usize,
    /// The exponentials of such a row.
    e: *mut T,
    /// A band of results that are rounded once more.
    narrow: *mut f32,
    group: &'a mut Group<T::Ops>,
}

impl<T: Float> Memory<'_, T> {
    fn lines(&self, operand: usize) -> Lines<T> {
        Lines { first: self.rows[operand], row: self.row_size as isize, class: 1 }
    }
}

impl<T: Float> Task for Chunk<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.walk(s);
        if self.call.stream {
            s.fence();
        }
    }
}

/// Computes a row by itself: row `i` of the memory, which holds its logits, is row `row` of the batch. The first factors
/// are lost, if there are weights.
struct Alone<'a, 'b, T: Float> {
    chunk: &'a Chunk<'a, T>,
    row: usize,
    i: usize,
    memory: &'a mut Memory<'b, T>,
    factors: &'a mut [RowFactors; 2],
}

impl<T: Float> Task for Alone<'_, '_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Alone { chunk, row, i, memory, factors } = self;
        let GradHess { shape, labels, weights, hessian, floor, .. } = chunk.call;
        let (len, width) = (shape.len, T::Ops::WIDTH);
        let [logits, g, h] = map_each(memory.rows, |rows| rows.wrapping_add(i * memory.row_size));
        let e = memory.e;
        let fill = |[grad, hess]: [T; 2]| {
            // SAFETY: a row's memory.
            unsafe {
                map::fill::<T::Ops>(g, len, grad);
                map::fill::<T::Ops>(h, len, hess);
            }
        };
        if !matches!(weights, Weights::One) {
            let weight = weights.get(row);
            if weight == 0.0 {
                return fill(chunk.weightless());
            }
            chunk.set_factors(factors, 0, weight);
        }
        // SAFETY: rows of `len` elements apart from each other.
        let sum = unsafe { row_sum::<T::Ops, S>(s, logits, len, None, e, 0) };
        let group = &mut *memory.group;
        group.start(1);
        group.set(0, &sum);
        if group.special(s) != 0 {
            return fill([T::Ops::NAN; 2]);
        }
        if group.finish_others(s, len) & 1 == 1 {
            // SAFETY: as above.
            group.set_others(0, unsafe { row_others::<T::Ops, S>(s, logits, len, &sum, None) });
        }
        group.finish_inverse(s);
        let mut peak = [T::default(); MAX_WIDTH];
        // SAFETY: the array holds a vector.
        unsafe { T::Ops::store(s, group.peak(s, 0), peak.as_mut_ptr()) };
        let peak = T::Ops::splat(s, peak[0]);
        let others = splat_wide::<T::Ops, S>(s, (group.others[0], group.others_low[0]));
        let inverse = splat_wide::<T::Ops, S>(s, group.inverse_pair(0));
        let both = [factors[0].splat::<T::Ops, S>(s), factors[1].splat::<T::Ops, S>(s)];
        let lanes = Lanes::<T::Ops, S>::new(s, inverse, peak, others, both, (*hessian, *floor));
        for i in (0..len).step_by(width) {
            // SAFETY: a row's memory is whole vectors.
            unsafe {
                let [grad, hess] = lanes.entries(s, T::Ops::load(s, e.add(i)));
                T::Ops::store(s, T::Ops::canonical(s, grad), g.add(i));
                T::Ops::store(s, T::Ops::canonical(s, hess), h.add(i));
            }
        }
        let class = labels.get(row).unwrap_or(0);
        // SAFETY: labels are class numbers.
        let [grad, hess] = lanes.label_entries(s, T::Ops::splat(s, unsafe { e.add(class).read() }));
        for (entry, out) in [(grad, g), (hess, h)] {
            // SAFETY: as above.
            unsafe { T::Ops::store_first(s, T::Ops::canonical(s, entry), out.add(class), 1) };
        }
    }
}

impl<T: Float> Chunk<'_, T> {
    #[inline(always)]
    fn walk<S: Simd>(&self, s: S) {
        let (len, width) = (self.call.shape.len, T::Ops::WIDTH);
        let whole = len.next_multiple_of(width);
        let tall = len > T::Ops::BLOCK;
        let most = if self.call.is_strided() {
            GROUP
        } else {
            (BAND_BYTES / (whole * size_of::<T>()).max(1)).clamp(MIN_BAND, GROUP) / MIN_BAND * MIN_BAND
        };
        let most = if tall { 0 } else { most };
        let rows = if tall && self.call.is_strided() { MIN_BAND } else { 1 };
        // A thread that is being torn down keeps nothing.
        let mut scratch = SCRATCH.try_with(Cell::take).ok().flatten().unwrap_or_default();
        let [tiles, row_memory, narrow, group] = &mut *scratch;
        let tiles: *mut T = tiles.get(3 * most * whole);
        // Whole vectors of `f32`, too; one more, so that the rows do not begin at powers of two.
        let row_size = len.next_multiple_of(Single::WIDTH) + Single::WIDTH;
        let row_memory: *mut T = row_memory.get((3 * rows + 1) * row_size);
        let is_narrow = matches!(self.call.results, Results::Narrow(_));
        let narrow = narrow.get(if is_narrow { most * len.next_multiple_of(Single::WIDTH) } else { 0 });
        let group = group.get::<Group<T::Ops>>(1);
        let mut memory = Memory {
            tiles: [0, 1, 2].map(|i| tiles.wrapping_add(i * most * whole)),
            size: width * whole,
            rows: [0, 1, 2].map(|i| row_memory.wrapping_add(i * rows * row_size)),
            row_size,
            e: row_memory.wrapping_add(3 * rows * row_size),
            narrow,
            // SAFETY: aligned memory of that size, whose bits are numbers whatever they are.
            group: unsafe { &mut *group },
        };
        memory.group.temper(&Temperature::One, 0, 0);
        let mut factors = [RowFactors::ONE, RowFactors::ONE];
        if matches!(self.call.weights, Weights::One) {
            for i in 0..GROUP {
                self.set_factors(&mut factors, i, 1.0);
            }
        }
        let mut first = self.rows.start;
        while first < self.rows.end {
            let left = self.rows.end - first;
            // SAFETY: the views are valid for these rows, the memory has room for a band and a row.
            unsafe {
                if tall {
                    let n = rows.min(left);
                    Lines::of(&self.call.x, first).copy_to(memory.lines(0), n, len);
                    for i in 0..n {
                        let (memory, factors) = (&mut memory, &mut factors);
                        s.call(Alone { chunk: self, row: first + i, i, memory, factors });
                    }
                    self.put_rows(s, first, n, &memory);
                    first += n;
                } else {
                    let n = if left < MIN_BAND { left } else { most.min(left / MIN_BAND * MIN_BAND) };
                    self.band(s, first, n, &mut memory, &mut factors);
                    self.put_band(s, first, n, &memory);
                    first += n;
                }
            }
        }
        scratch.iter_mut().for_each(|buffer| buffer.keep(KEPT_BYTES));
        let _ = SCRATCH.try_with(|cell| cell.set(Some(scratch)));
    }

    /// Sets the factors of a row of this weight; whether all of them are finite.
    #[inline(always)]
    fn set_factors(&self, [grad, hess]: &mut [RowFactors; 2], i: usize, weight: f64) -> bool {
        let GradHess { hessian, factor, .. } = self.call;
        let (_, down) = powers::<T::Ops>();
        let factor = product_of::<T::Ops>(*factor, (weight, 0.0));
        grad.set(i, (weight, 0.0), down);
        // `p (1 - p)` is too large twice.
        hess.set(i, factor, if *hessian == Hessian::Residual { down } else { down * down });
        weight.is_finite() && factor.0.is_finite()
    }

    /// The results of a row without weight.
    #[inline(always)]
    fn weightless(&self) -> [T; 2] {
        let floor = if self.call.floor > 0.0 { self.call.floor } else { 0.0 };
        [T::default(), T::Ops::from_f64(floor)]
    }

    /// Computes rows `first..first + n` into the tiles.
    ///
    /// # Safety
    /// The views are valid for these rows, the memory for a band and a row.
    #[inline(always)]
    unsafe fn band<S: Simd>(
        &self,
        s: S,
        first: usize,
        n: usize,
        memory: &mut Memory<'_, T>,
        factors: &mut [RowFactors; 2],
    ) {
        let GradHess { shape, x, labels, weights, hessian, floor, .. } = self.call;
        let (len, width, size) = (shape.len, T::Ops::WIDTH, memory.size);
        let [e, g, h] = memory.tiles;
        // SAFETY: the caller's promise; rows up to the chunk's end are read by this thread alone.
        unsafe { stage::<T::Ops, S>(s, x, *shape, first, n, self.rows.end, e, size) };
        let group = &mut *memory.group;
        group.start(n);
        let mut again = 0;
        for j in (0..n).step_by(width) {
            let e = e.wrapping_add(j / width * size);
            // SAFETY: a tile of `len` vectors.
            again |= unsafe { tile_sum::<T::Ops, S>(s, e, e, len, group, j) };
        }
        again |= group.finish_others(s, len);
        group.finish_inverse(s);
        let (classes, _) = labels.classes(first, n);
        let mut weightless = 0;
        if !matches!(weights, Weights::One) {
            for i in 0..n {
                let weight = weights.get(first + i);
                weightless |= u64::from(weight == 0.0) << i;
                again |= u64::from(!self.set_factors(factors, i, weight)) << i;
            }
        }
        for j in (0..n).step_by(width) {
            let [e, g, h] = map_each([e, g, h], |tile| tile.wrapping_add(j / width * size));
            let others = T::Ops::load_wide(s, &group.others, &group.others_low, j);
            let both = [factors[0].load::<T::Ops, S>(s, j), factors[1].load::<T::Ops, S>(s, j)];
            let (inverse, peak) = (group.inverses(s, j), group.peak(s, j));
            let lanes = Lanes::<T::Ops, S>::new(s, inverse, peak, others, both, (*hessian, *floor));
            for i in (0..len * width).step_by(width) {
                // SAFETY: the tiles have `len` vectors.
                unsafe {
                    let [grad, hess] = lanes.entries(s, T::Ops::load(s, e.add(i)));
                    T::Ops::store(s, grad, g.add(i));
                    T::Ops::store(s, hess, h.add(i));
                }
            }
            let mut places = [0; MAX_WIDTH];
            let mut at = [T::default(); MAX_WIDTH];
            for i in 0..width.min(n - j) {
                places[i] = classes[j + i] * width + i;
                // SAFETY: labels are class numbers.
                at[i] = unsafe { e.add(places[i]).read() };
            }
            let (mut grads, mut hesses) = ([T::default(); MAX_WIDTH], [T::default(); MAX_WIDTH]);
            // SAFETY: the arrays hold a vector.
            unsafe {
                let [grad, hess] = lanes.label_entries(s, T::Ops::load(s, at.as_ptr()));
                T::Ops::store(s, grad, grads.as_mut_ptr());
                T::Ops::store(s, hess, hesses.as_mut_ptr());
            }
            for i in 0..width.min(n - j) {
                // SAFETY: as above.
                unsafe {
                    g.add(places[i]).write(grads[i]);
                    h.add(places[i]).write(hesses[i]);
                }
            }
        }
        let mut odd = (again | weightless) & first_bits(n);
        while odd != 0 {
            let i = odd.trailing_zeros() as usize;
            odd &= odd - 1;
            // SAFETY: the caller's promise; nothing of the band has been written to the results.
            unsafe {
                Lines::of(x, first + i).copy_to(memory.lines(0), 1, len);
                s.call(Alone { chunk: self, row: first + i, i: 0, memory, factors });
                for (result, tile) in [(1, g), (2, h)] {
                    let first = tile.wrapping_add(i / width * size + i % width);
                    let lane = Lines { first, row: 0, class: width as isize };
                    memory.lines(result).copy_to(lane, 1, len);
                }
            }
        }
    }

    /// Takes the results of `n` rows to where they go.
    ///
    /// # Safety
    /// The views may be written.
    #[inline(always)]
    unsafe fn put_rows<S: Simd>(&self, s: S, first: usize, n: usize, memory: &Memory<'_, T>) {
        let len = self.call.shape.len;
        for (k, result) in [1, 2].into_iter().enumerate() {
            let from = memory.lines(result);
            match &self.call.results {
                // SAFETY: the result has `n` rows of `len` elements, as the memory.
                Results::Same(to) => unsafe { from.copy_to(Lines::of(&to[k], first), n, len) },
                Results::Narrow(to) => {
                    for i in 0..n {
                        let row = from.first.wrapping_add(i * memory.row_size);
                        let (wide, narrow) = (row.cast::<f64>().cast_const(), row.cast::<f32>());
                        for c in (0..len).step_by(Single::WIDTH) {
                            // SAFETY: there is room for whole vectors of `f32`. What is overwritten has been read.
                            unsafe {
                                let low = Double::load(s, wide.add(c));
                                let high = Double::load(s, wide.add(c + Double::WIDTH));
                                Single::store(s, s.narrow([low, high]), narrow.add(c));
                            }
                        }
                    }
                    let from = Lines { first: from.first.cast::<f32>(), row: 2 * from.row, class: 1 };
                    // SAFETY: as above.
                    unsafe { from.copy_to(Lines::of(&to[k], first), n, len) };
                }
            }
        }
    }

    /// Takes the results of a band to where they go.
    ///
    /// # Safety
    /// The views may be written.
    #[inline(always)]
    unsafe fn put_band<S: Simd>(&self, s: S, first: usize, n: usize, memory: &Memory<'_, T>) {
        let GradHess { shape, stream, results, .. } = self.call;
        let len = shape.len;
        for (i, tile) in [memory.tiles[1], memory.tiles[2]].into_iter().enumerate() {
            match results {
                // SAFETY: the tiles hold the results.
                Results::Same(to) => unsafe {
                    unstage::<T::Ops, S>(s, &to[i], *shape, first, n, tile, memory.size, *stream);
                },
                Results::Narrow(to) => {
                    let size = Single::WIDTH * len.next_multiple_of(Single::WIDTH);
                    let wide = tile.cast::<f64>().cast_const();
                    for j in (0..n).step_by(Single::WIDTH) {
                        let [low, high] =
                            map_each([0, 1], |k| wide.wrapping_add((j / Double::WIDTH + k) * memory.size));
                        let narrow = memory.narrow.wrapping_add(j / Single::WIDTH * size);
                        for c in 0..len {
                            // SAFETY: bands have room for whole vectors of `f32`, that is, two tiles of `f64`.
                            unsafe {
                                let low = Double::load(s, low.add(c * Double::WIDTH));
                                let high = Double::load(s, high.add(c * Double::WIDTH));
                                Single::store(s, s.narrow([low, high]), narrow.add(c * Single::WIDTH));
                            }
                        }
                    }
                    // SAFETY: as above.
                    unsafe {
                        unstage::<Single, S>(s, &to[i], *shape, first, n, memory.narrow, size, *stream);
                    }
                }
            }
        }
    }
}
