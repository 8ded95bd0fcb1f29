//! Losses of values of float16 and bfloat16: weighted squared errors and binary cross-entropy. The callers fall to these
//! when an operand is neither float32 nor float64.

use super::elementwise::{cycle_of, repeats_along, target_type};
use super::half::{flat_pair, half, losses};
use super::{
    Answer, Array, C_CONTIGUOUS, FLOAT, How, LossOut, Object, Sendable, compute, declined, pair,
    reduction_of, scalar, size,
};
use crate::ops;
use crate::ops::elementwise::{BinaryLoss, Cycle, ElementLoss, Incoming, SquaredLoss, Targets};
use crate::ops::staged::elementwise::{Divisor, StagedLoss, elementwise_loss, reduced_loss};
use crate::stage::{Format, Operand, stage_flat};
use pyo3::prelude::*;
use pyo3::types::PyFloat;

/// Weights that broadcast to an operand: float32 ones where they lie, 16-bit ones as float32 if they are few, otherwise
/// chunk by chunk.
struct Weights<'a> {
    array: Array<'a>,
    numbers: Numbers,
    /// Few numbers, converted.
    _memory: Vec<f32>,
}

#[derive(Clone, Copy)]
enum Numbers {
    Cycle(Cycle<f32>),
    Staged(Operand<f32>),
}

impl Numbers {
    /// The numbers for a loss of `len` elements, `staged` if they are.
    fn cycle(self, staged: *const f32, len: usize) -> Cycle<f32> {
        match self {
            Numbers::Cycle(cycle) => cycle,
            // SAFETY: whoever stages the operands vouches for the chunk that is looked at.
            Numbers::Staged(_) => unsafe { Cycle::new(staged, len) },
        }
    }

    fn operand(self) -> Option<Operand<f32>> {
        match self {
            Numbers::Cycle(_) => None,
            Numbers::Staged(operand) => Some(operand),
        }
    }
}

impl<'a> Weights<'a> {
    fn new(object: Object<'a, '_>, x: &Array<'_>) -> Option<Self> {
        let Some((array, format)) = half(object) else {
            let (array, cycle) = cycle_of(object, &x.wide())?;
            return Some(Weights { array, numbers: Numbers::Cycle(cycle), _memory: Vec::new() });
        };
        if !repeats_along(&array, x) || array.flags & C_CONTIGUOUS == 0 {
            return None;
        }
        let (n, operand) = (size(&array), array.flat(format));
        if n == size(x) {
            return Some(Weights { array, numbers: Numbers::Staged(operand), _memory: Vec::new() });
        }
        let mut memory = vec![0f32; n];
        // SAFETY: a contiguous array of `n` elements, and room for them.
        unsafe { stage_flat(&operand, 0, n, memory.as_mut_ptr()) };
        // SAFETY: as many numbers, which stay where they are as long as this.
        let cycle = unsafe { Cycle::new(memory.as_ptr(), n) };
        Some(Weights { array, numbers: Numbers::Cycle(cycle), _memory: memory })
    }

    /// Weights, or nothing for None.
    #[expect(clippy::option_option, reason = "declined, nothing or weights")]
    fn optional(object: Object<'a, '_>, x: &Array<'_>) -> Option<Option<Self>> {
        if object.is_none() { Some(None) } else { Weights::new(object, x).map(Some) }
    }
}

