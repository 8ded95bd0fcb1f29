//! Losses of flat arrays, element by element, with weights that repeat along them or not: split over threads in
//! chunks of fixed size.

use super::{Shared, compiled, flat, flat_backwards, rounded, streams_flat, wants};
use crate::error::Error;
use crate::float::{Element, Float};
use crate::kernels::binary_cross_entropy::{GRADIENT, LOSSES, Logistic, Pass, SUM};
use crate::kernels::labels::LabelType;
use crate::kernels::map::{Map, Write};
use crate::kernels::mse::{
    CHUNK, SumAndWrite, Weighing, WeightedError, WeightedErrorAndGradient, WeightedGradient, WeightedSquares,
    weighted_error_of_any_size,
};
use crate::kernels::total::Total;
use crate::simd::dispatch;
use crate::sums::{Reduction, Sum, Sums};

/// A number for every element of a flat array: the same ones again and again, or one for each.
#[derive(Clone, Copy)]
pub(crate) struct Cycle<T> {
    /// Element `i` has number `i % period`.
    numbers: *const T,
    period: usize,
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T> Sync for Cycle<T> {}

impl<T: Float> Cycle<T> {
    /// # Safety
    /// `numbers` is valid for reading `period > 0` numbers as long as the cycle is in use.
    pub(crate) unsafe fn new(numbers: *const T, period: usize) -> Self {
        Cycle { numbers, period }
    }

    /// The numbers of `start..start + len`: where they lie, or repeated in `memory`.
    pub(super) fn part(&self, start: usize, len: usize, memory: &mut Vec<T>) -> *const T {
        let phase = start % self.period;
        if phase + len <= self.period {
            return self.numbers.wrapping_add(phase);
        }
        // SAFETY: by the promise of `new`.
        let numbers = unsafe { std::slice::from_raw_parts(self.numbers, self.period) };
        memory.clear();
        memory.extend_from_slice(&numbers[phase..]);
        memory.extend_from_slice(&numbers[..phase.min(len - memory.len())]);
        while memory.len() < len {
            memory.extend_from_within(..memory.len().min(len - memory.len()));
        }
        memory.as_ptr()
    }

    /// The sum over `len` elements.
    pub(super) fn sum(&self, len: usize) -> Sum {
        summed(len, flat_backwards, &|start, len, memory: &mut Memory<T>| {
            self.part_sum(start, len, &mut memory.first)
        })
    }

