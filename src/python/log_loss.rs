//! Cross-entropy of given probabilities.

use super::elementwise::cycle;
use super::{
    Answer, Array, Axis, C_CONTIGUOUS, F_CONTIGUOUS, FLOAT, How, LossOut, Object, Sendable, Target, axis_of,
    compute, declined, grad_output_of, ignored, is_batch_of, label_error, pair, reduction_of,
};
use crate::error::Error;
use crate::float::Float;
use crate::ops::elementwise::Cycle;
use crate::ops::log_loss::{log_loss_view, soft_log_loss_view};
use crate::ops::{self, GradOutput, Reduce};
use crate::shape::View;
use pyo3::prelude::*;

/// The operands of a log loss.
struct Call<'a, T> {
    x: &'a Array<'a>,
    axis: Axis,
    how: How,
    ignore: Option<i64>,
    target: Target<'a, T>,
    weight: Option<(Array<'a>, Cycle<T>)>,
}

/// `sample_weight`: one number, or one for each row.
fn weight_of<'a, T: Float>(
    object: Object<'a, '_>,
    x: &Array<'_>,
    axis: Axis,
) -> Option<Option<(Array<'a>, Cycle<T>)>> {
    if object.is_none() {
        return Some(None);
    }
    let array = Array::new(object)?;
    let fits = array.dims == [1] || is_batch_of(&array, x, axis, false);
    if fits { cycle(array, x).map(Some) } else { None }
}

impl<'a, T: Float> Call<'a, T> {
    fn new(
        x: &'a Array<'a>,
        labels: Object<'a, '_>,
        axis: Axis,
        sample_weight: Object<'a, '_>,
        ignore: Option<i64>,
        how: How,
    ) -> Option<Self> {
        let target = Target::new(labels, x, axis, ignore)?;
        if let Target::Probabilities(_, t) = &target {
            // Rows that follow one another.
            let last = matches!(axis, Axis::At(axis) if axis + 1 == x.dims.len());
            if !last || x.flags & t.flags & C_CONTIGUOUS == 0 {
                return None;
            }
        }
        Some(Call { x, axis, how, ignore, target, weight: weight_of(sample_weight, x, axis)? })
    }

    /// Whether a result is apart from everything but the probabilities.
    fn is_apart(&self, out: &Array<'_>) -> bool {
        out.is_apart(self.target.array())
            && self.weight.as_ref().is_none_or(|(weight, _)| out.is_apart(weight))
    }

