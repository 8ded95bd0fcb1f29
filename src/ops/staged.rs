//! The operations on 16-bit numbers, and under masks: the same kernels, on rows that [`crate::stage`] prepares.

pub(crate) mod elementwise;
pub(crate) mod evaluation;
pub(crate) mod grad_hess;
pub(crate) mod log_loss;
pub(crate) mod weighted;

use super::{
    FLAT_CLAIM, GradOutput, HUGE_PAGE, Normal, Options, Reduce, SERIAL, STREAM_BYTES, flat, reduced_error,
    squared_error, squared_error_and_gradient, touch_pages,
};
use crate::error::Error;
use crate::float::{Element, Float};
use crate::kernels::classification_error::{ClassificationError, Weights};
use crate::kernels::labels::Labels;
use crate::kernels::log_softmax::{LogSoftmax, LogSoftmaxBackward};
use crate::kernels::logsumexp::{LogSumExp, LogSumExpBackward};
use crate::kernels::map::Scale;
use crate::kernels::mse::{CHUNK, Difference, WeightedDifference};
use crate::kernels::regularized_cross_entropy::RegularizedCrossEntropy;
use crate::kernels::softmax::{Softmax, SoftmaxBackward};
use crate::kernels::temperature::Temperature;
use crate::kernels::weights::Classes;
use crate::lines::{Kernel, PerRow, Plan, Walk, chunk_rows};
use crate::parallel::{get_num_threads, run_chunks};
use crate::shape::{Shape, View};
use crate::simd::dispatch;
use crate::stage::{Block, Call, Mask, Operand, Results, Run, Scratch, stage_flat, unstage_flat};
use crate::sums::{Reduction, Sum, Sums};
use std::marker::PhantomData;
use std::ops::Range;

/// Runs a call over all its rows.
///
/// # Safety
/// The views are valid for the call's shape; the output is apart from the operands or exactly one of them.
unsafe fn run_all<T: Float>(call: &Call<'_, T>, run: &Run<'_, T>) {
    let (shape, step) = (call.shape, chunk_rows(call.shape));
    let rows = shape.batch();
    let chunks = rows.div_ceil(step);
    let work = |chunks: Range<usize>| {
        Scratch::with(|scratch| {
            for chunk in chunks {
                let rows = chunk * step..((chunk + 1) * step).min(rows);
                // SAFETY: the caller's promise; this thread alone computes the chunk.
                unsafe { call.run(chunk, rows, run, scratch) };
            }
        });
    };
    if shape.size() < SERIAL || chunks <= 1 {
        work(0..chunks);
        return;
    }
    // As for plain operands: neighbouring chunks go to one thread, up to a huge page.
    let threads = get_num_threads();
    let size = call.out.as_ref().unwrap_or(&call.x[0]).format.size;
    let bytes = step * shape.len * size;
    let span = (HUGE_PAGE / bytes.max(1)).clamp(1, (chunks / (8 * threads)).max(1));
    run_chunks(chunks.div_ceil(span), threads, &|claim| {
        let chunks = claim * span..((claim + 1) * span).min(chunks);
        if let Some(Operand { view, .. }) = call.out
            && view.fresh
            && shape.inner == 1
            && view.len == 1
            && view.outer == shape.len as isize
        {
            let rows = chunks.start * step..(chunks.end * step).min(rows);
            let start = view.ptr.wrapping_add(rows.start * shape.len * size);
            // SAFETY: the rows of these chunks are this thread's.
            unsafe { touch_pages(start, rows.len() * shape.len * size) };
        }
        work(chunks);
    });
}

/// [`run_all`] with one kernel.
///
/// # Safety
/// As [`run_all`].
unsafe fn run_kernel<T: Float, K: Kernel<E = T::Ops>>(call: Call<'_, T>, kernel: &K) {
    let call = Call { reads_halves: kernel.reads_halves(), ..call };
    let run = |plan: &Plan<'_, T::Ops>, rows: Range<usize>, block: &Block<T>| {
        Walk { kernel, plan, chunk: 0, rows, staged: Some(block.staged) }.run();
    };
    // SAFETY: the caller's promise.
    unsafe { run_all(&call, &run) }
}

fn streams<T: Float>(elements: usize, out: &Operand<T>, inputs: &[Operand<T>]) -> bool {
    !out.view.fresh
        && elements * out.format.size >= STREAM_BYTES
        && inputs.iter().all(|x| x.view.ptr != out.view.ptr)
}

