//! The operations: check shapes and labels, split the rows over threads, run a kernel. No arithmetic on elements.
#![expect(unsafe_code, reason = "safe functions over slices call the walks over views")]

mod compiled;
pub(crate) mod elementwise;
pub(crate) mod log_loss;

use crate::error::Error;
use crate::exact::{divide_by_pair, ldexp, value};
use crate::float::{Element, Float};
use crate::kernels::classification_error::{ClassificationError, CountedWeights, Weights};
use crate::kernels::labels::{LabelType, Labels};
use crate::kernels::log_softmax::{LogSoftmax, LogSoftmaxBackward};
use crate::kernels::logsumexp::{LogSumExp, LogSumExpBackward};
use crate::kernels::map::Scale;
#[cfg(feature = "python")]
use crate::kernels::mse::WeightedDifference;
use crate::kernels::mse::{CHUNK, Difference, ErrorAndGradient, SquaredError, SumAndWrite};
use crate::kernels::softmax::{Softmax, SoftmaxBackward};
use crate::kernels::temperature::Temperature;
use crate::kernels::weights::{self, ClassWeight, SampleWeight};
use crate::lines::{Kernel, PerRow, Plan, Walk, chunk_rows};
use crate::parallel::{get_num_threads, run_chunks};
use crate::shape::{Shape, View};
use crate::simd::dispatch;
use crate::sums::{Reduction, Sum, Sums};
use std::marker::PhantomData;
use std::ops::Range;

pub(crate) mod evaluation;
mod grad_hess;
pub(crate) use compiled::compiled;
pub use grad_hess::cross_entropy_grad_hess;
#[cfg(feature = "python")]
pub(crate) use grad_hess::grad_hess_view;

/// Work below this many elements stays on the caller's thread.
pub(crate) const SERIAL: usize = 100_000;
/// Outputs from this size on are written past the caches.
const STREAM_BYTES: usize = 32 << 20;
/// Bytes of a large page of memory.
const HUGE_PAGE: usize = 2 << 20;
/// Chunks of a flat reduction that are claimed together.
const FLAT_CLAIM: usize = 16;
/// The power of two by which `f64` differences are scaled whose squares leave the range.
const MSE_POWER: i32 = 600;

/// What becomes of the losses of the rows, with strided results.
pub(crate) enum Reduce<T> {
    To(Reduction),
    Rows(View<T>),
}

/// Runs a kernel over all rows of the plan.
fn run<K: Kernel>(kernel: &K, plan: &Plan<'_, K::E>) {
    let rows = plan.shape.batch();
    let step = chunk_rows(plan.shape);
    let chunks = rows.div_ceil(step);
    let walk = |chunk: usize| {
        let rows = chunk * step..((chunk + 1) * step).min(rows);
        Walk { kernel, plan, chunk, rows, staged: None }.run();
    };
    if plan.shape.size() < SERIAL || chunks <= 1 {
        (0..chunks).for_each(walk);
        return;
    }
    // Neighbouring chunks go to one thread, up to a huge page.
    let threads = get_num_threads();
    let bytes = step * plan.shape.len * size_of::<<K::E as Element>::T>();
    let span = (HUGE_PAGE / bytes.max(1)).clamp(1, (chunks / (8 * threads)).max(1));
    run_chunks(chunks.div_ceil(span), threads, &|claim| {
        let chunks = claim * span..((claim + 1) * span).min(chunks);
        if K::WRITES {
            // SAFETY: the rows of these chunks are this thread's.
            unsafe { touch(plan, chunks.start * step..(chunks.end * step).min(rows)) };
        }
        chunks.for_each(walk);
    });
}

/// Makes the system clear the huge pages that begin in fresh rows. Two threads that write to one such page for
/// the first time would both clear it; so the one whose rows hold its start does, before it begins with the rows
/// that lie in the page before.
///
/// # Safety
/// No other thread writes to these rows.
unsafe fn touch<E: Element>(plan: &Plan<'_, E>, rows: Range<usize>) {
    let (shape, out) = (plan.shape, plan.out);
    if !out.fresh || shape.inner != 1 || out.len != 1 || out.outer != shape.len as isize {
        return;
    }
    let start = out.row(rows.start, 1).cast::<u8>();
    // SAFETY: the caller's promise.
    unsafe { touch_pages(start, rows.len() * shape.len * size_of::<E::T>()) };
}

/// [`touch`] for memory that has not been written yet.
///
/// # Safety
/// No other thread writes to these bytes.
unsafe fn touch_pages(start: *mut u8, bytes: usize) {
    for offset in (start.addr().wrapping_neg() % HUGE_PAGE..bytes).step_by(HUGE_PAGE) {
        // SAFETY: inside the bytes; volatile, because nobody reads it.
        unsafe { start.add(offset).write_volatile(0) };
    }
}

fn streams<T>(shape: Shape, out: View<T>, inputs: &[View<T>]) -> bool {
    !out.fresh && shape.size() * size_of::<T>() >= STREAM_BYTES && inputs.iter().all(|x| x.ptr != out.ptr)
}

/// Runs a kernel that has one result per element.
///
/// # Safety
/// The views are valid for `shape`; `out` is apart from the inputs or exactly one of them.
unsafe fn elementwise<T: Float, K: Kernel<E = T::Ops>>(
    kernel: &K,
    shape: Shape,
    inputs: [View<T>; 2],
    out: View<T>,
) {
    let stream = streams(shape, out, &inputs[..K::INPUTS]);
    run(kernel, &Plan { shape, x: inputs, out, per_row: PerRow::Nothing, stream });
}

