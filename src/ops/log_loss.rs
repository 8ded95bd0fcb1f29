//! Cross-entropy of given probabilities: rows with a label, or with probabilities, in chunks of fixed size.

use super::Label;
use super::elementwise::{Cycle, gradient_factor};
use super::{GradOutput, Reduce, SERIAL, Shared, compiled, flat, input, labels, rounded, wants};
use crate::error::Error;
use crate::exact::{mul_pairs, value};
use crate::float::{Element, Float};
use crate::kernels::labels::Labels;
use crate::kernels::log_loss::{LogLosses, LogSum, Quotients, RowQuotients, RowSums, Terms};
use crate::kernels::map::Write;
use crate::kernels::total::Total;
use crate::lines::GROUP;
use crate::parallel::{get_num_threads, run_chunks};
use crate::shape::{Shape, View};
use crate::simd::{Simd, Task, dispatch};
use crate::sums::{Reduction, Sum, Sums};

/// Rows with a label that are worked on together.
const ROWS: usize = 1024;
/// Elements that take as long as a row with a label.
const ROW_COST: usize = 16;
/// Elements of rows with probabilities that are worked on together, if there is more than one row.
const ELEMENTS: usize = 16 * 1024;

/// Runs `work(chunk)` for every chunk, on several threads if there are many elements.
fn chunked(chunks: usize, elements: usize, work: &(dyn Fn(usize) + Sync)) {
    if elements < SERIAL || chunks <= 1 {
        (0..chunks).for_each(work);
    } else {
        run_chunks(chunks, get_num_threads(), work);
    }
}

/// A sum of numbers, on another scale where it overflows.
fn sum_of<T: Float>(sum: (f64, f64), numbers: impl FnOnce() -> Vec<f64>) -> Sum {
    if size_of::<T>() == 4 || sum.0.is_finite() { Sum::new(sum, 0) } else { Sum::of_large(&numbers()) }
}

fn wide<T: Float>(numbers: &[T]) -> Vec<f64> {
    numbers.iter().map(|&x| T::Ops::to_f64(x)).collect()
}

/// An array whose elements are numbers `T` here, however they are stored; what is counted in elements are those.
pub(crate) trait Store<T>: Copy + Sync {
    /// The steps from row to row, for an inner extent of 1, and from class to class.
    fn steps(&self) -> (isize, isize);

    /// Reads the element of each row from `first` on that has a class; 1 for the others.
    ///
    /// # Safety
    /// The array has these rows and classes.
    unsafe fn gather(&self, shape: Shape, first: usize, classes: &Classes, to: &mut Vec<T>);

    /// Writes those of [`Store::gather`].
    ///
    /// # Safety
    /// As there; nobody else touches these rows.
    unsafe fn scatter(&self, shape: Shape, first: usize, classes: &Classes, from: &mut [T]);

    /// Makes `n` elements 0, from `start` behind the first on.
    ///
    /// # Safety
    /// The array's memory is dense and has them; nobody else touches them.
    unsafe fn clear(&self, start: usize, n: usize);

    /// Calls `work` with elements `start..start + n` of two operands and, unless null, of the gradient.
    ///
    /// # Safety
    /// The arrays have them, one behind the other; nobody else touches those of `grad`.
    unsafe fn with_elements(
        operands: [Self; 2],
        grad: Option<Self>,
        start: usize,
        n: usize,
        work: &mut dyn FnMut(*const T, *const T, *mut T),
    );
}

impl<T: Float> Store<T> for SharedView<T> {
    fn steps(&self) -> (isize, isize) {
        (self.0.outer, self.0.len)
    }

    unsafe fn gather(&self, shape: Shape, first: usize, classes: &Classes, to: &mut Vec<T>) {
        let place = self.place_from(shape, first);
        // SAFETY: the caller's promise.
        let read = move |(i, class)| unsafe { place(i, class).read() };
        to.clear();
        if classes.all {
            to.extend(classes.numbers().enumerate().map(read));
        } else {
            let read =
                |(i, class): (usize, Option<usize>)| class.map_or(T::Ops::ONE, |class| read((i, class)));
            to.extend(classes.iter().enumerate().map(read));
        }
    }

    unsafe fn scatter(&self, shape: Shape, first: usize, classes: &Classes, from: &mut [T]) {
        let place = self.place_from(shape, first);
        for (i, (class, &x)) in classes.iter().zip(from.iter()).enumerate() {
            if let Some(class) = class {
                // SAFETY: the caller's promise.
                unsafe { place(i, class).write(x) };
            }
        }
    }