/// Runs a kernel that has one result per element.
///
/// # Safety
/// As [`run_all`].
unsafe fn elementwise<T: Float, K: Kernel<E = T::Ops>>(
    kernel: &K,
    shape: Shape,
    x: &[Operand<T>],
    out: Operand<T>,
) {
    let stream = streams(shape.size(), &out, x);
    let call = Call { out: Some(out), stream, ..Call::new(shape, x) };
    // SAFETY: the caller's promise.
    unsafe { run_kernel(call, kernel) }
}

/// Softmax, 0 where the mask is, or its logarithm, -inf there, of `x / temperature`; and logsumexp of that into `lse`.
///
/// # Safety
/// The views are valid for `shape`; `out` is apart from the others or exactly `x`; `lse` has an element per row, apart
/// from all others.
pub(crate) unsafe fn normalize<T: Float>(
    shape: Shape,
    x: Operand<T>,
    out: Operand<T>,
    which: Normal,
    temperature: Temperature,
    lse: Option<View<T>>,
    mask: Option<View<u8>>,
) {
    let fill = if which == Normal::Softmax { T::Ops::ZERO } else { T::Ops::NEG_INF };
    let mask = mask.map(|view| Mask::new(view, fill));
    let x = [x];
    let stream = streams(shape.size(), &out, &x);
    let results = Results::As(lse.map_or(PerRow::Nothing, PerRow::Array));
    let call = Call { out: Some(out), results, mask, stream, ..Call::new(shape, &x) };
    let element = PhantomData::<T::Ops>;
    // SAFETY: the caller's promise.
    unsafe {
        match which {
            Normal::Softmax => run_kernel(call, &Softmax { temperature, element }),
            Normal::LogSoftmax => run_kernel(call, &LogSoftmax { temperature, element }),
        }
    }
}

/// Softmax; 0 where the mask is.
///
/// # Safety
/// As [`normalize`].
pub(crate) unsafe fn softmax<T: Float>(shape: Shape, x: Operand<T>, out: Operand<T>, mask: Option<View<u8>>) {
    // SAFETY: the caller's promise.
    unsafe { normalize(shape, x, out, Normal::Softmax, Temperature::One, None, mask) }
}

/// Log-softmax; -inf where the mask is.
///
/// # Safety
/// As [`normalize`].
pub(crate) unsafe fn log_softmax<T: Float>(
    shape: Shape,
    x: Operand<T>,
    out: Operand<T>,
    mask: Option<View<u8>>,
) {
    // SAFETY: the caller's promise.
    unsafe { normalize(shape, x, out, Normal::LogSoftmax, Temperature::One, None, mask) }
}

/// logsumexp over what the mask leaves; -inf where that is nothing.
///
/// # Safety
/// As [`softmax`]; `out` has an element per row and is apart from the others.
pub(crate) unsafe fn logsumexp<T: Float>(
    shape: Shape,
    x: Operand<T>,
    out: Operand<T>,
    mask: Option<View<u8>>,
) {
    let mask = mask.map(|view| Mask::new(view, T::Ops::NEG_INF));
    let x = [x];
    let call = Call { results: Results::Stored(out), mask, ..Call::new(shape, &x) };
    // SAFETY: the caller's promise.
    unsafe { run_kernel(call, &LogSumExp::<T::Ops>(PhantomData)) }
}

/// The gradient of [`normalize`].
///
/// # Safety
/// The views are valid for `shape`; `out` is apart from the others or exactly one of them.
pub(crate) unsafe fn backward<T: Float>(
    shape: Shape,
    grad: Operand<T>,
    y: Operand<T>,
    out: Operand<T>,
    which: Normal,
    temperature: Temperature,
) {
    let (x, element) = ([grad, y], PhantomData::<T::Ops>);
    // SAFETY: the caller's promise.
    unsafe {
        match which {
            Normal::Softmax => elementwise(&SoftmaxBackward { temperature, element }, shape, &x, out),
            Normal::LogSoftmax => elementwise(&LogSoftmaxBackward { temperature, element }, shape, &x, out),
        }
    }
}

/// # Safety
/// As [`backward`].
pub(crate) unsafe fn softmax_backward<T: Float>(
    shape: Shape,
    grad: Operand<T>,
    y: Operand<T>,
    out: Operand<T>,
) {
    // SAFETY: the caller's promise.
    unsafe { backward(shape, grad, y, out, Normal::Softmax, Temperature::One) }
}

