//! Losses of values: weighted squared errors and binary cross-entropy.

use super::{
    Answer, Array, C_CONTIGUOUS, FLOAT, How, LossOut, Object, Sendable, compute, declined, flat_pair,
    half_elementwise as half, pair, reduction_of, scalar, size,
};
use crate::float::Float;
use crate::kernels::labels::LabelType;
use crate::ops;
use crate::ops::elementwise::{
    BinaryLoss, Cycle, ElementLoss, Incoming, SquaredLoss, Targets, elementwise_loss, reduced_loss,
};
use numpy::npyffi::npy_intp;
use pyo3::prelude::*;
use pyo3::types::PyFloat;
use std::ffi::c_int;

/// NumPy's number for bool.
const BOOL: c_int = 0;

/// Weights of the dtype of `x`, in C order; element `i` of what they are for has number `i % size`.
pub(super) fn cycle<'a, T: Float>(array: Array<'a>, x: &Array<'_>) -> Option<(Array<'a>, Cycle<T>)> {
    let period = size(&array);
    let fits = array.type_num == x.type_num && array.flags & C_CONTIGUOUS != 0 && period > 0;
    // SAFETY: an array of as many numbers, which the caller's reference keeps.
    fits.then(|| (array, unsafe { Cycle::new(array.data.cast::<T>().cast_const(), period) }))
}

/// Weights that broadcast to `x` as one number, one for each place along the last axis, or one for each element.
pub(super) fn cycle_of<'a, T: Float>(object: Object<'a, '_>, x: &Array<'_>) -> Option<(Array<'a>, Cycle<T>)> {
    let array = Array::new(object)?;
    if repeats_along(&array, x) { cycle(array, x) } else { None }
}

/// Whether there is one number, one for each place along the last axis of `x`, or one for each of its elements.
pub(super) fn repeats_along(array: &Array<'_>, x: &Array<'_>) -> bool {
    let row = |n: npy_intp| n == 1 || x.dims.last() == Some(&n);
    match array.dims {
        [] => true,
        &[n] => row(n),
        dims => dims == x.dims,
    }
}

/// [`cycle_of`], or nothing for None.
fn optional_cycle<'a, T: Float>(
    object: Object<'a, '_>,
    x: &Array<'_>,
) -> Option<Option<(Array<'a>, Cycle<T>)>> {
    if object.is_none() { Some(None) } else { cycle_of(object, x).map(Some) }
}

/// The operands of a loss: what the result must be apart from, unless it is exactly one of the first two.
struct Operands<'a> {
    pair: [&'a Array<'a>; 2],
    weights: Vec<Array<'a>>,
}

impl Operands<'_> {
    fn lead(&self) -> &Array<'_> {
        self.pair[0]
    }

    /// A C-contiguous result of the operands' shape, checked.
    fn result<'b>(&self, object: Object<'b, '_>) -> Option<Array<'b>> {
        let lead = self.lead();
        let fits = |out: &Array<'_>| {
            out.type_num == lead.type_num
                && out.dims == lead.dims
                && out.flags & C_CONTIGUOUS != 0
                && self.weights.iter().all(|weight| out.is_apart(weight))
        };
        Array::new(object).filter(fits)?.output(&self.pair)
    }
}

/// The loss, into `out` or as a new object.
fn value<T: Float>(
    py: Python<'_>,
    operands: &Operands<'_>,
    loss: &dyn ElementLoss<T>,
    how: How,
    out: Object<'_, '_>,
) -> Answer {
    let lead = operands.lead();
    let How::One(reduction) = how else {
        let fresh = out.is_none();
        let out = if fresh { lead.like(py)? } else { out.clone() };
        let to = Sendable(plain!(py, operands.result(&out)).data.cast::<T>());
        let work = Sendable(loss);
        // SAFETY: contiguous arrays of one length; the output is checked.
        compute(py, loss.len(), || unsafe { elementwise_loss({ work }.0, ({ to }.0, fresh), None) });
        return Ok(out.unbind());
    };
    let place = if out.is_none() {
        LossOut::Scalar
    } else {
        let fits = |out: &Array<'_>| {
            out.type_num == lead.type_num
                && out.dims.is_empty()
                && out.is_writable()
                && operands.pair.iter().all(|operand| out.is_apart(operand))
                && operands.weights.iter().all(|weight| out.is_apart(weight))
        };
        plain!(py, Array::new(out).filter(fits));
        LossOut::Zero(out.clone())
    };
    let work = Sendable(loss);
    // SAFETY: contiguous arrays of one length.
    let result = compute(py, loss.len(), || unsafe { reduced_loss::<T>({ work }.0, reduction, None, false) });
    place.finish::<T>(py, ops::rounded(result))
}