    /// The sum over `start..start + len`.
    fn part_sum(&self, start: usize, len: usize, memory: &mut Vec<T>) -> Sum {
        let x = self.part(start, len, memory);
        let sum = dispatch(Total::<T::Ops> { x, len });
        if size_of::<T>() == 4 || sum.0.is_finite() {
            return Sum::new(sum, 0);
        }
        // SAFETY: `part` gives as many numbers.
        let x = unsafe { std::slice::from_raw_parts(x, len) };
        Sum::of_large(&x.iter().map(|&x| T::Ops::to_f64(x)).collect::<Vec<_>>())
    }
}

/// The numbers for a chunk; ones where there is no cycle.
fn part_or_ones<T: Float>(
    cycle: Option<Cycle<T>>,
    start: usize,
    len: usize,
    memory: &mut Vec<T>,
) -> *const T {
    match cycle {
        Some(cycle) => cycle.part(start, len, memory),
        None => {
            memory.resize(len, T::Ops::ONE);
            memory.as_ptr()
        }
    }
}

/// What a thread keeps from chunk to chunk: numbers that repeat, or were converted.
#[derive(Default)]
pub(crate) struct Memory<T> {
    first: Vec<T>,
    second: Vec<T>,
    third: Vec<T>,
}

/// A way over all elements: [`flat`] or [`flat_backwards`].
type Way = fn(usize, &(dyn Fn(usize, usize) + Sync));

/// Runs `work(start, len, memory)` over all chunks.
fn chunks<T: Float>(len: usize, way: Way, work: &(dyn Fn(usize, usize, &mut Memory<T>) + Sync)) {
    way(len, &|start, n| {
        let mut memory = Memory::default();
        for i in (start..start + n).step_by(CHUNK) {
            work(i, CHUNK.min(start + n - i), &mut memory);
        }
    });
}

/// The sum of a function of every chunk, in their order whatever the way.
fn summed<T: Float>(len: usize, way: Way, sum: &(dyn Fn(usize, usize, &mut Memory<T>) -> Sum + Sync)) -> Sum {
    let sums = Sums::new(len.div_ceil(CHUNK));
    let all = &sums;
    chunks(len, way, &|start, n, memory| {
        let sum = sum(start, n, memory);
        // SAFETY: the chunk belongs to this thread alone.
        unsafe { all.set(start / CHUNK, sum) };
    });
    sums.total()
}

/// What multiplies the gradient.
#[derive(Clone, Copy)]
pub(crate) enum Incoming<T> {
    /// One number as `(high, low)`.
    One((f64, f64)),
    /// A number for every element.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Each(*const T),
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T> Sync for Incoming<T> {}

impl<T> Incoming<T> {
    /// `(factor, factors)` for a chunk.
    fn at(self, start: usize) -> ((f64, f64), *const T) {
        match self {
            Incoming::One(factor) => (factor, std::ptr::null()),
            Incoming::Each(factors) => ((1.0, 0.0), factors.wrapping_add(start)),
        }
    }
}

/// A piece of the result, and how it is written.
#[derive(Clone, Copy)]
pub(crate) struct Out<T> {
    pub(super) to: *mut T,
    pub(super) len: usize,
    pub(super) stream: bool,
}

impl<T: Float> Out<T> {
    fn write(self, map: impl Map<T::Ops>) {
        dispatch(Write::<T::Ops, _> { map, out: self.to, len: self.len, stream: self.stream });
    }
}

/// A loss of every element. Whoever makes one vouches for its operands; they are valid for reading `len` elements.
pub(crate) trait ElementLoss<T: Float>: Sync {
    fn len(&self) -> usize;
    fn operands(&self) -> [*const T; 2];
    /// What the mean divides by the sum of, unless it is the number of elements.
    fn weights(&self) -> Option<Cycle<T>>;
    /// The sum of `len` losses from `start` on.
    fn sum(&self, start: usize, len: usize, memory: &mut Memory<T>) -> Sum;
    /// The losses from `start` on.
    fn write(&self, start: usize, memory: &mut Memory<T>, out: Out<T>);
    /// Their gradient.
    fn write_gradient(&self, start: usize, memory: &mut Memory<T>, incoming: Incoming<T>, out: Out<T>);
    /// Both the sum, and the gradient times one number, in one pass, where that is possible.
    fn sum_with_gradient(
        &self,
        _start: usize,
        _memory: &mut Memory<T>,
        _factor: (f64, f64),
        _out: Out<T>,
    ) -> Option<Sum> {
        None
    }
}

/// `w (p - t)^2`
pub(crate) struct SquaredLoss<T> {
    pub(crate) len: usize,
    pub(crate) p: *const T,
    pub(crate) t: *const T,
    pub(crate) weight: Cycle<T>,
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T> Sync for SquaredLoss<T> {}

impl<T: Float> SquaredLoss<T> {
    fn at(&self, start: usize, len: usize, memory: &mut Memory<T>) -> Weighing<T::Ops> {
        Weighing {
            p: self.p.wrapping_add(start),
            t: self.t.wrapping_add(start),
            weight: self.weight.part(start, len, &mut memory.first),
        }
    }
}

impl<T: Float> ElementLoss<T> for SquaredLoss<T> {
    fn len(&self) -> usize {
        self.len
    }
    fn operands(&self) -> [*const T; 2] {
        [self.p, self.t]
    }
    fn weights(&self) -> Option<Cycle<T>> {
        Some(self.weight)
    }
    fn sum(&self, start: usize, len: usize, memory: &mut Memory<T>) -> Sum {
        let of = self.at(start, len, memory);
        let sum = dispatch(WeightedError::<T::Ops> { of, len });
        if size_of::<T>() == 4 || (sum.0.abs() > 1e-280 && sum.0.is_finite()) {
            return Sum::new(sum, 0);
        }
        // SAFETY: the operands hold that chunk.
        unsafe { weighted_error_of_any_size(of, len) }
    }
    fn write(&self, start: usize, memory: &mut Memory<T>, out: Out<T>) {
        out.write(WeightedSquares(self.at(start, out.len, memory)));
    }
    fn write_gradient(&self, start: usize, memory: &mut Memory<T>, incoming: Incoming<T>, out: Out<T>) {
        let (factor, factors) = incoming.at(start);
        out.write(WeightedGradient { of: self.at(start, out.len, memory), factor, factors });
    }
    fn sum_with_gradient(
        &self,
        start: usize,
        memory: &mut Memory<T>,
        (factor, _): (f64, f64),
        Out { to: out, len, stream }: Out<T>,
    ) -> Option<Sum> {
        (size_of::<T>() == 4).then(|| {
            let loss = WeightedErrorAndGradient { of: self.at(start, len, memory), factor };
            Sum::new(dispatch(SumAndWrite { loss, out, len, stream }), 0)
        })
    }
}

/// Targets of the logits' type, or integers.
#[derive(Clone, Copy)]
pub(crate) enum Targets<T> {
    Floats(*const T),
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Integers(*const u8, LabelType),
}

impl<T: Float> Targets<T> {
    /// The targets of `start..start + len`: where they lie, or converted in `memory`.
    fn part(self, start: usize, len: usize, memory: &mut Vec<T>) -> *const T {
        let (integers, kind) = match self {
            Targets::Floats(targets) => return targets.wrapping_add(start),
            Targets::Integers(integers, kind) => (integers, kind),
        };
        memory.clear();
        macro_rules! convert {
            ($t:ty) => {{
                let integers = integers.cast::<$t>().wrapping_add(start);
                // SAFETY: whoever makes a loss vouches for its operands.
                let integers = unsafe { std::slice::from_raw_parts(integers, len) };
                memory.extend(integers.iter().map(|&target| T::Ops::from_f64(target as f64)));
            }};
        }
        match kind {
            LabelType::I8 => convert!(i8),
            LabelType::I16 => convert!(i16),
            LabelType::I32 => convert!(i32),
            LabelType::I64 => convert!(i64),
            LabelType::U8 => convert!(u8),
            LabelType::U16 => convert!(u16),
            LabelType::U32 => convert!(u32),
            LabelType::U64 => convert!(u64),
        }
        memory.as_ptr()
    }
}

/// Binary cross-entropy of the logits `x` with the targets `t`.
pub(crate) struct BinaryLoss<T> {
    pub(crate) len: usize,
    pub(crate) x: *const T,
    pub(crate) t: Targets<T>,
    pub(crate) pos_weight: Option<Cycle<T>>,
    pub(crate) weight: Option<Cycle<T>>,
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T> Sync for BinaryLoss<T> {}

impl<T: Float> BinaryLoss<T> {
    fn is_weighted(&self) -> bool {
        self.pos_weight.is_some() || self.weight.is_some()
    }