    unsafe fn clear(&self, start: usize, n: usize) {
        // SAFETY: the caller's promise; zero bytes are zeros.
        unsafe { self.0.ptr.add(start).write_bytes(0, n) };
    }

    unsafe fn with_elements(
        [x, t]: [Self; 2],
        grad: Option<Self>,
        start: usize,
        _n: usize,
        work: &mut dyn FnMut(*const T, *const T, *mut T),
    ) {
        let at = |view: Self| view.0.ptr.wrapping_add(start);
        work(at(x), at(t), grad.map_or(std::ptr::null_mut(), at));
    }
}

/// What is common to all rows of a gradient: the factor that the reduction gives, or zeros.
enum Slope<T> {
    Zero,
    One((f64, f64)),
    Rows(View<T>),
}

impl<T: Float> Slope<T> {
    fn new(incoming: GradOutput<T>, divisor: Option<Sum>) -> Self {
        match (incoming, divisor) {
            (GradOutput::Scalar(g), Some(divisor)) => {
                gradient_factor(g, divisor).map_or(Slope::Zero, Slope::One)
            }
            (GradOutput::Scalar(g), None) => Slope::One((g, 0.0)),
            (GradOutput::Rows(view), _) => Slope::Rows(view),
        }
    }
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T> Sync for Slope<T> {}

/// The class of each row of a chunk, if it counts.
pub(crate) struct Classes {
    /// Each less than the number of classes, with which the copy kept here was compared; those of rows that do not
    /// count say nothing.
    numbers: Vec<[usize; GROUP]>,
    /// Which rows count.
    counted: Vec<u64>,
    rows: usize,
    /// Whether all rows count.
    all: bool,
}

impl Classes {
    #[cfg(feature = "python")]
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<usize>> {
        let counts = |i: usize| self.counted[i / GROUP] >> (i % GROUP) & 1 == 1;
        self.numbers().enumerate().map(move |(i, class)| counts(i).then_some(class))
    }

    fn numbers(&self) -> impl Iterator<Item = usize> {
        self.numbers.as_flattened()[..self.rows].iter().copied()
    }

    /// Makes the weight of rows that do not count 0, and rows of weight 0 not count.
    fn match_weights<T: Float>(&mut self, weights: &mut [T]) {
        for (weights, counted) in weights.chunks_mut(GROUP).zip(&mut self.counted) {
            for (i, weight) in weights.iter_mut().enumerate() {
                if *counted >> i & 1 == 0 {
                    *weight = T::Ops::ZERO;
                } else if *weight == T::Ops::ZERO {
                    *counted &= !(1 << i);
                    self.all = false;
                }
            }
        }
    }
}

/// Reads the labels of `rows` rows; a task, so that this is compiled for each level.
struct ReadClasses<'a> {
    labels: &'a Labels,
    first: usize,
    rows: usize,
}

impl Task for ReadClasses<'_> {
    type Out = Classes;

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) -> Classes {
        let ReadClasses { labels, first, rows } = self;
        let groups = rows.div_ceil(GROUP);
        let (mut numbers, mut counted) = (vec![[0; GROUP]; groups], vec![0; groups]);
        let mut count = 0;
        for (i, (numbers, counted)) in numbers.iter_mut().zip(&mut counted).enumerate() {
            (*numbers, *counted) = labels.classes(first + i * GROUP, (rows - i * GROUP).min(GROUP));
            count += counted.count_ones() as usize;
        }
        Classes { numbers, counted, rows, all: count == rows }
    }
}

/// The rows of a chunk: weights (0 where nothing counts) and probabilities of the labels (1 there).
struct Chunk<T> {
    weights: Vec<T>,
    p: Vec<T>,
    classes: Classes,
    memory: Vec<T>,
}

impl<T: Float> Chunk<T> {
    /// Reads the labels and weights of some rows.
    fn read(labels: &Labels, weight: Option<Cycle<T>>, first: usize, n: usize) -> Self {
        let mut classes = dispatch(ReadClasses { labels, first, rows: n });
        let mut memory = Vec::new();
        let mut weights = match weight {
            None => vec![T::Ops::ONE; n],
            Some(weight) => {
                let numbers = weight.part(first, n, &mut memory);
                // SAFETY: `part` gives as many numbers.
                unsafe { std::slice::from_raw_parts(numbers, n) }.to_vec()
            }
        };
        if weight.is_some() || !classes.all {
            classes.match_weights(&mut weights);
        }
        Chunk { weights, p: Vec::new(), classes, memory }
    }

    fn terms(&self) -> Terms<T::Ops> {
        Terms { t: self.weights.as_ptr(), p: self.p.as_ptr() }
    }