/// # Safety
/// As [`backward`].
pub(crate) unsafe fn log_softmax_backward<T: Float>(
    shape: Shape,
    grad: Operand<T>,
    y: Operand<T>,
    out: Operand<T>,
) {
    // SAFETY: the caller's promise.
    unsafe { backward(shape, grad, y, out, Normal::LogSoftmax, Temperature::One) }
}

/// # Safety
/// As [`softmax`]; `grad` and `lse` have an element per row.
pub(crate) unsafe fn logsumexp_backward<T: Float>(
    shape: Shape,
    grad: Operand<T>,
    x: Operand<T>,
    lse: Operand<T>,
    out: Operand<T>,
) {
    let (rows, x) = ([grad, lse], [x]);
    let stream = streams(shape.size(), &out, &x);
    let call = Call { rows: &rows, out: Some(out), stream, sums: false, ..Call::new(shape, &x) };
    let run = |plan: &Plan<'_, T::Ops>, rows: Range<usize>, block: &Block<T>| {
        let [grad, lse] = block.rows;
        let kernel = LogSumExpBackward { grad: Scale::Rows(grad, 1), lse, inner: 1 };
        Walk { kernel: &kernel, plan, chunk: 0, rows, staged: Some(block.staged) }.run();
    };
    // SAFETY: the caller's promise.
    unsafe { run_all(&call, &run) }
}

/// What a loss is computed of, and where it goes.
struct Loss<'a, T: Float> {
    shape: Shape,
    x: &'a [Operand<T>],
    /// The gradient.
    out: Option<Operand<T>>,
    reduce: &'a Reduce<T>,
    /// The divisor of a mean.
    weights: (f64, f64),
    mask: Option<Mask<T>>,
    /// Unless the targets are probabilities.
    labels: Option<Labels>,
}

/// The gradient of a block's labels that are under its mask is 0.
///
/// # Safety
/// The plan's results and the mask have these rows.
unsafe fn clear_hidden_labels<T: Float>(
    labels: &Labels,
    mask: &View<u8>,
    plan: &Plan<'_, T::Ops>,
    rows: Range<usize>,
) {
    for row in rows {
        let Some(class) = labels.get(row) else { continue };
        let class = class as isize;
        // SAFETY: the caller's promise; a label is a class.
        unsafe {
            if mask.row(row, 1).offset(class * mask.len).read() == 0 {
                let entry = plan.out.row(row, 1).wrapping_offset(class * plan.out.len);
                // (A row of NaNs is left to be seen as such.)
                if !T::Ops::to_f64(entry.read()).is_nan() {
                    entry.write(T::default());
                }
            }
        }
    }
}

impl<T: Float> Loss<'_, T> {
    /// Runs a kernel, which [may](Kernel::reads_halves) read 16-bit numbers, on each block: its results per row go to an
    /// array, or their total comes back.
    ///
    /// # Safety
    /// As [`run_all`].
    unsafe fn run(&self, reads_halves: bool, run: &Run<'_, T>) -> f64 {
        let &Loss { shape, x, out, reduce, weights, mask, labels } = self;
        let stream = out.is_some_and(|out| streams(shape.size(), &out, x));
        let clear = labels.filter(|_| out.is_some() && mask.is_some_and(|mask| !mask.every));
        let masked = |plan: &Plan<'_, T::Ops>, rows: Range<usize>, block: &Block<T>| {
            run(plan, rows.clone(), block);
            if let Some(labels) = &clear {
                // SAFETY: the gradient and the mask have these rows.
                unsafe { clear_hidden_labels::<T>(labels, &block.mask, plan, rows) };
            }
        };
        let call = |per_row| {
            let results = Results::As(per_row);
            let call = Call { out, results, mask, stream, reads_halves, ..Call::new(shape, x) };
            // SAFETY: the caller's promise.
            unsafe { if mask.is_some() { run_all(&call, &masked) } else { run_all(&call, run) } };
        };
        match reduce {
            Reduce::Rows(rows) => {
                call(PerRow::Array(*rows));
                0.0
            }
            Reduce::To(reduction) => {
                let sums = Sums::new(shape.batch().div_ceil(chunk_rows(shape)));
                call(PerRow::Sums(&sums));
                sums.total().reduced_by(*reduction, weights)
            }
        }
    }

    /// [`Loss::run`] with one kernel for all blocks.
    ///
    /// # Safety
    /// As [`run_all`].
    unsafe fn run_kernel<K: Kernel<E = T::Ops>>(&self, kernel: &K) -> f64 {
        let run = |plan: &Plan<'_, T::Ops>, rows: Range<usize>, block: &Block<T>| {
            Walk { kernel, plan, chunk: 0, rows, staged: Some(block.staged) }.run();
        };
        // SAFETY: the caller's promise.
        unsafe { self.run(kernel.reads_halves(), &run) }
    }
}