/// # Safety
/// As [`elementwise()`].
pub(crate) unsafe fn softmax_view<T: Float>(shape: Shape, x: View<T>, out: View<T>) {
    // SAFETY: the caller's promise.
    unsafe { normalize_view(shape, x, out, Normal::Softmax, Temperature::One, None) }
}

/// # Safety
/// As [`elementwise()`].
pub(crate) unsafe fn log_softmax_view<T: Float>(shape: Shape, x: View<T>, out: View<T>) {
    // SAFETY: the caller's promise.
    unsafe { normalize_view(shape, x, out, Normal::LogSoftmax, Temperature::One, None) }
}

/// Which of two results [`normalize_view`] has.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Normal {
    Softmax,
    LogSoftmax,
}

/// Softmax or its logarithm of `x / temperature`, and logsumexp of that into `lse`.
///
/// # Safety
/// As [`elementwise()`]; `lse` has an element per row, apart from all others.
pub(crate) unsafe fn normalize_view<T: Float>(
    shape: Shape,
    x: View<T>,
    out: View<T>,
    which: Normal,
    temperature: Temperature,
    lse: Option<View<T>>,
) {
    let stream = streams(shape, out, &[x]);
    let per_row = lse.map_or(PerRow::Nothing, PerRow::Array);
    let plan = Plan { shape, x: [x, x], out, per_row, stream };
    match which {
        Normal::Softmax => run(&Softmax::<T::Ops> { temperature, element: PhantomData }, &plan),
        Normal::LogSoftmax => run(&LogSoftmax::<T::Ops> { temperature, element: PhantomData }, &plan),
    }
}

/// # Safety
/// As [`elementwise()`].
pub(crate) unsafe fn softmax_backward_view<T: Float>(shape: Shape, grad: View<T>, y: View<T>, out: View<T>) {
    // SAFETY: the caller's promise.
    unsafe { backward_view(shape, grad, y, out, Normal::Softmax, Temperature::One) }
}

/// # Safety
/// As [`elementwise()`].
pub(crate) unsafe fn log_softmax_backward_view<T: Float>(
    shape: Shape,
    grad: View<T>,
    y: View<T>,
    out: View<T>,
) {
    // SAFETY: the caller's promise.
    unsafe { backward_view(shape, grad, y, out, Normal::LogSoftmax, Temperature::One) }
}

/// The gradient of [`normalize_view`].
///
/// # Safety
/// As [`elementwise()`].
pub(crate) unsafe fn backward_view<T: Float>(
    shape: Shape,
    grad: View<T>,
    y: View<T>,
    out: View<T>,
    which: Normal,
    temperature: Temperature,
) {
    let (x, element) = ([grad, y], PhantomData::<T::Ops>);
    // SAFETY: the caller's promise.
    unsafe {
        match which {
            Normal::Softmax => elementwise(&SoftmaxBackward { temperature, element }, shape, x, out),
            Normal::LogSoftmax => elementwise(&LogSoftmaxBackward { temperature, element }, shape, x, out),
        }
    }
}

/// # Safety
/// As [`elementwise()`]; `grad` and `lse` have an element per row.
pub(crate) unsafe fn logsumexp_backward_view<T: Float>(
    shape: Shape,
    grad: View<T>,
    x: View<T>,
    lse: View<T>,
    out: View<T>,
) {
    let kernel = LogSumExpBackward { grad: Scale::Rows(grad, shape.inner), lse, inner: shape.inner };
    // SAFETY: the caller's promise.
    unsafe { elementwise(&kernel, shape, [x, x], out) }
}

/// # Safety
/// The views are valid for `shape`; `out` has an element per row and is apart from `x`.
pub(crate) unsafe fn logsumexp_view<T: Float>(shape: Shape, x: View<T>, out: View<T>) {
    let plan = Plan { shape, x: [x, x], out: x, per_row: PerRow::Array(out), stream: false };
    run(&LogSumExp::<T::Ops>(PhantomData), &plan);
}

/// Runs a loss kernel: its results per row go to an array, or their total comes back, for a mean divided by `weights`.
fn run_loss<T: Float, K: Kernel<E = T::Ops>>(
    kernel: &K,
    shape: Shape,
    x: [View<T>; 2],
    out: Option<View<T>>,
    reduce: &Reduce<T>,
    weights: (f64, f64),
) -> f64 {
    let stream = out.is_some_and(|out| streams(shape, out, &x[..K::INPUTS]));
    let out = out.unwrap_or(x[0]);
    match reduce {
        Reduce::Rows(rows) => {
            run(kernel, &Plan { shape, x, out, per_row: PerRow::Array(*rows), stream });
            0.0
        }
        Reduce::To(reduction) => {
            let sums = Sums::new(shape.batch().div_ceil(chunk_rows(shape)));
            run(kernel, &Plan { shape, x, out, per_row: PerRow::Sums(&sums), stream });
            sums.total().reduced_by(*reduction, weights)
        }
    }
}

/// The incoming gradient of a loss.
pub(crate) enum GradOutput<T> {
    Scalar(f64),
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Rows(View<T>),
}