    fn weight_sum(&self) -> Sum {
        let sum = dispatch(Total::<T::Ops> { x: self.weights.as_ptr(), len: self.weights.len() });
        sum_of::<T>(sum, || wide(&self.weights))
    }

    /// The loss of every row.
    fn losses(&self) -> Vec<T> {
        let mut losses = vec![T::default(); self.p.len()];
        let (out, len) = (losses.as_mut_ptr(), self.p.len());
        dispatch(Write::<T::Ops, _> { map: LogLosses(self.terms()), out, len, stream: false });
        losses
    }

    /// The gradient at the label of every row; it takes the place of the probabilities.
    fn slopes(&mut self, shape: Shape, slope: &Slope<T>, first: usize) {
        let factor = match slope {
            Slope::Zero => return self.p.fill(T::Ops::ZERO),
            Slope::One(factor) => *factor,
            Slope::Rows(view) => {
                self.memory.clear();
                let at = |row| view.row(row, shape.inner);
                // SAFETY: the view has an element for every row.
                self.memory.extend((first..first + self.p.len()).map(|row| unsafe { at(row).read() }));
                (1.0, 0.0)
            }
        };
        let factors = if let Slope::Rows(_) = slope { self.memory.as_ptr() } else { std::ptr::null() };
        let (terms, out, len) = (self.terms(), self.p.as_mut_ptr(), self.p.len());
        let terms = Terms { p: out.cast_const(), ..terms };
        dispatch(Write::<T::Ops, _> { map: Quotients { terms, factor, factors }, out, len, stream: false });
    }
}

/// Log loss with integer labels. The gradient's memory is dense: its elements are all that lies between the first and
/// the last.
///
/// # Safety
/// The views are valid for `shape`, the labels and per-row views for its batch; `grad` is apart from all others or
/// exactly `x`.
pub(crate) unsafe fn log_loss_view<T: Float, S: Store<T>>(
    shape: Shape,
    x: S,
    labels: Labels,
    weight: Option<Cycle<T>>,
    reduce: &Reduce<T>,
    grad: Option<(S, GradOutput<T>)>,
) -> Result<f64, Error> {
    let rows = shape.batch();
    let count = labels.check(rows)?;
    let chunks = rows.div_ceil(ROWS);
    let part = |chunk: usize| (chunk * ROWS, ROWS.min(rows - chunk * ROWS));
    let divisor = match reduce {
        Reduce::To(Reduction::Mean) if weight.is_none() => Some(Sum::new((count as f64, 0.0), 0)),
        Reduce::To(Reduction::Mean) => {
            let sums = Sums::new(chunks);
            chunked(chunks, rows, &|i| {
                let (first, n) = part(i);
                let chunk = Chunk::read(&labels, weight, first, n);
                // SAFETY: the chunk belongs to this thread alone.
                unsafe { sums.set(i, chunk.weight_sum()) };
            });
            Some(sums.total())
        }
        _ => None,
    };
    let grad = grad.map(|(out, incoming)| (out, Slope::new(incoming, divisor)));
    let out = grad.as_ref().map(|(out, _)| *out);
    let slope = grad.as_ref().map(|(_, slope)| slope);
    // A chunk's rows of the gradient follow one another: they are filled and finished at once.
    let follow = out.is_some_and(|out| shape.inner == 1 && out.steps() == (shape.len as isize, 1));
    let places = match reduce {
        Reduce::Rows(view) => Some(SharedView(*view)),
        Reduce::To(_) => None,
    };
    let sums = Sums::new(chunks);
    // What is left to be put to its place, chunk by chunk.
    let mut left: Vec<Option<Chunk<T>>> = (0..chunks).map(|_| None).collect();
    let kept = Shared(left.as_mut_ptr());
    // A row without its gradient is a cache line and a logarithm.
    let elements = if out.is_some() { shape.size() } else { rows.saturating_mul(ROW_COST) };
    chunked(chunks, elements, &|i| {
        let (first, n) = part(i);
        let mut chunk = Chunk::read(&labels, weight, first, n);
        // SAFETY: the view is valid for the shape; a label that counts is a class.
        unsafe { x.gather(shape, first, &chunk.classes, &mut chunk.p) };
        if let Some(SharedView(view)) = &places {
            for (row, loss) in chunk.losses().into_iter().enumerate() {
                // SAFETY: the view has an element for every row; this thread's rows.
                unsafe { view.row(first + row, shape.inner).write(loss) };
            }
        } else {
            let sum = dispatch(LogSum::<T::Ops> { terms: chunk.terms(), len: n });
            // SAFETY: the chunk belongs to this thread alone.
            unsafe { sums.set(i, sum_of::<T>(sum, || wide(&chunk.losses()))) };
        }
        if let (Some(slope), Some(out)) = (slope, out) {
            chunk.slopes(shape, slope, first);
            if follow {
                // SAFETY: this thread's rows, one behind the other.
                unsafe {
                    out.clear(first * shape.len, n * shape.len);
                    out.scatter(shape, first, &chunk.classes, &mut chunk.p);
                }
            } else {
                // SAFETY: the chunk belongs to this thread alone.
                unsafe { kept.at(i).write(Some(chunk)) };
            }
        }
    });
    if let Some(out) = out
        && !follow
    {
        // SAFETY: the gradient's memory is dense; each thread has a part of it.
        flat(shape.size(), &|first, n| unsafe { out.clear(first, n) });
        chunked(chunks, elements, &|i| {
            // SAFETY: the chunk and its rows belong to this thread alone.
            unsafe {
                if let Some(chunk) = &mut *kept.at(i) {
                    out.scatter(shape, part(i).0, &chunk.classes, &mut chunk.p);
                }
            }
        });
    }
    let total = sums.total();
    Ok(divisor.map_or(total, |divisor| total.over(divisor)).rounded())
}