/// Class numbers, or probabilities of the logits' shape.
pub(crate) enum StagedTargets<T: Float> {
    Classes(Labels),
    Probabilities(Operand<T>),
}

/// Cross-entropy over what the mask leaves; the gradient goes to `grad`, unless there is none.
///
/// # Safety
/// As [`super::cross_entropy_view`]; the mask is of the same shape and apart from `grad`.
pub(crate) unsafe fn cross_entropy<T: Float>(
    shape: Shape,
    x: Operand<T>,
    targets: StagedTargets<T>,
    mut options: Options<T>,
    mask: Option<View<u8>>,
    reduce: &Reduce<T>,
    grad: Option<(Operand<T>, GradOutput<T>)>,
) -> Result<f64, Error> {
    let (labels, probabilities) = match targets {
        StagedTargets::Classes(labels) => (Some(labels), None),
        StagedTargets::Probabilities(t) => (None, Some(t)),
    };
    let mut mask = mask.map(|view| Mask { empty: Some(0.0), ..Mask::new(view, T::default()) });
    // SAFETY: the caller's promise.
    let left = mask.map(|mask| move |row: usize| unsafe { mask.leaves(shape, row) });
    let left = left.as_ref().map(|left| left as &(dyn Fn(usize) -> bool + Sync));
    let mean = matches!(reduce, Reduce::To(Reduction::Mean));
    let weights = options.divisor(shape, labels.as_ref(), mean, left)?;
    let (out, scale) = match grad {
        Some((grad, incoming)) => (Some(grad), incoming.scale(shape, reduce, weights)),
        None => (None, Scale::All((1.0, 0.0))),
    };
    if let Some(mask) = &mut mask {
        // A negative factor makes -0 of the masked elements, one that overflows NaN.
        let plain = options.z_loss == 0.0
            && options.temperature.is_one()
            && options.class_weight.is_one()
            && options.sample_weight.is_one()
            && labels.is_some();
        let moderate = matches!(scale, Scale::All((factor, _)) if (0.0..=1e30).contains(&factor));
        // Smoothing spreads over as many classes as each row has.
        mask.counted = options.smoothing > 0.0;
        mask.every = mask.counted || !(plain && moderate);
    }
    let both = [x, probabilities.unwrap_or(x)];
    let x = if probabilities.is_some() { &both[..] } else { &both[..1] };
    let loss = Loss { shape, x, out, reduce, weights, mask, labels };
    if mask.is_some_and(|mask| mask.counted) {
        // SAFETY: the caller's promise.
        return Ok(unsafe {
            match (labels.is_some(), out.is_some()) {
                (true, true) => spread_over_mask::<T, false, true>(&loss, options, scale),
                (true, false) => spread_over_mask::<T, false, false>(&loss, options, scale),
                (false, true) => spread_over_mask::<T, true, true>(&loss, options, scale),
                (false, false) => spread_over_mask::<T, true, false>(&loss, options, scale),
            }
        });
    }
    // SAFETY: the caller's promise.
    Ok(unsafe {
        loss_kernels!(options, shape, labels, scale, out.is_some(), |kernel| loss.run_kernel(&kernel))
    })
}

/// A loss with label smoothing under a mask.
///
/// # Safety
/// As [`run_all`].
unsafe fn spread_over_mask<T: Float, const SOFT: bool, const GRAD: bool>(
    loss: &Loss<'_, T>,
    options: Options<T>,
    scale: Scale<T>,
) -> f64 {
    let Options { temperature, class_weight, sample_weight, smoothing, z_loss } = options;
    let labels = loss.labels;
    let run = |plan: &Plan<'_, T::Ops>, rows: Range<usize>, block: &Block<T>| {
        let kernel = RegularizedCrossEntropy::<T, SOFT, GRAD> {
            labels,
            classes: Classes::Masked { counts: block.counts, mask: block.mask },
            scale,
            class_weight,
            class_total: (0.0, 0.0),
            sample_weight,
            temperature,
            smoothing,
            z_loss,
        };
        Walk { kernel: &kernel, plan, chunk: 0, rows, staged: Some(block.staged) }.run();
    };
    // SAFETY: the caller's promise.
    unsafe { loss.run(false, &run) }
}