    fn at(&self, start: usize, len: usize, memory: &mut Memory<T>) -> Logistic<T::Ops> {
        let x = self.x.wrapping_add(start);
        let t = self.t.part(start, len, &mut memory.third);
        if !self.is_weighted() {
            return Logistic { x, t, pos_weight: std::ptr::null(), weight: std::ptr::null() };
        }
        Logistic {
            x,
            t,
            pos_weight: part_or_ones(self.pos_weight, start, len, &mut memory.first),
            weight: part_or_ones(self.weight, start, len, &mut memory.second),
        }
    }

    /// A [`Pass`] over a chunk.
    fn pass<const WHAT: u8>(
        &self,
        start: usize,
        memory: &mut Memory<T>,
        incoming: Incoming<T>,
        Out { to: out, len, stream }: Out<T>,
    ) -> (f64, f64) {
        let of = self.at(start, len, memory);
        let (factor, factors) = incoming.at(start);
        if self.is_weighted() {
            dispatch(Pass::<T::Ops, true, WHAT> { of, len, factor, factors, out, stream })
        } else {
            dispatch(Pass::<T::Ops, false, WHAT> { of, len, factor, factors, out, stream })
        }
    }

    /// The sum that a pass has found; of losses that overflow, found again.
    fn sum_of(&self, sum: (f64, f64), start: usize, len: usize, memory: &mut Memory<T>) -> Sum {
        if size_of::<T>() == 4 || sum.0.is_finite() {
            return Sum::new(sum, 0);
        }
        let mut losses = vec![T::default(); len];
        self.write(start, memory, Out { to: losses.as_mut_ptr(), len, stream: false });
        Sum::of_large(&losses.iter().map(|&loss| T::Ops::to_f64(loss)).collect::<Vec<_>>())
    }
}

impl<T: Float> ElementLoss<T> for BinaryLoss<T> {
    fn len(&self) -> usize {
        self.len
    }
    fn operands(&self) -> [*const T; 2] {
        match self.t {
            Targets::Floats(t) => [self.x, t],
            Targets::Integers(t, _) => [self.x, t.cast()],
        }
    }
    fn weights(&self) -> Option<Cycle<T>> {
        None
    }
    fn sum(&self, start: usize, len: usize, memory: &mut Memory<T>) -> Sum {
        let nowhere = Out { to: std::ptr::null_mut(), len, stream: false };
        let sum = self.pass::<SUM>(start, memory, Incoming::One((1.0, 0.0)), nowhere);
        self.sum_of(sum, start, len, memory)
    }
    fn write(&self, start: usize, memory: &mut Memory<T>, out: Out<T>) {
        self.pass::<LOSSES>(start, memory, Incoming::One((1.0, 0.0)), out);
    }
    fn write_gradient(&self, start: usize, memory: &mut Memory<T>, incoming: Incoming<T>, out: Out<T>) {
        self.pass::<GRADIENT>(start, memory, incoming, out);
    }
    fn sum_with_gradient(
        &self,
        start: usize,
        memory: &mut Memory<T>,
        factor: (f64, f64),
        out: Out<T>,
    ) -> Option<Sum> {
        let in_place = self.operands().map(|x| x.wrapping_add(start)).contains(&out.to.cast_const());
        // (A sum that overflows is found again from the operands.)
        (size_of::<T>() == 4 || !in_place).then(|| {
            let sum = self.pass::<{ SUM | GRADIENT }>(start, memory, Incoming::One(factor), out);
            self.sum_of(sum, start, out.len, memory)
        })
    }
}

/// What multiplies the gradient of a sum over `divisor`; `None` where that is 0, and the gradient with it.
pub(super) fn gradient_factor(grad_output: f64, divisor: Sum) -> Option<(f64, f64)> {
    (!divisor.is_zero()).then(|| Sum::new((grad_output, 0.0), 0).over(divisor).pair())
}

/// The sum of `out.len` losses from `start` on, and their gradient times a factor, zeros without one.
///
/// # Safety
/// `out` is valid for writing, and apart from the operands or, from `start` on, the very memory of the first or second one.
pub(super) unsafe fn sum_and_gradient<T: Float>(
    loss: &(impl ElementLoss<T> + ?Sized),
    start: usize,
    memory: &mut Memory<T>,
    factor: Option<(f64, f64)>,
    out: Out<T>,
) -> Sum {
    if let Some(factor) = factor
        && let Some(sum) = loss.sum_with_gradient(start, memory, factor, out)
    {
        return sum;
    }
    let sum = loss.sum(start, out.len, memory);
    match factor {
        Some(factor) => loss.write_gradient(start, memory, Incoming::One(factor), out),
        // SAFETY: the caller's promise; zero bytes are zeros.
        None => unsafe { out.to.write_bytes(0, out.len) },
    }
    sum
}

/// The sum or mean of the losses; and, chunk by chunk, the gradient times a number.
///
/// # Safety
/// The operands are valid; the gradient is apart from them, or it is exactly the first or second one.
pub(crate) unsafe fn reduced_loss<T: Float>(
    loss: &dyn ElementLoss<T>,
    reduction: Reduction,
    grad: Option<(f64, *mut T)>,
    fresh: bool,
) -> f64 {
    let divisor = match (reduction, loss.weights()) {
        (Reduction::Mean, Some(weights)) if grad.is_none() => return weighted_mean(loss, weights),
        (Reduction::Mean, Some(weights)) => weights.sum(loss.len()),
        (Reduction::Mean, None) => Sum::new((loss.len() as f64, 0.0), 0),
        (Reduction::Sum, _) => Sum::new((1.0, 0.0), 0),
    };
    let grad = grad.map(|(g, out)| {
        let stream = streams_flat(loss.len(), out, loss.operands().map(<*const T>::cast_mut), fresh);
        (gradient_factor(g, divisor), Shared(out), stream)
    });
    let total = summed(loss.len(), flat, &|start, len, memory| {
        let Some((factor, out, stream)) = &grad else { return loss.sum(start, len, memory) };
        let out = Out { to: out.at(start), len, stream: *stream };
        // SAFETY: the caller's promise; the chunk belongs to this thread alone.
        unsafe { sum_and_gradient(loss, start, memory, *factor, out) }
    });
    total.over(divisor).rounded()
}

/// The sum of the losses by that of their weights, in one pass.
fn weighted_mean<T: Float>(loss: &dyn ElementLoss<T>, weights: Cycle<T>) -> f64 {
    let divisors = Sums::new(loss.len().div_ceil(CHUNK));
    let all = &divisors;
    let total = summed(loss.len(), flat, &|start, len, memory| {
        let sum = loss.sum(start, len, memory);
        // SAFETY: the chunk belongs to this thread alone.
        unsafe { all.set(start / CHUNK, weights.part_sum(start, len, &mut memory.first)) };
        sum
    });
    total.over(divisors.total()).rounded()
}

/// The losses, and then the gradient, elementwise.
///
/// # Safety
/// As [`reduced_loss`]; `out` is apart from everything, or exactly an operand where there is no gradient.
#[cfg(feature = "python")]
pub(crate) unsafe fn elementwise_loss<T: Float>(
    loss: &dyn ElementLoss<T>,
    out: (*mut T, bool),
    grad: Option<(Incoming<T>, *mut T, bool)>,
) {
    let stream = |(out, fresh)| {
        let stream = streams_flat(loss.len(), out, loss.operands().map(<*const T>::cast_mut), fresh);
        (Shared(out), stream)
    };
    let (losses, stream_losses) = stream(out);
    let grad = grad.map(|(incoming, out, fresh)| (incoming, stream((out, fresh))));
    chunks(loss.len(), flat, &|start, len, memory| {
        loss.write(start, memory, Out { to: losses.at(start), len, stream: stream_losses });
        if let Some((incoming, (out, stream))) = &grad {
            loss.write_gradient(start, memory, *incoming, Out { to: out.at(start), len, stream: *stream });
        }
    });
}

// --- over slices -----------------------------------------------------------------------------------------

/// A cycle of one number, of one for each place of a row, or of one for each element.
fn cycle<T: Float>(name: &'static str, numbers: &[T], len: usize) -> Result<Cycle<T>, Error> {
    if numbers.is_empty() || !len.is_multiple_of(numbers.len()) {
        return Err(Error::Length { name, got: numbers.len(), wanted: len });
    }
    // SAFETY: the slice's own length; the caller keeps it as long as the cycle.
    Ok(unsafe { Cycle::new(numbers.as_ptr(), numbers.len()) })
}

/// Mean squared error `weight (pred - target)^2`, with as many weights as elements, or with fewer, which
/// repeat; `Mean` divides by the sum of the weights over all elements. With its gradient, if there is a
/// buffer for it.
///
/// An element of weight 0 adds exactly 0, whatever it is.
///
/// ```
/// use logitkit::{Reduction, mse_loss_weighted};
/// let loss = mse_loss_weighted(&[1.0, 2.0, f64::NAN], &[0.0; 3], &[3.0, 1.0, 0.0], Reduction::Mean, None)?;
/// assert_eq!(loss, 1.75);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when the lengths do not fit.
pub fn mse_loss_weighted<T: Float>(
    pred: &[T],
    target: &[T],
    weight: &[T],
    reduction: Reduction,
    grad: Option<&mut [T]>,
) -> Result<T, Error> {
    let len = pred.len();
    wants("target", target.len(), len)?;
    let weight = cycle("weight", weight, len)?;
    let loss = SquaredLoss { len, p: pred.as_ptr(), t: target.as_ptr(), weight };
    let grad = gradient(len, grad)?;
    // SAFETY: the slices have that length; `grad` does not overlap.
    Ok(rounded(unsafe { (compiled().squared_loss)(&loss, reduction, grad, false) }))
}

/// Binary cross-entropy of logits, the mean or sum of
/// `weight (pos_weight t log(1 + exp(-x)) + (1 - t) log(1 + exp(x)))`,
/// within 3 ulp (`f32`) or 4 (`f64`). Weights are as many as elements, or fewer, which repeat; `Mean` divides
/// by the number of elements. With its gradient, if there is a buffer for it.
///
/// ```
/// use logitkit::{Reduction, binary_cross_entropy_with_logits};
/// let mut grad = [0.0; 2];
/// let loss = binary_cross_entropy_with_logits(
///     &[0.0, -40.0], &[1.0, 0.0], None, None, Reduction::Sum, Some(&mut grad))?;
/// assert_eq!(loss, 2f64.ln() + 4.248354255291589e-18);
/// assert_eq!(grad, [-0.5, 4.248354255291589e-18]);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when the lengths do not fit.
pub fn binary_cross_entropy_with_logits<T: Float>(
    logits: &[T],
    targets: &[T],
    pos_weight: Option<&[T]>,
    weight: Option<&[T]>,
    reduction: Reduction,
    grad: Option<&mut [T]>,
) -> Result<T, Error> {
    let len = logits.len();
    wants("targets", targets.len(), len)?;
    let pos_weight = pos_weight.map(|numbers| cycle("pos_weight", numbers, len)).transpose()?;
    let weight = weight.map(|numbers| cycle("weight", numbers, len)).transpose()?;
    let loss =
        BinaryLoss { len, x: logits.as_ptr(), t: Targets::Floats(targets.as_ptr()), pos_weight, weight };
    let grad = gradient(len, grad)?;
    // SAFETY: the slices have that length; `grad` does not overlap.
    Ok(rounded(unsafe { (compiled().binary_loss)(&loss, reduction, grad, false) }))
}

/// A gradient's memory with the incoming gradient of 1.
fn gradient<T>(len: usize, grad: Option<&mut [T]>) -> Result<Option<(f64, *mut T)>, Error> {
    if let Some(grad) = &grad {
        wants("grad", grad.len(), len)?;
    }
    Ok(grad.map(|grad| (1.0, grad.as_mut_ptr())))
}