/// A view that threads may share; each touches its own part.
pub(crate) struct SharedView<T>(pub(crate) View<T>);

impl<T> Clone for SharedView<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for SharedView<T> {}
// SAFETY: every user touches its own rows.
unsafe impl<T> Sync for SharedView<T> {}

impl<T> SharedView<T> {
    /// Where the element of a row behind `first` and of a class is.
    #[inline(always)]
    fn place_from(self, shape: Shape, first: usize) -> impl Fn(usize, usize) -> *mut T + Copy {
        let SharedView(view) = self;
        move |row, class| view.row(first + row, shape.inner).wrapping_offset(class as isize * view.len)
    }
}

/// Log loss with probabilities `t` as labels; `x`, `t` and the gradient are rows that follow one another.
///
/// # Safety
/// The operands are valid for `rows * len` elements, the per-row views and weights for `rows`; `grad` is apart from all
/// others or exactly `x` or `t`.
pub(crate) unsafe fn soft_log_loss_view<T: Float, S: Store<T>>(
    shape: Shape,
    [x, t]: [S; 2],
    weight: Option<Cycle<T>>,
    reduce: &Reduce<T>,
    grad: Option<(S, GradOutput<T>)>,
) -> f64 {
    let (rows, len) = (shape.batch(), shape.len);
    let step = (ELEMENTS / len.max(1)).max(1);
    let chunks = rows.div_ceil(step);
    let divisor = match (reduce, weight) {
        (Reduce::To(Reduction::Mean), Some(weight)) => Some(weight.sum(rows)),
        (Reduce::To(Reduction::Mean), None) => Some(Sum::new((rows as f64, 0.0), 0)),
        _ => None,
    };
    let (out, slope) = grad.map(|(out, incoming)| (out, Slope::new(incoming, divisor))).unzip();
    let places = match reduce {
        Reduce::Rows(view) => Some(SharedView(*view)),
        Reduce::To(_) => None,
    };
    let sums = Sums::new(chunks);
    let chunk = |i: usize, terms: Terms<T::Ops>, grad: *mut T| {
        let (first, n) = (i * step, step.min(rows - i * step));
        let mut memory = Vec::new();
        let weights = weight.map(|weight| {
            let numbers = weight.part(first, n, &mut memory);
            // SAFETY: `part` gives as many numbers.
            unsafe { std::slice::from_raw_parts(numbers, n) }
        });
        let weight = |row: usize| weights.map_or(1.0, |weights| T::Ops::to_f64(weights[row]));
        let mut losses = vec![(0.0, 0.0); n];
        dispatch(RowSums { terms, len, sums: &mut losses });
        for (row, loss) in losses.iter_mut().enumerate() {
            let weight = weight(row);
            *loss = if weight == 0.0 { (0.0, 0.0) } else { mul_pairs(*loss, (weight, 0.0)) };
        }
        if let Some(SharedView(view)) = &places {
            for (row, &loss) in losses.iter().enumerate() {
                // SAFETY: the view has an element for every row; this thread's rows.
                unsafe { view.row(first + row, shape.inner).write(rounded(value(loss))) };
            }
        } else {
            let sum = losses.iter().fold((0.0, 0.0), |sum, &loss| crate::exact::add_pairs(sum, loss));
            let sum = sum_of::<T>(sum, || losses.iter().map(|&loss| value(loss)).collect());
            // SAFETY: the chunk belongs to this thread alone.
            unsafe { sums.set(i, sum) };
        }
        if let Some(slope) = &slope {
            let factor = |row: usize| match slope {
                _ if weight(row) == 0.0 => (0.0, 0.0),
                Slope::Zero => (0.0, 0.0),
                Slope::One(factor) => mul_pairs(*factor, (weight(row), 0.0)),
                Slope::Rows(view) => {
                    // SAFETY: the view has an element for every row.
                    let g = unsafe { view.row(first + row, shape.inner).read() };
                    mul_pairs((T::Ops::to_f64(g), 0.0), (weight(row), 0.0))
                }
            };
            let factors: Vec<_> = (0..n).map(factor).collect();
            dispatch(RowQuotients { terms, len, factors: &factors, out: grad });
        }
    };
    chunked(chunks, shape.size(), &|i| {
        let (first, n) = (i * step, step.min(rows - i * step));
        // SAFETY: the operands have these rows, one behind the other; this thread's rows.
        unsafe {
            S::with_elements([x, t], out, first * len, n * len, &mut |p, t, grad| {
                chunk(i, Terms { t, p }, grad);
            });
        }
    });
    let total = sums.total();
    divisor.map_or(total, |divisor| total.over(divisor)).rounded()
}

