//! Cross-entropy of given probabilities.

use super::elementwise::cycle;
use super::half::float_or_half;
use super::{
    Answer, Array, Axis, C_CONTIGUOUS, F_CONTIGUOUS, FLOAT, How, LossOut, Object, Sendable, Target, axis_of,
    compute, declined, grad_output_of, ignored, is_batch_of, label_error, pair, reduction_of,
};
use crate::error::Error;
use crate::float::Float;
use crate::ops::elementwise::Cycle;
use crate::ops::log_loss::{SharedView, Store, log_loss_view, soft_log_loss_view};
use crate::ops::staged::StagedTargets;
use crate::ops::{self, GradOutput, Reduce};
use crate::shape::{Shape, View};
use crate::stage::{Format, Operand};
use pyo3::prelude::*;

/// The operands of a log loss.
struct Call<'a, T: Float> {
    x: &'a Array<'a>,
    format: &'static Format<T>,
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
    if fits { cycle(array, &x.wide()).map(Some) } else { None }
}

impl<'a, T: Float> Call<'a, T> {
    fn new(
        (x, format): (&'a Array<'a>, &'static Format<T>),
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
        Some(Call { x, format, axis, how, ignore, target, weight: weight_of(sample_weight, x, axis)? })
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
        let operand = |array: &Array<'_>| array.operand(self.axis, self.format);
        let Some(x) = operand(self.x) else { return Ok(None) };
        // Where labels are class numbers, all of the gradient's memory is filled at once.
        let dense = match &self.target {
            Target::Classes(..) => C_CONTIGUOUS | F_CONTIGUOUS,
            Target::Probabilities(..) => C_CONTIGUOUS,
        };
        let grad = match grad {
            None => None,
            Some((array, fresh, incoming)) => {
                let Some(mut to) = operand(array).filter(|_| array.flags & dense != 0) else {
                    return Ok(None);
                };
                to.view.fresh = fresh;
                Some((to, incoming))
            }
        };
        let (targets, elements) = match &self.target {
            Target::Classes(labels, _) if grad.is_none() => (StagedTargets::Classes(*labels), shape.batch()),
            Target::Classes(labels, _) => (StagedTargets::Classes(*labels), shape.size()),
            Target::Probabilities(_, t) => {
                let Some(t) = operand(t) else { return Ok(None) };
                (StagedTargets::Probabilities(t), shape.size())
            }
        };
        let weight = self.weight.as_ref().map(|&(_, cycle)| cycle);
        let work = Sendable((x, targets, weight, reduce, grad));
        let result = compute(py, elements, || {
            let (x, targets, weight, reduce, grad) = { work }.0;
            // SAFETY: views of nonempty arrays of matching shapes, for probabilities contiguous; outputs are checked by
            // the callers.
            unsafe {
                if x.native().is_some() {
                    let view = |operand: Operand<T>| SharedView(operand.typed());
                    log_loss_of(shape, view(x), targets, weight, &reduce, grad, view)
                } else {
                    log_loss_of(shape, x, targets, weight, &reduce, grad, |operand| operand)
                }
            }
        });
        match result {
            Ok(_) if single => Ok(Some(value)),
            Ok(loss) => Ok(Some(ops::rounded(loss))),
            Err(error) => Err(label_error(&error, self.x, self.axis, self.ignore)),
        }
    }
}

/// The loss of operands that are stored as `store` says.
///
/// # Safety
/// As [`log_loss_view`] and [`soft_log_loss_view`].
unsafe fn log_loss_of<T: Float, S: Store<T>>(
    shape: Shape,
    x: S,
    targets: StagedTargets<T>,
    weight: Option<Cycle<T>>,
    reduce: &Reduce<T>,
    grad: Option<(Operand<T>, GradOutput<T>)>,
    store: impl Fn(Operand<T>) -> S,
) -> Result<f64, Error> {
    let grad = grad.map(|(grad, incoming)| (store(grad), incoming));
    // SAFETY: the caller's promise.
    unsafe {
        match targets {
            StagedTargets::Classes(labels) => log_loss_view(shape, x, labels, weight, reduce, grad),
            StagedTargets::Probabilities(t) => {
                Ok(soft_log_loss_view(shape, [x, store(t)], weight, reduce, grad))
            }
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
    let (x, half) = plain!(py, float_or_half(probs));
    if axis.is_none() {
        return declined(py);
    }
    let axis = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    by_format!(&x, half, log_loss_typed(py, labels, axis, sample_weight, ignore, how, out))
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
fn log_loss_typed<T: Float>(
    py: Python<'_>,
    (x, format): (&Array<'_>, &'static Format<T>),
    labels: Object<'_, '_>,
    axis: Axis,
    sample_weight: Object<'_, '_>,
    ignore: Option<i64>,
    how: How,
    out: Object<'_, '_>,
) -> Answer {
    let call = plain!(py, Call::<T>::new((x, format), labels, axis, sample_weight, ignore, how));
    let loss = plain!(py, LossOut::new(py, &x.wide(), axis, how, out)?);
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
    let (x, half) = plain!(py, float_or_half(probs));
    if axis.is_none() {
        return declined(py);
    }
    let axis = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    by_format!(
        &x,
        half,
        log_loss_grad_typed(py, labels, axis, sample_weight, ignore, how, grad_output, grad_out)
    )
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
fn log_loss_grad_typed<T: Float>(
    py: Python<'_>,
    (x, format): (&Array<'_>, &'static Format<T>),
    labels: Object<'_, '_>,
    axis: Axis,
    sample_weight: Object<'_, '_>,
    ignore: Option<i64>,
    how: How,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let call = plain!(py, Call::<T>::new((x, format), labels, axis, sample_weight, ignore, how));
    let fresh = grad_out.is_none();
    let grad = if fresh { x.like(py)? } else { grad_out.clone() };
    let out = plain!(py, x.same(&grad).and_then(|out| out.output(&[x])));
    let same_labels =
        matches!(&call.target, Target::Probabilities(_, t) if t.data == out.data && t.strides == out.strides);
    let weight_apart = call.weight.as_ref().is_none_or(|(weight, _)| out.is_apart(weight));
    if !weight_apart || !(same_labels || out.is_apart(call.target.array())) {
        return declined(py);
    }
    let incoming = plain!(py, grad_output_of::<T>(grad_output, &x.wide(), axis, how, &out));
    let loss = plain!(py, LossOut::new(py, &x.wide(), axis, how, &py.None().into_bound(py))?);
    let value = plain!(py, call.run(py, &loss, Some((&out, fresh, incoming)))?);
    let loss = loss.finish(py, value)?;
    pair(py, loss, grad)
}