impl<T: Float> GradOutput<T> {
    fn scale(self, shape: Shape, reduce: &Reduce<T>, weights: (f64, f64)) -> Scale<T> {
        match self {
            GradOutput::Scalar(g) if matches!(reduce, Reduce::To(Reduction::Mean)) => {
                Scale::All(divide_by_pair(g, weights))
            }
            GradOutput::Scalar(g) => Scale::All((g, 0.0)),
            GradOutput::Rows(view) => Scale::Rows(view, shape.inner),
        }
    }
}

/// Class numbers, or probabilities of the logits' shape.
pub(crate) enum Targets<T> {
    Classes(Labels),
    Probabilities(View<T>),
}

/// What else a cross-entropy may be given.
#[derive(Clone, Copy)]
pub(crate) struct Options<T> {
    pub(crate) temperature: Temperature,
    pub(crate) class_weight: ClassWeight<T>,
    pub(crate) sample_weight: SampleWeight,
    pub(crate) smoothing: f64,
    pub(crate) z_loss: f64,
}

impl<T: Float> Options<T> {
    pub(crate) const NONE: Self = Options {
        temperature: Temperature::One,
        class_weight: ClassWeight::ONE,
        sample_weight: SampleWeight::One,
        smoothing: 0.0,
        z_loss: 0.0,
    };

    /// The divisor of a mean, of rows with labels or with probabilities; if not all rows can count, of those where `left`
    /// is true. Where it is 0, no row counts.
    fn divisor(
        &mut self,
        shape: Shape,
        labels: Option<&Labels>,
        mean: bool,
        left: Option<&(dyn Fn(usize) -> bool + Sync)>,
    ) -> Result<(f64, f64), Error> {
        let rows = shape.batch();
        let count = labels.map_or(Ok(rows), |labels| labels.check(rows))?;
        let one_class = labels.is_none() || self.class_weight.is_one();
        if !mean || one_class && self.sample_weight.is_one() && left.is_none() {
            return Ok((count as f64, 0.0));
        }
        let divisor = weights::total(labels, &self.class_weight, &self.sample_weight, rows, left);
        if value(divisor) == 0.0 {
            self.sample_weight = SampleWeight::Nothing;
        }
        Ok(divisor)
    }
}

/// Runs `$run` with the kernel for `$labels`, or for probabilities, and `$options`, as `$kernel`.
macro_rules! loss_kernels {
    ($options:expr, $shape:expr, $labels:expr, $scale:expr, $grad:expr, |$kernel:ident| $run:expr) => {{
        use crate::kernels::{
            cross_entropy::CrossEntropy, regularized_cross_entropy::RegularizedCrossEntropy,
            soft_cross_entropy::SoftCrossEntropy, weights,
        };
        let $crate::ops::Options { temperature, class_weight, sample_weight, smoothing, z_loss } = $options;
        let scale = $scale;
        macro_rules! labelled {
            ($with_grad:literal, $labels_:expr) => {{
                let labels = $labels_;
                let $kernel =
                    CrossEntropy::<T, $with_grad> { labels, scale, class_weight, sample_weight, temperature };
                $run
            }};
        }
        macro_rules! soft {
            ($with_grad:literal) => {{
                let $kernel = SoftCrossEntropy::<T, $with_grad> { scale };
                $run
            }};
        }
        macro_rules! regularized {
            ($soft:literal, $with_grad:literal, $labels_:expr) => {{
                let (labels, class_total) = ($labels_, weights::class_total(&class_weight, $shape.len));
                let $kernel = RegularizedCrossEntropy::<T, $soft, $with_grad> {
                    labels,
                    classes: weights::Classes::All,
                    scale,
                    class_weight,
                    class_total,
                    sample_weight,
                    temperature,
                    smoothing,
                    z_loss,
                };
                $run
            }};
        }
        let even = smoothing == 0.0 && z_loss == 0.0;
        let plain = even && temperature.is_one() && class_weight.is_one() && sample_weight.is_one();
        match ($labels, $grad) {
            (Some(labels), true) if even => labelled!(true, labels),
            (Some(labels), false) if even => labelled!(false, labels),
            (None, true) if plain => soft!(true),
            (None, false) if plain => soft!(false),
            (Some(labels), true) => regularized!(false, true, Some(labels)),
            (Some(labels), false) => regularized!(false, false, Some(labels)),
            (None, true) => regularized!(true, true, None),
            (None, false) => regularized!(true, false, None),
        }
    }};
}
#[cfg(feature = "python")]
pub(crate) mod staged;

/// Cross-entropy; the gradient goes to `grad`, unless there is none.
///
/// # Safety
/// The views are valid for `shape`, those with a number per row for its batch, the class weights for its classes; `grad`
/// is apart from all others or exactly `x` or the probabilities.
pub(crate) unsafe fn cross_entropy_view<T: Float>(
    shape: Shape,
    x: View<T>,
    targets: Targets<T>,
    mut options: Options<T>,
    reduce: &Reduce<T>,
    grad: Option<(View<T>, GradOutput<T>)>,
) -> Result<f64, Error> {
    let labels = match &targets {
        Targets::Classes(labels) => Some(labels),
        Targets::Probabilities(_) => None,
    };
    let divisor = options.divisor(shape, labels, matches!(reduce, Reduce::To(Reduction::Mean)), None)?;
    let (grad, scale) = match grad {
        Some((grad, incoming)) => (Some(grad), incoming.scale(shape, reduce, divisor)),
        None => (None, Scale::All((1.0, 0.0))),
    };
    // SAFETY: the caller's promise.
    Ok(loss_kernels!(options, shape, labels.copied(), scale, grad.is_some(), |kernel| {
        match &targets {
            Targets::Classes(_) => run_loss(&kernel, shape, [x, x], grad, reduce, divisor),
            Targets::Probabilities(t) => run_loss(&kernel, shape, [x, *t], grad, reduce, divisor),
        }
    }))
}