// --- over slices -----------------------------------------------------------------------------------------

/// Cross-entropy of given probabilities with one class number per row, `-log p_y`, within 3 ulp (`f32`) or 4
/// (`f64`): nothing is clipped or normalised. A label equal to `ignore` adds nothing. With its gradient,
/// `-1 / p_y` at the label and 0 elsewhere (`Mean`: over the number of rows that are not ignored), if there
/// is a buffer for it.
///
/// ```
/// use logitkit::{Reduction, Shape, log_loss};
/// let probs = [0.5, 0.25, 0.25, 1.0, 0.0, 0.0];
/// let mut grad = [9.0; 6];
/// let loss = log_loss(&probs, &[1u8, 0], Shape::rows(2, 3), None, Reduction::Sum, Some(&mut grad))?;
/// assert_eq!(loss, 4f64.ln());
/// assert_eq!(grad, [0.0, -4.0, 0.0, -1.0, 0.0, 0.0]);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape; [`Error::Label`] for a label that is neither a
/// class number nor ignored.
pub fn log_loss<T: Float, L: Label>(
    probs: &[T],
    classes: &[L],
    shape: Shape,
    ignore: Option<i64>,
    reduction: Reduction,
    grad: Option<&mut [T]>,
) -> Result<T, Error> {
    wants("probs", probs.len(), shape.size())?;
    wants("classes", classes.len(), shape.batch())?;
    if let Some(grad) = &grad {
        wants("grad", grad.len(), shape.size())?;
    }
    let labels = labels(classes, shape, ignore);
    let view = |ptr| SharedView(View::contiguous(ptr, shape));
    let grad = grad.map(|grad| (view(grad.as_mut_ptr()), GradOutput::Scalar(1.0)));
    let (x, reduce) = (SharedView(input(probs, shape)), Reduce::To(reduction));
    // SAFETY: the slices have the sizes needed; `grad` does not overlap.
    let loss = unsafe { (compiled().log_loss)(shape, x, labels, None, &reduce, grad) }?;
    Ok(rounded(loss))
}

/// [`log_loss`] with probabilities `t` as labels: `-sum_c t_c log p_c`, where `t_c = 0` adds nothing; the
/// gradient is `-t_c / p_c`. Rows of `len` neighbouring elements; `Mean` divides by their number.
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit.
pub fn soft_log_loss<T: Float>(
    probs: &[T],
    probabilities: &[T],
    len: usize,
    reduction: Reduction,
    grad: Option<&mut [T]>,
) -> Result<T, Error> {
    let rows = probs.len().checked_div(len).unwrap_or(0);
    wants("probs", probs.len(), rows * len)?;
    wants("probabilities", probabilities.len(), probs.len())?;
    if let Some(grad) = &grad {
        wants("grad", grad.len(), probs.len())?;
    }
    let (reduce, shape) = (Reduce::To(reduction), Shape::rows(rows, len));
    let view = |ptr| SharedView(View::contiguous(ptr, shape));
    let grad = grad.map(|grad| (view(grad.as_mut_ptr()), GradOutput::Scalar(1.0)));
    let operands = [probs, probabilities].map(|slice| SharedView(input(slice, shape)));
    // SAFETY: the slices have that size; `grad` does not overlap.
    let loss = unsafe { (compiled().soft_log_loss)(shape, operands, None, &reduce, grad) };
    Ok(rounded(loss))
}