/// The loss and its gradient, the latter into `grad_out` or as a new array.
fn value_and_grad<T: Float>(
    py: Python<'_>,
    operands: &Operands<'_>,
    loss: &dyn ElementLoss<T>,
    how: How,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let lead = operands.lead();
    let fresh = grad_out.is_none();
    let grad = if fresh { lead.like(py)? } else { grad_out.clone() };
    let out = plain!(py, operands.result(&grad));
    let to = out.data.cast::<T>();
    let number = if grad_output.is_none() {
        Some(1.0)
    } else {
        grad_output.cast_exact::<PyFloat>().ok().map(|number| number.value())
    };
    if let How::One(reduction) = how {
        let work = Sendable((loss, plain!(py, number), to));
        let result = compute(py, loss.len(), || {
            let (loss, number, to) = { work }.0;
            // SAFETY: contiguous arrays of one length; the gradient is checked.
            unsafe { reduced_loss(loss, reduction, Some((number, to)), fresh) }
        });
        return pair(py, scalar::<T>(py, ops::rounded(result))?, grad);
    }
    let incoming = match number {
        Some(number) => Incoming::One((number, 0.0)),
        None => {
            let fits = |g: &Array<'_>| g.flags & C_CONTIGUOUS != 0 && g.is_apart(&out);
            let factors = plain!(py, lead.same(grad_output).filter(fits));
            Incoming::Each(factors.data.cast::<T>().cast_const())
        }
    };
    let losses = lead.like(py)?;
    let losses_to = plain!(py, Array::new(&losses)).data.cast::<T>();
    let work = Sendable((loss, losses_to, incoming, to));
    compute(py, loss.len(), || {
        let (loss, losses, incoming, to) = { work }.0;
        // SAFETY: contiguous arrays of one length; the outputs are checked or new.
        unsafe { elementwise_loss(loss, (losses, true), Some((incoming, to, fresh))) }
    });
    pair(py, losses.unbind(), grad)
}

/// [`super::mse_loss`] with weights.
pub(super) fn weighted_mse_loss(
    py: Python<'_>,
    pred: Object<'_, '_>,
    target: Object<'_, '_>,
    weight: Object<'_, '_>,
    reduction: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let Some((p, t)) = flat_pair(pred, target) else {
        return half::weighted_mse_loss(py, pred, target, weight, reduction, out);
    };
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(p, weighted_mse_typed(py, &p, &t, weight, how, out))
}

fn weighted_mse_typed<T: Float>(
    py: Python<'_>,
    p: &Array<'_>,
    t: &Array<'_>,
    weight: Object<'_, '_>,
    how: How,
    out: Object<'_, '_>,
) -> Answer {
    let (array, weight) = plain!(py, cycle_of::<T>(weight, p));
    value(py, &Operands { pair: [p, t], weights: vec![array] }, &squared_loss(p, t, weight), how, out)
}

fn squared_loss<T: Float>(p: &Array<'_>, t: &Array<'_>, weight: Cycle<T>) -> SquaredLoss<T> {
    SquaredLoss {
        len: size(p),
        p: p.data.cast::<T>().cast_const(),
        t: t.data.cast::<T>().cast_const(),
        weight,
    }
}

/// [`super::mse_loss_value_and_grad`] with weights.
pub(super) fn weighted_mse_loss_value_and_grad(
    py: Python<'_>,
    pred: Object<'_, '_>,
    target: Object<'_, '_>,
    weight: Object<'_, '_>,
    reduction: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let Some((p, t)) = flat_pair(pred, target) else {
        return half::weighted_mse_loss_value_and_grad(
            py,
            pred,
            target,
            weight,
            reduction,
            grad_output,
            grad_out,
        );
    };
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(p, weighted_mse_grad_typed(py, &p, &t, weight, how, grad_output, grad_out))
}