/// The classification error, each row times its weight if there are weights; per row into `rows` if given. `Mean`
/// divides by the number of counted rows, or the sum of their weights: NaN if that is zero.
///
/// # Safety
/// As [`cross_entropy_view`].
pub(crate) unsafe fn classification_error_view<T: Float>(
    shape: Shape,
    x: View<T>,
    labels: Labels,
    weights: Option<View<f64>>,
    reduction: Reduction,
    rows: Option<View<f64>>,
) -> Result<f64, Error> {
    let count = labels.check(shape.batch())?;
    let weights = weights.map(|view| Weights { view, inner: shape.inner });
    let kernel = ClassificationError::<T::Ops> { labels, weights, element: PhantomData };
    let plan = |per_row| Plan { shape, x: [x, x], out: x, per_row, stream: false };
    Ok(match rows {
        Some(rows) => {
            run(&kernel, &plan(PerRow::Wide(rows)));
            0.0
        }
        None => {
            let sums = Sums::new(shape.batch().div_ceil(chunk_rows(shape)));
            run(&kernel, &plan(PerRow::Sums(&sums)));
            reduced_error(shape, &labels, weights, sums.total(), reduction, count)
        }
    })
}

/// The sum or the mean of the errors of `count` rows, from their sum.
fn reduced_error(
    shape: Shape,
    labels: &Labels,
    weights: Option<Weights>,
    sum: Sum,
    reduction: Reduction,
    count: usize,
) -> f64 {
    match weights {
        Some(weights) if reduction == Reduction::Mean => {
            sum.over(weight_of_counted(shape, *labels, weights)).rounded()
        }
        _ => sum.reduced(reduction, count),
    }
}

/// The sum of the weights of the rows that are not ignored.
fn weight_of_counted(shape: Shape, labels: Labels, weights: Weights) -> Sum {
    let (shape, x) = (Shape { len: 1, ..shape }, weights.view);
    let sums = Sums::new(shape.batch().div_ceil(chunk_rows(shape)));
    let plan = Plan { shape, x: [x, x], out: x, per_row: PerRow::Sums(&sums), stream: false };
    run(&CountedWeights { labels, weights }, &plan);
    sums.total()
}

/// A pointer that threads may share; each touches its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: every user hands out disjoint parts.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }
}

/// Runs `work(start, len)` over pieces of whole [`CHUNK`]s.
fn flat(len: usize, work: &(dyn Fn(usize, usize) + Sync)) {
    pieces(len, false, work);
}

/// [`flat`], the last pieces first: who reads the array next, from its start, finds that in the caches.
fn flat_backwards(len: usize, work: &(dyn Fn(usize, usize) + Sync)) {
    pieces(len, true, work);
}

fn pieces(len: usize, backwards: bool, work: &(dyn Fn(usize, usize) + Sync)) {
    let step = CHUNK * FLAT_CLAIM;
    let chunks = len.div_ceil(step);
    let piece = |i: usize| {
        let start = step * if backwards { chunks - 1 - i } else { i };
        work(start, step.min(len - start));
    };
    if len < SERIAL || chunks <= 1 {
        (0..chunks).for_each(piece);
    } else {
        run_chunks(chunks, get_num_threads(), &piece);
    }
}

/// The gradient of a squared error.
#[cfg(feature = "python")]
pub(crate) enum SquaredGrad<T> {
    /// `2 factor (p - t)`
    Scalar(f64, *mut T),
    /// `2 g (p - t)`, elementwise
    Elements(*const T, *mut T),
}

/// The squared error of a chunk; `f64` differences that are very large or small are scaled by a power of two.
fn squared_error<T: Float>(p: *const T, t: *const T, len: usize) -> Sum {
    let sum = dispatch(SquaredError::<T::Ops> { p, t, len, factor: 1.0 });
    rescaled(sum, p, t, len)
}

/// The sum of a chunk's squares, which is computed again where it is not right: below, squares may have lost digits;
/// above, some have overflowed.
fn rescaled<T: Float>(sum: (f64, f64), p: *const T, t: *const T, len: usize) -> Sum {
    if size_of::<T>() == 4 || (sum.0 > 1e-280 && sum.0 < f64::INFINITY) {
        return Sum::new(sum, 0);
    }
    let power = if sum.0 <= 1e-280 { MSE_POWER } else { -MSE_POWER };
    let sum = dispatch(SquaredError::<T::Ops> { p, t, len, factor: ldexp(1.0, power) });
    Sum::new(sum, -2 * power)
}

/// [`squared_error`]; and the gradient `2 factor (p - t)` to `out`, which may be an operand.
fn squared_error_and_gradient<T: Float>(
    p: *const T,
    t: *const T,
    len: usize,
    factor: f64,
    out: *mut T,
    stream: bool,
) -> Sum {
    // (The sum may have to be computed again, which an operand must outlast.)
    if size_of::<T>() == 4 || !std::ptr::eq(out, p) && !std::ptr::eq(out, t) {
        let loss = ErrorAndGradient::<T::Ops> { p, t, factor };
        return rescaled(dispatch(SumAndWrite { loss, out, len, stream }), p, t, len);
    }
    let sum = squared_error(p, t, len);
    dispatch(Difference::<T::Ops> { p, t, out, len, factor: Some(factor), stream });
    sum
}