/// A loss, and what the results must be apart from.
struct Call<'a, F> {
    /// The gradient may be exactly one of them.
    pair: [Array<'a>; 2],
    format: &'static Format<f32>,
    weights: [Option<Weights<'a>>; 2],
    loss: StagedLoss<F>,
}

impl<L: ElementLoss<f32>, F: Fn([*const f32; 4]) -> L> Call<'_, F> {
    fn is_apart(&self, out: &Array<'_>) -> bool {
        self.pair.iter().all(|operand| out.is_apart(operand)) && self.is_apart_from_weights(out)
    }

    fn is_apart_from_weights(&self, out: &Array<'_>) -> bool {
        self.weights.iter().flatten().all(|weight| out.is_apart(&weight.array))
    }

    /// The loss, into `out` or as a new object.
    fn value(&self, py: Python<'_>, how: How, out: Object<'_, '_>) -> Answer {
        let (lead, loss) = (&self.pair[0], Sendable(&self.loss));
        let How::One(reduction) = how else {
            if lead.dims.is_empty() {
                return declined(py);
            }
            let fresh = out.is_none();
            let out = if fresh { losses(py, lead)? } else { out.clone() };
            let fits =
                |out: &Array<'_>| out.flags & C_CONTIGUOUS != 0 && out.is_writable() && self.is_apart(out);
            let to = Sendable(plain!(py, lead.wide().same(&out).filter(fits)).data.cast::<f32>());
            // SAFETY: contiguous arrays of one length; the output is checked.
            compute(py, size(lead), || unsafe { elementwise_loss({ loss }.0, ({ to }.0, fresh), None) });
            return Ok(out.unbind());
        };
        let place = if out.is_none() {
            LossOut::Scalar
        } else {
            let fits = |out: &Array<'_>| {
                out.type_num == FLOAT && out.dims.is_empty() && out.is_writable() && self.is_apart(out)
            };
            plain!(py, Array::new(out).filter(fits));
            LossOut::Zero(out.clone())
        };
        // SAFETY: contiguous arrays of one length.
        let result = compute(py, size(lead), || unsafe { reduced_loss({ loss }.0, reduction, None) });
        place.finish::<f32>(py, ops::rounded(result))
    }

    /// The loss and its gradient, the latter into `grad_out` or as a new array.
    fn value_and_grad(
        &self,
        py: Python<'_>,
        how: How,
        grad_output: Object<'_, '_>,
        grad_out: Object<'_, '_>,
    ) -> Answer {
        let (lead, loss) = (&self.pair[0], Sendable(&self.loss));
        if lead.dims.is_empty() {
            return declined(py);
        }
        let fresh = grad_out.is_none();
        let grad = if fresh { lead.like(py)? } else { grad_out.clone() };
        let fits = |out: &Array<'_>| out.flags & C_CONTIGUOUS != 0 && self.is_apart_from_weights(out);
        let exactly = |out: &Array<'_>| {
            // (Of another type it may not even begin where an operand does.)
            self.pair.iter().all(|operand| operand.type_num == out.type_num || out.is_apart(operand))
        };
        let out = plain!(py, lead.same(&grad).filter(fits).filter(exactly));
        let out = plain!(py, out.output(&self.pair.each_ref()));
        let mut to = out.flat(self.format);
        to.view.fresh = fresh;
        let number = if grad_output.is_none() {
            Some(1.0)
        } else {
            grad_output.cast_exact::<PyFloat>().ok().map(|number| number.value())
        };
        if let How::One(reduction) = how {
            let work = Sendable((plain!(py, number), to));
            // SAFETY: contiguous arrays of one length; the gradient is checked.
            let result =
                compute(py, size(lead), || unsafe { reduced_loss({ loss }.0, reduction, Some({ work }.0)) });
            return pair(py, scalar::<f32>(py, ops::rounded(result))?, grad);
        }
        let incoming = match number {
            Some(number) => Incoming::One((number, 0.0)),
            None => {
                let fits = |g: &Array<'_>| g.flags & C_CONTIGUOUS != 0 && g.is_apart(&out);
                let factors = plain!(py, lead.wide().same(grad_output).filter(fits));
                Incoming::Each(factors.data.cast::<f32>().cast_const())
            }
        };
        let rows = losses(py, lead)?;
        let work = Sendable((plain!(py, Array::new(&rows)).data.cast::<f32>(), incoming, to));
        compute(py, size(lead), || {
            let (losses, incoming, to) = { work }.0;
            // SAFETY: contiguous arrays of one length; the outputs are checked or new.
            unsafe { elementwise_loss({ loss }.0, (losses, true), Some((incoming, to))) }
        });
        pair(py, rows.unbind(), grad)
    }
}