    /// The loss, into `loss` (rows) or as a number; declines what does not fit.
    fn run(
        &self,
        py: Python<'_>,
        loss: &LossOut<'_>,
        grad: Option<(&Array<'_>, bool, GradOutput<T>)>,
    ) -> PyResult<Option<T>> {
        let shape = self.x.shape(self.axis);
        let mut value = T::default();
        let (reduce, single) = match (self.how, loss) {
            (How::One(reduction), _) => (Reduce::To(reduction), false),
            (How::Each, LossOut::Rows(rows)) => {
                let Some(rows) = Array::new(rows) else { return Ok(None) };
                if !self.is_apart(&rows) || grad.as_ref().is_some_and(|(grad, ..)| !rows.is_apart(grad)) {
                    return Ok(None);
                }
                let Some(view) = rows.row_view::<T>(self.axis, false) else { return Ok(None) };
                (Reduce::Rows(view), false)
            }
            (How::Each, _) => (Reduce::Rows(View::per_row(&raw mut value, shape)), true),
        };
        let Some(x) = self.x.view::<T>(self.axis) else { return Ok(None) };
        let weight = self.weight.as_ref().map(|&(_, cycle)| cycle);
        let elements = if grad.is_some() { shape.size() } else { shape.batch() };
        let result = match &self.target {
            Target::Classes(labels, _) => {
                let grad = match grad {
                    None => None,
                    Some((array, fresh, incoming)) => {
                        // All of the gradient's memory is filled at once.
                        let dense = array.flags & (C_CONTIGUOUS | F_CONTIGUOUS) != 0;
                        let Some(view) = array.view::<T>(self.axis).filter(|_| dense) else {
                            return Ok(None);
                        };
                        Some((View { fresh, ..view }, incoming))
                    }
                };
                compute(py, elements, || {
                    let (reduce, grad) = (reduce, grad);
                    // SAFETY: views of nonempty arrays of matching shapes; outputs are checked by the callers.
                    unsafe { log_loss_view(shape, x, *labels, weight, &reduce, grad) }
                })
            }
            Target::Probabilities(_, t) => {
                let grad = match grad {
                    Some((array, ..)) if array.flags & C_CONTIGUOUS == 0 => return Ok(None),
                    Some((array, _, incoming)) => Some((array.data.cast::<T>(), incoming)),
                    None => None,
                };
                let operands = Sendable((x.ptr.cast_const(), t.data.cast::<T>().cast_const()));
                compute(py, shape.size(), || {
                    let (reduce, grad) = (reduce, grad);
                    let (x, t) = { operands }.0;
                    // SAFETY: contiguous arrays of this shape; outputs are checked by the callers.
                    Ok::<_, Error>(unsafe { soft_log_loss_view(shape, x, t, weight, &reduce, grad) })
                })
            }
        };
        match result {
            Ok(_) if single => Ok(Some(value)),
            Ok(loss) => Ok(Some(ops::rounded(loss))),
            Err(error) => Err(label_error(&error, self.x, self.axis, self.ignore)),
        }
    }
}

#[pyfunction]
#[pyo3(signature = (probs, labels, axis, sample_weight, ignore_index, reduction, out, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub(super) fn log_loss(
    py: Python<'_>,
    probs: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    sample_weight: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
    reduction: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let x = plain!(py, Array::float(probs));
    if axis.is_none() {
        return declined(py);
    }
    let axis = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(x, log_loss_typed(py, &x, labels, axis, sample_weight, ignore, how, out))
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
fn log_loss_typed<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    labels: Object<'_, '_>,
    axis: Axis,
    sample_weight: Object<'_, '_>,
    ignore: Option<i64>,
    how: How,
    out: Object<'_, '_>,
) -> Answer {
    let call = plain!(py, Call::<T>::new(x, labels, axis, sample_weight, ignore, how));
    let loss = plain!(py, LossOut::new(py, x, axis, how, out)?);
    if let LossOut::Zero(array) = &loss
        && !Array::new(array).is_some_and(|array| call.is_apart(&array))
    {
        return declined(py);
    }
    let value = plain!(py, call.run(py, &loss, None)?);
    loss.finish(py, value)
}

#[pyfunction]
#[pyo3(signature = (probs, labels, axis, sample_weight, ignore_index, reduction, grad_output, grad_out, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub(super) fn log_loss_value_and_grad(
    py: Python<'_>,
    probs: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    sample_weight: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
    reduction: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let x = plain!(py, Array::float(probs));
    if axis.is_none() {
        return declined(py);
    }
    let axis = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(x, log_loss_grad_typed(py, &x, labels, axis, sample_weight, ignore, how, grad_output, grad_out))
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
fn log_loss_grad_typed<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    labels: Object<'_, '_>,
    axis: Axis,
    sample_weight: Object<'_, '_>,
    ignore: Option<i64>,
    how: How,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let call = plain!(py, Call::<T>::new(x, labels, axis, sample_weight, ignore, how));
    let fresh = grad_out.is_none();
    let grad = if fresh { x.like(py)? } else { grad_out.clone() };
    let out = plain!(py, x.same(&grad).and_then(|out| out.output(&[x])));
    let same_labels =
        matches!(&call.target, Target::Probabilities(_, t) if t.data == out.data && t.strides == out.strides);
    let weight_apart = call.weight.as_ref().is_none_or(|(weight, _)| out.is_apart(weight));
    if !weight_apart || !(same_labels || out.is_apart(call.target.array())) {
        return declined(py);
    }
    let incoming = plain!(py, grad_output_of::<T>(grad_output, x, axis, how, &out));
    let loss = plain!(py, LossOut::new(py, x, axis, how, &py.None().into_bound(py))?);
    let value = plain!(py, call.run(py, &loss, Some((&out, fresh, incoming)))?);
    let loss = loss.finish(py, value)?;
    pair(py, loss, grad)
}