/// `sum (p - t)^2`, compensated, without overflow or underflow on the way; and, chunk by chunk, the gradient.
///
/// # Safety
/// The pointers are valid for `len` elements; the gradient's is apart from the others or equal to one.
pub(crate) unsafe fn squared_error_view<T: Float>(
    len: usize,
    p: *const T,
    t: *const T,
    grad: Option<(f64, *mut T)>,
    fresh: bool,
) -> Sum {
    let sums = Sums::new(len.div_ceil(CHUNK));
    let (p, t) = (Shared(p.cast_mut()), Shared(t.cast_mut()));
    let grad = grad.map(|(factor, out)| (factor, Shared(out), streams_flat(len, out, [p.0, t.0], fresh)));
    let all = &sums;
    flat(len, &|start, n| {
        for i in (start..start + n).step_by(CHUNK) {
            let len = CHUNK.min(start + n - i);
            let (p, t) = (p.at(i).cast_const(), t.at(i).cast_const());
            let sum = match &grad {
                None => squared_error(p, t, len),
                Some((factor, out, stream)) => {
                    squared_error_and_gradient(p, t, len, *factor, out.at(i), *stream)
                }
            };
            // SAFETY: the chunk belongs to this thread alone.
            unsafe { all.set(i / CHUNK, sum) };
        }
    });
    sums.total()
}

fn streams_flat<T>(len: usize, out: *mut T, inputs: [*mut T; 2], fresh: bool) -> bool {
    !fresh && len * size_of::<T>() >= STREAM_BYTES && !inputs.contains(&out)
}

/// The gradient of a squared error.
///
/// # Safety
/// As [`squared_error_view`].
#[cfg(feature = "python")]
pub(crate) unsafe fn squared_error_grad_view<T: Float>(
    len: usize,
    p: *const T,
    t: *const T,
    grad: SquaredGrad<T>,
    fresh: bool,
) {
    let out = match grad {
        SquaredGrad::Scalar(_, out) | SquaredGrad::Elements(_, out) => out,
    };
    let stream = streams_flat(len, out, [p.cast_mut(), t.cast_mut()], fresh);
    let (p, t, out) = (Shared(p.cast_mut()), Shared(t.cast_mut()), Shared(out));
    match grad {
        SquaredGrad::Scalar(factor, _) => flat(len, &|start, len| {
            let (p, t) = (p.at(start).cast_const(), t.at(start).cast_const());
            let factor = Some(factor);
            dispatch(Difference::<T::Ops> { p, t, out: out.at(start), len, factor, stream });
        }),
        SquaredGrad::Elements(weight, _) => {
            let weight = Shared(weight.cast_mut());
            flat(len, &|start, len| {
                let (p, t) = (p.at(start).cast_const(), t.at(start).cast_const());
                let weight = weight.at(start).cast_const();
                dispatch(WeightedDifference::<T::Ops> { p, t, weight, out: out.at(start), len });
            });
        }
    }
}

/// `out = (p - t)^2`, elementwise.
///
/// # Safety
/// As [`squared_error_view`].
#[cfg(feature = "python")]
pub(crate) unsafe fn squared_differences_view<T: Float>(
    len: usize,
    p: *const T,
    t: *const T,
    out: *mut T,
    fresh: bool,
) {
    let stream = streams_flat(len, out, [p.cast_mut(), t.cast_mut()], fresh);
    let (p, t, out) = (Shared(p.cast_mut()), Shared(t.cast_mut()), Shared(out));
    flat(len, &|start, len| {
        dispatch(Difference::<T::Ops> {
            p: p.at(start).cast_const(),
            t: t.at(start).cast_const(),
            out: out.at(start),
            len,
            factor: None,
            stream,
        });
    });
}

/// The bare loops that the operations are measured against.
pub(crate) mod limits {
    use super::{Float, SERIAL, Shared, dispatch, get_num_threads, run_chunks};
    use crate::kernels::limits::{Copy, ExpSum, Read};
    use crate::sums::{Reduction, Sum, Sums};

    const PIECE: usize = 64 * 1024;

    fn pieces(len: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        let piece = |i: usize| work(i, PIECE.min(len - i * PIECE));
        if len < SERIAL {
            (0..len.div_ceil(PIECE)).for_each(piece);
        } else {
            run_chunks(len.div_ceil(PIECE), get_num_threads(), &piece);
        }
    }

    fn summed(len: usize, sum: &(dyn Fn(usize, usize) -> f64 + Sync)) -> f64 {
        let sums = Sums::new(len.div_ceil(PIECE));
        pieces(len, &|i, n| {
            let sum = sum(i * PIECE, n);
            // SAFETY: the chunk belongs to this piece alone.
            unsafe { sums.set(i, Sum::new((sum, 0.0), 0)) };
        });
        sums.total().reduced(Reduction::Sum, 1)
    }

    /// # Safety
    /// `x` is valid for reading `len` elements.
    pub(crate) unsafe fn read<T: Float>(len: usize, x: *mut T) -> f64 {
        let x = Shared(x);
        summed(len, &|start, len| dispatch(Read::<T::Ops> { x: x.at(start), len }))
    }