fn weighted_mse_grad_typed<T: Float>(
    py: Python<'_>,
    p: &Array<'_>,
    t: &Array<'_>,
    weight: Object<'_, '_>,
    how: How,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let (array, weight) = plain!(py, cycle_of::<T>(weight, p));
    let operands = Operands { pair: [p, t], weights: vec![array] };
    value_and_grad(py, &operands, &squared_loss(p, t, weight), how, grad_output, grad_out)
}

#[pyfunction]
#[pyo3(signature = (logits, targets, pos_weight, weight, reduction, out, /))]
pub(super) fn binary_cross_entropy_with_logits(
    py: Python<'_>,
    logits: Object<'_, '_>,
    targets: Object<'_, '_>,
    pos_weight: Object<'_, '_>,
    weight: Object<'_, '_>,
    reduction: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let weights = [pos_weight, weight];
    let Some((x, t)) = flat_targets(logits, targets) else {
        return half::binary_cross_entropy(py, logits, targets, weights, reduction, out);
    };
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(x, binary_typed(py, &x, &t, weights, how, out))
}

fn binary_typed<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    t: &Array<'_>,
    weights: [Object<'_, '_>; 2],
    how: How,
    out: Object<'_, '_>,
) -> Answer {
    let (operands, loss) = plain!(py, binary_loss::<T>(x, t, weights));
    value(py, &operands, &loss, how, out)
}

/// Two C-contiguous arrays of one shape; the second one of the first one's dtype, or integers or bool.
fn flat_targets<'a>(logits: Object<'a, '_>, targets: Object<'a, '_>) -> Option<(Array<'a>, Array<'a>)> {
    let (x, t) = (Array::float(logits)?, Array::new(targets)?);
    let fits = t.dims == x.dims
        && (t.type_num == x.type_num || target_type(&t).is_some())
        && x.flags & t.flags & C_CONTIGUOUS != 0;
    fits.then_some((x, t))
}

/// The type of integer targets; bool is stored as 0 and 1.
pub(super) fn target_type(t: &Array<'_>) -> Option<LabelType> {
    if t.type_num == BOOL { Some(LabelType::U8) } else { t.label_type() }
}

fn binary_loss<'a, T: Float>(
    x: &'a Array<'a>,
    t: &'a Array<'a>,
    [pos_weight, weight]: [Object<'a, '_>; 2],
) -> Option<(Operands<'a>, BinaryLoss<T>)> {
    let (pos_weight, weight) = (optional_cycle::<T>(pos_weight, x)?, optional_cycle::<T>(weight, x)?);
    let loss = BinaryLoss {
        len: size(x),
        x: x.data.cast::<T>().cast_const(),
        t: match target_type(t) {
            Some(kind) => Targets::Integers(t.data.cast_const(), kind),
            None => Targets::Floats(t.data.cast::<T>().cast_const()),
        },
        pos_weight: pos_weight.map(|(_, cycle)| cycle),
        weight: weight.map(|(_, cycle)| cycle),
    };
    let weights = [pos_weight, weight].into_iter().flatten().map(|(array, _)| array).collect();
    Some((Operands { pair: [x, t], weights }, loss))
}

#[pyfunction]
#[pyo3(signature = (logits, targets, pos_weight, weight, reduction, grad_output, grad_out, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub(super) fn binary_cross_entropy_with_logits_value_and_grad(
    py: Python<'_>,
    logits: Object<'_, '_>,
    targets: Object<'_, '_>,
    pos_weight: Object<'_, '_>,
    weight: Object<'_, '_>,
    reduction: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let weights = [pos_weight, weight];
    let Some((x, t)) = flat_targets(logits, targets) else {
        return half::binary_cross_entropy_value_and_grad(
            py,
            logits,
            targets,
            weights,
            reduction,
            grad_output,
            grad_out,
        );
    };
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(x, binary_grad_typed(py, &x, &t, weights, how, grad_output, grad_out))
}

fn binary_grad_typed<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    t: &Array<'_>,
    weights: [Object<'_, '_>; 2],
    how: How,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let (operands, loss) = plain!(py, binary_loss::<T>(x, t, weights));
    value_and_grad(py, &operands, &loss, how, grad_output, grad_out)
}