fn squared_loss<'a>(
    pred: Object<'a, '_>,
    target: Object<'a, '_>,
    weight: Object<'a, '_>,
) -> Option<Call<'a, impl Fn([*const f32; 4]) -> SquaredLoss<f32>>> {
    let (p, t, format) = flat_pair(pred, target)?;
    let weight = Weights::new(weight, &p)?;
    let (len, numbers) = (size(&p), weight.numbers);
    let divisor = match numbers {
        Numbers::Cycle(cycle) => Divisor::Cycle(cycle),
        Numbers::Staged(operand) => Divisor::Staged(operand),
    };
    let operands = [Some(p.flat(format)), Some(t.flat(format)), numbers.operand(), None];
    let loss = move |[p, t, weight, _]: [*const f32; 4]| {
        let weight = numbers.cycle(weight, len);
        SquaredLoss { len, p, t, weight }
    };
    let loss = StagedLoss { len, operands, divisor, loss };
    Some(Call { pair: [p, t], format, weights: [Some(weight), None], loss })
}

pub(super) fn weighted_mse_loss(
    py: Python<'_>,
    pred: Object<'_, '_>,
    target: Object<'_, '_>,
    weight: Object<'_, '_>,
    reduction: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let how = plain!(py, reduction_of(reduction));
    plain!(py, squared_loss(pred, target, weight)).value(py, how, out)
}

pub(super) fn weighted_mse_loss_value_and_grad(
    py: Python<'_>,
    pred: Object<'_, '_>,
    target: Object<'_, '_>,
    weight: Object<'_, '_>,
    reduction: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let how = plain!(py, reduction_of(reduction));
    plain!(py, squared_loss(pred, target, weight)).value_and_grad(py, how, grad_output, grad_out)
}

/// Targets of a shape: the logits' type or float32, which are staged, or integers.
fn targets_of<'a>(
    object: Object<'a, '_>,
    x: &Array<'_>,
    format: &'static Format<f32>,
) -> Option<(Array<'a>, Option<Operand<f32>>)> {
    let t = Array::new(object).filter(|t| t.dims == x.dims && t.flags & C_CONTIGUOUS != 0)?;
    let operand = match target_type(&t) {
        Some(_) => None,
        None if t.type_num == x.type_num => Some(t.flat(format)),
        None if t.type_num == FLOAT => Some(t.flat(Format::NATIVE)),
        None => return None,
    };
    Some((t, operand))
}

fn binary_loss<'a>(
    logits: Object<'a, '_>,
    targets: Object<'a, '_>,
    [pos_weight, weight]: [Object<'a, '_>; 2],
) -> Option<Call<'a, impl Fn([*const f32; 4]) -> BinaryLoss<f32>>> {
    let (x, format) = half(logits).filter(|(x, _)| x.flags & C_CONTIGUOUS != 0)?;
    let (t, floats) = targets_of(targets, &x, format)?;
    let weights = [Weights::optional(pos_weight, &x)?, Weights::optional(weight, &x)?];
    let (len, integers) = (size(&x), target_type(&t).map(|kind| (t.data.cast_const(), kind)));
    let numbers = weights.each_ref().map(|weights| weights.as_ref().map(|weights| weights.numbers));
    let [pos_operand, operand] = numbers.map(|numbers| numbers.and_then(Numbers::operand));
    let operands = [Some(x.flat(format)), floats, pos_operand, operand];
    let loss = move |[x, t, pos_weight, weight]: [*const f32; 4]| {
        let t = match integers {
            Some((integers, kind)) => Targets::Integers(integers, kind),
            None => Targets::Floats(t),
        };
        let [pos_numbers, numbers] = numbers;
        let pos_weight = pos_numbers.map(|numbers| numbers.cycle(pos_weight, len));
        let weight = numbers.map(|numbers| numbers.cycle(weight, len));
        BinaryLoss { len, x, t, pos_weight, weight }
    };
    let loss = StagedLoss { len, operands, divisor: Divisor::Count, loss };
    Some(Call { pair: [x, t], format, weights, loss })
}

pub(super) fn binary_cross_entropy(
    py: Python<'_>,
    logits: Object<'_, '_>,
    targets: Object<'_, '_>,
    weights: [Object<'_, '_>; 2],
    reduction: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let how = plain!(py, reduction_of(reduction));
    plain!(py, binary_loss(logits, targets, weights)).value(py, how, out)
}

pub(super) fn binary_cross_entropy_value_and_grad(
    py: Python<'_>,
    logits: Object<'_, '_>,
    targets: Object<'_, '_>,
    weights: [Object<'_, '_>; 2],
    reduction: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let how = plain!(py, reduction_of(reduction));
    plain!(py, binary_loss(logits, targets, weights)).value_and_grad(py, how, grad_output, grad_out)
}