    /// # Safety
    /// As [`read`].
    pub(crate) unsafe fn exp_sum<T: Float>(len: usize, x: *mut T) -> f64 {
        let x = Shared(x);
        summed(len, &|start, len| dispatch(ExpSum::<T::Ops> { x: x.at(start), len }))
    }

    /// # Safety
    /// Both are valid for `len` elements and do not overlap.
    pub(crate) unsafe fn copy<T: Float>(len: usize, x: *mut T, out: *mut T, stream: bool) {
        let (x, out) = (Shared(x), Shared(out));
        pieces(len, &|i, len| {
            dispatch(Copy::<T::Ops> { x: x.at(i * PIECE), out: out.at(i * PIECE), len, stream });
        });
    }
}

// --- over slices ---------------------------------------------------------------------------------------

mod sealed {
    pub trait Sealed {}
}

/// An integer type of class labels.
pub trait Label: sealed::Sealed + Copy {
    /// The type as a value.
    const TYPE: LabelType;
}

macro_rules! label {
    ($($t:ty => $kind:ident),*) => {$(
        impl sealed::Sealed for $t {}
        impl Label for $t {
            const TYPE: LabelType = LabelType::$kind;
        }
    )*};
}
label!(i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64);

fn wants(name: &'static str, got: usize, wanted: usize) -> Result<(), Error> {
    if got == wanted { Ok(()) } else { Err(Error::Length { name, got, wanted }) }
}

fn input<T>(x: &[T], shape: Shape) -> View<T> {
    View::contiguous(x.as_ptr().cast_mut(), shape)
}

fn labels<L: Label>(labels: &[L], shape: Shape, ignore: Option<i64>) -> Labels {
    let view = View::per_row(labels.as_ptr().cast_mut().cast::<u8>(), shape);
    Labels { view, kind: L::TYPE, inner: shape.inner, ignore, classes: shape.len }
}

/// Softmax along the class axis: `out_c = exp(x_c) / sum_k exp(x_k)`, within 3 ulp (`f32`) or 4 (`f64`).
///
/// A row with NaN, with +inf, or of -inf alone is NaN throughout.
///
/// ```
/// use logitkit::{Shape, softmax};
/// let mut y = [0.0f32; 3];
/// softmax(&[1.0, 2.0, 3.0], Shape::rows(1, 3), &mut y)?;
/// assert_eq!(y, [0.090030573, 0.24472848, 0.66524094]);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
pub fn softmax<T: Float>(x: &[T], shape: Shape, out: &mut [T]) -> Result<(), Error> {
    wants("x", x.len(), shape.size())?;
    wants("out", out.len(), shape.size())?;
    // SAFETY: both slices have the shape's size and do not overlap.
    unsafe { (compiled().softmax)(shape, input(x, shape), View::contiguous(out.as_mut_ptr(), shape)) };
    Ok(())
}

/// [`softmax`] in place.
///
/// # Errors
/// [`Error::Length`] when the buffer does not fit the shape.
pub fn softmax_in_place<T: Float>(x: &mut [T], shape: Shape) -> Result<(), Error> {
    wants("x", x.len(), shape.size())?;
    let view = View::contiguous(x.as_mut_ptr(), shape);
    // SAFETY: the slice has the shape's size; input and output are the same view.
    unsafe { (compiled().softmax)(shape, view, view) };
    Ok(())
}

/// Log-softmax along the class axis: `out_c = x_c - logsumexp(x)`, within 3 ulp (`f32`) or 4 (`f64`), also
/// where one class dominates.
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
pub fn log_softmax<T: Float>(x: &[T], shape: Shape, out: &mut [T]) -> Result<(), Error> {
    wants("x", x.len(), shape.size())?;
    wants("out", out.len(), shape.size())?;
    // SAFETY: both slices have the shape's size and do not overlap.
    unsafe { (compiled().log_softmax)(shape, input(x, shape), View::contiguous(out.as_mut_ptr(), shape)) };
    Ok(())
}

/// [`log_softmax`] in place.
///
/// # Errors
/// [`Error::Length`] when the buffer does not fit the shape.
pub fn log_softmax_in_place<T: Float>(x: &mut [T], shape: Shape) -> Result<(), Error> {
    wants("x", x.len(), shape.size())?;
    let view = View::contiguous(x.as_mut_ptr(), shape);
    // SAFETY: the slice has the shape's size; input and output are the same view.
    unsafe { (compiled().log_softmax)(shape, view, view) };
    Ok(())
}

/// `log sum_c exp(x_c)` of every row, in C order of the batch shape, within 1.5 ulp (`f32`) or 2 (`f64`) of
/// `max(|result|, max |x|, 1)`.
///
/// ```
/// use logitkit::{Shape, logsumexp};
/// let mut lse = [0.0; 2];
/// logsumexp(&[0.0, -40.0, 1000.0, 1000.0], Shape::rows(2, 2), &mut lse)?;
/// assert_eq!(lse, [4.248354255291589e-18, 1000.0 + 2f64.ln()]);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
pub fn logsumexp<T: Float>(x: &[T], shape: Shape, out: &mut [T]) -> Result<(), Error> {
    wants("x", x.len(), shape.size())?;
    wants("out", out.len(), shape.batch())?;
    // SAFETY: the slices have the sizes needed and do not overlap.
    unsafe { (compiled().logsumexp)(shape, input(x, shape), View::per_row(out.as_mut_ptr(), shape)) };
    Ok(())
}