/// The classification error; per row into `rows` if given.
///
/// # Safety
/// As [`super::classification_error_view`].
pub(crate) unsafe fn classification_error<T: Float>(
    shape: Shape,
    x: Operand<T>,
    labels: Labels,
    weights: Option<View<f64>>,
    reduction: Reduction,
    rows: Option<View<f64>>,
) -> Result<f64, Error> {
    let count = labels.check(shape.batch())?;
    let weights = weights.map(|view| Weights { view, inner: shape.inner });
    let kernel = ClassificationError::<T::Ops> { labels, weights, element: PhantomData };
    let x = [x];
    let call = |per_row| {
        let call = Call { results: Results::As(per_row), sums: false, ..Call::new(shape, &x) };
        // SAFETY: the caller's promise.
        unsafe { run_kernel(call, &kernel) };
    };
    Ok(match rows {
        Some(rows) => {
            call(PerRow::Wide(rows));
            0.0
        }
        None => {
            let sums = Sums::new(shape.batch().div_ceil(chunk_rows(shape)));
            call(PerRow::Sums(&sums));
            reduced_error(shape, &labels, weights, sums.total(), reduction, count)
        }
    })
}

/// What becomes of squared errors and their gradients.
pub(crate) struct Squared<T: Float> {
    /// Their sum is wanted.
    pub(crate) total: bool,
    /// `(p - t)^2`, elementwise.
    pub(crate) each: Option<*mut T>,
    /// `2 factor (p - t)`, with one factor or one for each element.
    pub(crate) grad: Option<(Factors<T>, Operand<T>)>,
}

/// One factor, or one for each element.
#[derive(Clone, Copy)]
pub(crate) enum Factors<T> {
    One(f64),
    Each(*const T),
}

// SAFETY: the pointers' memory is touched by one thread per element only; the caller vouches for it.
unsafe impl<T: Float> Sync for Squared<T> {}

/// `sum (p - t)^2` over flat arrays, if it is wanted, and what else `to` says. The gradient may replace an operand.
///
/// # Safety
/// All are valid for `len` elements; the results are apart from all others but that the gradient may be an operand.
pub(crate) unsafe fn squared_error_all<T: Float>(
    len: usize,
    p: Operand<T>,
    t: Operand<T>,
    to: &Squared<T>,
) -> Sum {
    let sums = Sums::new(if to.total { len.div_ceil(CHUNK) } else { 0 });
    let stream = to.grad.as_ref().is_some_and(|(_, out)| streams(len, out, &[p, t]));
    let (all, operands) = (&sums, &[p, t]);
    let piece = |start: usize, n: usize, scratch: &mut Scratch| {
        let [p, t] = operands;
        let [a, b]: [*mut T; 2] = scratch.blocks(CHUNK);
        // SAFETY: the operands have these elements, the buffers room for a chunk.
        unsafe {
            stage_flat(p, start, n, a);
            stage_flat(t, start, n, b);
        }
        let (p, t) = (a.cast_const(), b.cast_const());
        let mut has_gradient = false;
        if to.total {
            let sum = match &to.grad {
                Some((Factors::One(factor), _)) if to.each.is_none() => {
                    has_gradient = true;
                    squared_error_and_gradient(p, t, n, *factor, a, false)
                }
                _ => squared_error(p, t, n),
            };
            // SAFETY: the chunk belongs to this thread alone.
            unsafe { all.set(start / CHUNK, sum) };
        }
        if let Some(out) = to.each {
            let out = out.wrapping_add(start);
            dispatch(Difference::<T::Ops> { p, t, out, len: n, factor: None, stream: false });
        }
        if let Some((factors, grad)) = &to.grad {
            match factors {
                Factors::One(_) if has_gradient => {}
                Factors::One(factor) => {
                    let factor = Some(*factor);
                    dispatch(Difference::<T::Ops> { p, t, out: a, len: n, factor, stream: false });
                }
                Factors::Each(weight) => {
                    let weight = weight.wrapping_add(start);
                    dispatch(WeightedDifference::<T::Ops> { p, t, weight, out: a, len: n });
                }
            }
            // SAFETY: the gradient has these elements.
            unsafe { unstage_flat(grad, start, n, a, stream) };
        }
    };
    flat(len, &|start, n| {
        debug_assert!(n <= CHUNK * FLAT_CLAIM);
        Scratch::with(|scratch| {
            for i in (start..start + n).step_by(CHUNK) {
                piece(i, CHUNK.min(start + n - i), scratch);
            }
        });
    });
    sums.total()
}