/// The gradient of [`softmax`]: `out_c = y_c (grad_c - sum_k grad_k y_k)` from the saved result `y`.
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
pub fn softmax_backward<T: Float>(grad: &[T], y: &[T], shape: Shape, out: &mut [T]) -> Result<(), Error> {
    wants("grad", grad.len(), shape.size())?;
    wants("y", y.len(), shape.size())?;
    wants("out", out.len(), shape.size())?;
    let out = View::contiguous(out.as_mut_ptr(), shape);
    // SAFETY: the slices have the shape's size; `out` does not overlap.
    unsafe { (compiled().softmax_backward)(shape, input(grad, shape), input(y, shape), out) };
    Ok(())
}

/// The gradient of [`log_softmax`]: `out_c = grad_c - exp(y_c) sum_k grad_k` from the saved result `y`.
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
pub fn log_softmax_backward<T: Float>(grad: &[T], y: &[T], shape: Shape, out: &mut [T]) -> Result<(), Error> {
    wants("grad", grad.len(), shape.size())?;
    wants("y", y.len(), shape.size())?;
    wants("out", out.len(), shape.size())?;
    let out = View::contiguous(out.as_mut_ptr(), shape);
    // SAFETY: the slices have the shape's size; `out` does not overlap.
    unsafe { (compiled().log_softmax_backward)(shape, input(grad, shape), input(y, shape), out) };
    Ok(())
}

/// The gradient of [`logsumexp`]: `out_c = grad exp(x_c - lse)`; `grad` and the saved result `lse` have one
/// element per row.
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
pub fn logsumexp_backward<T: Float>(
    grad: &[T],
    x: &[T],
    lse: &[T],
    shape: Shape,
    out: &mut [T],
) -> Result<(), Error> {
    wants("grad", grad.len(), shape.batch())?;
    wants("x", x.len(), shape.size())?;
    wants("lse", lse.len(), shape.batch())?;
    wants("out", out.len(), shape.size())?;
    let per_row = |a: &[T]| View::per_row(a.as_ptr().cast_mut(), shape);
    let out = View::contiguous(out.as_mut_ptr(), shape);
    // SAFETY: the slices have the sizes needed; `out` does not overlap.
    unsafe { (compiled().logsumexp_backward)(shape, per_row(grad), input(x, shape), per_row(lse), out) };
    Ok(())
}

/// Cross-entropy of logits with one class number per row, within 3 ulp (`f32`) or 4 (`f64`).
///
/// A label equal to `ignore` adds nothing. See [`cross_entropy_value_and_grad`] for an example.
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape; [`Error::Label`] for a label that is neither a
/// class number nor ignored.
pub fn cross_entropy<T: Float, L: Label>(
    logits: &[T],
    classes: &[L],
    shape: Shape,
    ignore: Option<i64>,
    reduction: Reduction,
) -> Result<T, Error> {
    wants("logits", logits.len(), shape.size())?;
    wants("classes", classes.len(), shape.batch())?;
    let labels = labels(classes, shape, ignore);
    // SAFETY: the slices have the sizes needed.
    let loss = unsafe {
        (compiled().cross_entropy)(
            shape,
            input(logits, shape),
            Targets::Classes(labels),
            Options::NONE,
            &Reduce::To(reduction),
            None,
        )
    }?;
    Ok(rounded(loss))
}

/// [`cross_entropy`] and its gradient `(softmax(x) - onehot) / count` (`Sum`: not divided), in one pass.
///
/// The label's entry of a confident row keeps its digits:
///
/// ```
/// use logitkit::{Reduction, Shape, cross_entropy_value_and_grad};
/// let mut grad = [0.0f32; 3];
/// let loss = cross_entropy_value_and_grad(
///     &[17.0f32, 0.0, 0.0], &[0i64], Shape::rows(1, 3), None, Reduction::Mean, &mut grad)?;
/// assert_eq!(loss, 8.2798756e-8);
/// assert_eq!(grad, [-8.279875e-8, 4.1399375e-8, 4.1399375e-8]);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// As [`cross_entropy`]; `grad` is untouched then.
pub fn cross_entropy_value_and_grad<T: Float, L: Label>(
    logits: &[T],
    classes: &[L],
    shape: Shape,
    ignore: Option<i64>,
    reduction: Reduction,
    grad: &mut [T],
) -> Result<T, Error> {
    wants("logits", logits.len(), shape.size())?;
    wants("classes", classes.len(), shape.batch())?;
    wants("grad", grad.len(), shape.size())?;
    let labels = labels(classes, shape, ignore);
    let grad = (View::contiguous(grad.as_mut_ptr(), shape), GradOutput::Scalar(1.0));
    // SAFETY: the slices have the sizes needed; `grad` does not overlap.
    let loss = unsafe {
        (compiled().cross_entropy)(
            shape,
            input(logits, shape),
            Targets::Classes(labels),
            Options::NONE,
            &Reduce::To(reduction),
            Some(grad),
        )
    }?;
    Ok(rounded(loss))
}

/// [`cross_entropy`] of every row, in C order of the batch shape; 0 where the label is ignored.
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_rows<T: Float, L: Label>(
    logits: &[T],
    classes: &[L],
    shape: Shape,
    ignore: Option<i64>,
    out: &mut [T],
) -> Result<(), Error> {
    wants("logits", logits.len(), shape.size())?;
    wants("classes", classes.len(), shape.batch())?;
    wants("out", out.len(), shape.batch())?;
    let labels = labels(classes, shape, ignore);
    let rows = Reduce::Rows(View::per_row(out.as_mut_ptr(), shape));
    // SAFETY: the slices have the sizes needed; `out` does not overlap.
    unsafe {
        (compiled().cross_entropy)(
            shape,
            input(logits, shape),
            Targets::Classes(labels),
            Options::NONE,
            &rows,
            None,
        )
    }?;
    Ok(())
}

/// Cross-entropy of logits with probabilities as labels, `-sum_c t_c log_softmax(x)_c`; `Mean` divides by
/// the number of rows.
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
pub fn soft_cross_entropy<T: Float>(
    logits: &[T],
    probabilities: &[T],
    shape: Shape,
    reduction: Reduction,
) -> Result<T, Error> {
    wants("logits", logits.len(), shape.size())?;
    wants("probabilities", probabilities.len(), shape.size())?;
    let (x, t) = (input(logits, shape), input(probabilities, shape));
    // SAFETY: the slices have the sizes needed.
    Ok(rounded(unsafe {
        (compiled().cross_entropy)(
            shape,
            x,
            Targets::Probabilities(t),
            Options::NONE,
            &Reduce::To(reduction),
            None,
        )
    }?))
}

/// [`soft_cross_entropy`] and its gradient `(T softmax(x) - t) / rows`, `T = sum_c t_c` (`Sum`: not divided).
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
pub fn soft_cross_entropy_value_and_grad<T: Float>(
    logits: &[T],
    probabilities: &[T],
    shape: Shape,
    reduction: Reduction,
    grad: &mut [T],
) -> Result<T, Error> {
    wants("logits", logits.len(), shape.size())?;
    wants("probabilities", probabilities.len(), shape.size())?;
    wants("grad", grad.len(), shape.size())?;
    let (x, t) = (input(logits, shape), input(probabilities, shape));
    let grad = (View::contiguous(grad.as_mut_ptr(), shape), GradOutput::Scalar(1.0));
    // SAFETY: the slices have the sizes needed; `grad` does not overlap.
    Ok(rounded(unsafe {
        (compiled().cross_entropy)(
            shape,
            x,
            Targets::Probabilities(t),
            Options::NONE,
            &Reduce::To(reduction),
            Some(grad),
        )
    }?))
}

/// Mean squared error `(pred - target)^2`, within 3 ulp (`f32`) or 4 (`f64`), without overflow on the way.
///
/// ```
/// use logitkit::{Reduction, mse_loss};
/// assert_eq!(mse_loss(&[1.0f32, 2.0], &[0.0, 0.0], Reduction::Mean)?, 2.5);
/// assert_eq!(mse_loss(&[1.5e19f32, 0.0], &[0.0, 0.0], Reduction::Mean)?, 1.1250001e38);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when the lengths differ.
pub fn mse_loss<T: Float>(pred: &[T], target: &[T], reduction: Reduction) -> Result<T, Error> {
    wants("target", target.len(), pred.len())?;
    // SAFETY: both slices have that length.
    let sum = unsafe { (compiled().squared_error)(pred.len(), pred.as_ptr(), target.as_ptr(), None, false) };
    Ok(rounded(sum.reduced(reduction, pred.len())))
}

/// [`mse_loss`] and its gradient `2 (pred - target) / count` (`Sum`: not divided).
///
/// # Errors
/// [`Error::Length`] when the lengths differ.
pub fn mse_loss_value_and_grad<T: Float>(
    pred: &[T],
    target: &[T],
    reduction: Reduction,
    grad: &mut [T],
) -> Result<T, Error> {
    wants("target", target.len(), pred.len())?;
    wants("grad", grad.len(), pred.len())?;
    let factor = if reduction == Reduction::Mean { 1.0 / pred.len() as f64 } else { 1.0 };
    let grad = Some((factor, grad.as_mut_ptr()));
    // SAFETY: all slices have that length; `grad` does not overlap.
    let sum = unsafe { (compiled().squared_error)(pred.len(), pred.as_ptr(), target.as_ptr(), grad, false) };
    Ok(rounded(sum.reduced(reduction, pred.len())))
}

/// The share (`Mean`) or number (`Sum`) of rows whose first maximum is not at the label. A row with NaN is an error.
///
/// ```
/// use logitkit::{Reduction, Shape, classification_error};
/// let scores = [0.1, 0.7, 0.2, 0.5, 0.3, 0.2];
/// assert_eq!(classification_error(&scores, &[1u8, 2], Shape::rows(2, 3), None, Reduction::Mean)?, 0.5);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// As [`cross_entropy`].
pub fn classification_error<T: Float, L: Label>(
    scores: &[T],
    classes: &[L],
    shape: Shape,
    ignore: Option<i64>,
    reduction: Reduction,
) -> Result<f64, Error> {
    wants("scores", scores.len(), shape.size())?;
    wants("classes", classes.len(), shape.batch())?;
    let labels = labels(classes, shape, ignore);
    // SAFETY: the slices have the sizes needed.
    unsafe { (compiled().classification_error)(shape, input(scores, shape), labels, None, reduction, None) }
}

/// Rounds a result; NaN becomes the canonical one.
pub(crate) fn rounded<T: Float>(x: f64) -> T {
    if x.is_nan() { T::Ops::NAN } else { T::Ops::from_f64(x) }
}
