//! The operations on plain arrays of float16 and bfloat16: the callers fall to these when an array is neither float32
//! nor float64. What is not plain here either is declined.

use super::masked::mask_of;
use super::options::{is_apart, options_of};
use super::{
    Answer, Array, Axis, C_CONTIGUOUS, DOUBLE, FLOAT, HALF, How, LossOut, Object, Sendable, Target, USER,
    axis_both, axis_of, compute, declined, flag, grad_output_of, ignored, is_batch_of, label_error, new_rows,
    pair, reduction_of, scalar, size, weights_of,
};
use crate::float::Float;
use crate::ops::staged::{self, Factors, Squared, StagedTargets};
use crate::ops::{self, GradOutput, Options, Reduce};
use crate::shape::{Shape, View};
use crate::stage::{Format, Operand};
use crate::sums::Reduction;
use numpy::npyffi::PY_ARRAY_API;
use pyo3::prelude::*;
use pyo3::types::PyFloat;
use pyo3::{ffi, intern};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

/// The number that NumPy has given to the type bfloat16, once an array of it was seen.
static BFLOAT16: AtomicI32 = AtomicI32::new(-1);

/// A nonempty array of float16 or bfloat16, and its format.
#[inline]
pub(super) fn half<'a>(object: Object<'a, '_>) -> Option<(Array<'a>, &'static Format<f32>)> {
    let array = Array::new(object).filter(|array| !array.dims.contains(&0))?;
    let format = match array.type_num {
        HALF => Format::F16,
        number if number == BFLOAT16.load(Ordering::Relaxed) => Format::BF16,
        number if number >= USER && is_bfloat16(object).unwrap_or(false) => {
            BFLOAT16.store(number, Ordering::Relaxed);
            Format::BF16
        }
        _ => return None,
    };
    Some((array, format))
}

/// A nonempty array of float32 or float64, or of 16 bits with its format.
pub(super) fn float_or_half<'a>(object: Object<'a, '_>) -> Option<(Array<'a>, Option<&'static Format<f32>>)> {
    match Array::float(object) {
        Some(array) => Some((array, None)),
        None => half(object).map(|(array, format)| (array, Some(format))),
    }
}

/// Whether the array's type is bfloat16. NumPy has none of its own; whoever registers one chooses its number.
#[cold]
fn is_bfloat16(array: Object<'_, '_>) -> PyResult<bool> {
    let py = array.py();
    let dtype = array.getattr(intern!(py, "dtype"))?;
    Ok(dtype.getattr(intern!(py, "kind"))?.extract::<String>()? == "V"
        && dtype.getattr(intern!(py, "name"))?.extract::<String>()? == "bfloat16"
        && dtype.getattr(intern!(py, "itemsize"))?.extract::<usize>()? == 2)
}

impl Array<'_> {
    /// The array as an operand, unless its dimensions do not fold.
    pub(super) fn operand<T: Float>(&self, axis: Axis, format: &'static Format<T>) -> Option<Operand<T>> {
        Some(Operand { view: self.view(axis)?, format })
    }

    /// An array with one element per row as an operand.
    pub(super) fn row_operand<T: Float>(
        &self,
        axis: Axis,
        keepdims: bool,
        format: &'static Format<T>,
    ) -> Option<Operand<T>> {
        Some(Operand { view: self.row_view(axis, keepdims)?, format })
    }

    /// A C-contiguous array as an operand.
    pub(super) fn flat<T: Float>(&self, format: &'static Format<T>) -> Operand<T> {
        Operand::flat(self.data, format)
    }

    /// The same array as if 16-bit elements were float32, for what the losses of its rows are.
    pub(super) fn wide(&self) -> Self {
        Array { type_num: if self.type_num == DOUBLE { DOUBLE } else { FLOAT }, ..*self }
    }
}

/// A scalar of a type of 16 bits.
pub(super) fn scalar_of<T>(py: Python<'_>, type_num: c_int, mut value: T) -> Answer {
    // SAFETY: the GIL is held; `value` is of the descriptor's type; the descriptor is released.
    unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(py, type_num);
        let data = std::ptr::from_mut(&mut value).cast::<c_void>();
        let object = PY_ARRAY_API.PyArray_Scalar(py, data, descr, std::ptr::null_mut());
        ffi::Py_DECREF(descr.cast());
        Ok(Bound::from_owned_ptr_or_err(py, object)?.unbind())
    }
}

type Unary<T> = unsafe fn(Shape, Operand<T>, Operand<T>, Option<View<u8>>);

/// An operation of one array operand, perhaps a mask, and a result per element.
pub(super) fn unary_typed<T: Float>(
    py: Python<'_>,
    (x, format): (&Array<'_>, &'static Format<T>),
    axis: Axis,
    out: Object<'_, '_>,
    mask: Option<&Array<'_>>,
    work: Unary<T>,
) -> Answer {
    let shape = x.shape(axis);
    let from = plain!(py, x.operand(axis, format));
    let mask_view = match mask {
        Some(mask) => Some(plain!(py, mask.view::<u8>(axis))),
        None => None,
    };
    let fresh = out.is_none();
    let out = output!(py, x, out, &[x]);
    let array = plain!(py, Array::new(&out).filter(|out| mask.is_none_or(|mask| mask.is_apart(out))));
    let mut to = plain!(py, array.operand(axis, format));
    to.view.fresh = fresh;
    // SAFETY: views of nonempty arrays of this shape and dtype, the output checked by `output`.
    compute(py, shape.size(), || unsafe { work(shape, from, to, mask_view) });
    Ok(out.unbind())
}

pub(super) fn unary(
    py: Python<'_>,
    x: Object<'_, '_>,
    axis: Object<'_, '_>,
    out: Object<'_, '_>,
    work: Unary<f32>,
) -> Answer {
    let (x, format) = plain!(py, half(x));
    let axis = plain!(py, axis_of(axis, &x));
    unary_typed(py, (&x, format), axis, out, None, work)
}

pub(super) fn binary(
    py: Python<'_>,
    grad: Object<'_, '_>,
    y: Object<'_, '_>,
    axis: Object<'_, '_>,
    out: Object<'_, '_>,
    work: unsafe fn(Shape, Operand<f32>, Operand<f32>, Operand<f32>),
) -> Answer {
    let (y, format) = plain!(py, half(y));
    let grad = plain!(py, y.same(grad));
    let axis = plain!(py, axis_both(axis, &y, &grad));
    let shape = y.shape(axis);
    let (from_grad, from_y) = (plain!(py, grad.operand(axis, format)), plain!(py, y.operand(axis, format)));
    let fresh = out.is_none();
    let out = output!(py, y, out, &[&grad, &y]);
    let mut to = plain!(py, Array::new(&out).and_then(|out| out.operand(axis, format)));
    to.view.fresh = fresh;
    // SAFETY: as in `unary_typed`.
    compute(py, shape.size(), || unsafe { work(shape, from_grad, from_y, to) });
    Ok(out.unbind())
}

/// logsumexp of elements of which a mask may leave some out.
pub(super) fn logsumexp_typed<T: Float, I: Copy + Default + Send>(
    py: Python<'_>,
    (x, format): (&Array<'_>, &'static Format<T>),
    axis: Axis,
    keepdims: bool,
    out: Object<'_, '_>,
    mask: Option<&Array<'_>>,
) -> Answer {
    let shape = x.shape(axis);
    let from = plain!(py, x.operand(axis, format));
    let mask_view = match mask {
        Some(mask) => Some(plain!(py, mask.view::<u8>(axis))),
        None => None,
    };
    let scalar_result = !keepdims && (x.dims.len() == 1 || matches!(axis, Axis::All));
    if scalar_result && out.is_none() {
        let mut value = I::default();
        let to = Operand { view: View::per_row((&raw mut value).cast(), shape), format };
        // SAFETY: views of nonempty arrays; there is one row, hence one result, of the format's size.
        compute(py, shape.size(), || unsafe { staged::logsumexp(shape, from, to, mask_view) });
        return scalar_of(py, x.type_num, value);
    }
    let out = if out.is_none() {
        new_rows(py, x, axis, keepdims, x.type_num)?
    } else {
        let fits = |out: &Array<'_>| {
            out.type_num == x.type_num
                && is_batch_of(out, x, axis, keepdims)
                && out.is_apart(x)
                && mask.is_none_or(|mask| mask.is_apart(out))
        };
        plain!(py, Array::new(out).filter(fits).and_then(|out| out.output(&[])));
        out.clone()
    };
    let to = plain!(py, Array::new(&out).and_then(|out| out.row_operand(axis, keepdims, format)));
    // SAFETY: views of nonempty arrays; the output has an element per row, apart from the others.
    compute(py, shape.size(), || unsafe { staged::logsumexp(shape, from, to, mask_view) });
    Ok(out.unbind())
}

pub(super) fn logsumexp(
    py: Python<'_>,
    a: Object<'_, '_>,
    axis: Object<'_, '_>,
    keepdims: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let (x, format) = plain!(py, half(a));
    let axis = plain!(py, axis_of(axis, &x));
    let keepdims = plain!(py, flag(keepdims));
    logsumexp_typed::<f32, u16>(py, (&x, format), axis, keepdims, out, None)
}

pub(super) fn logsumexp_backward(
    py: Python<'_>,
    grad: Object<'_, '_>,
    a: Object<'_, '_>,
    lse: Object<'_, '_>,
    axis: Object<'_, '_>,
    keepdims: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let (x, format) = plain!(py, half(a));
    let axis = plain!(py, axis_of(axis, &x));
    let keepdims = plain!(py, flag(keepdims));
    let fits = |array: &Array<'_>| array.type_num == x.type_num && is_batch_of(array, &x, axis, keepdims);
    let grad = plain!(py, Array::new(grad).filter(fits));
    let lse = plain!(py, Array::new(lse).filter(fits));
    let shape = x.shape(axis);
    let from = plain!(py, x.operand(axis, format));
    let grad_rows = plain!(py, grad.row_operand(axis, keepdims, format));
    let lse_rows = plain!(py, lse.row_operand(axis, keepdims, format));
    let fresh = out.is_none();
    let out = output!(py, x, out, &[&x]);
    let array = plain!(py, Array::new(&out).filter(|out| out.is_apart(&grad) && out.is_apart(&lse)));
    let mut to = plain!(py, array.operand(axis, format));
    to.view.fresh = fresh;
    // SAFETY: views of nonempty arrays of matching shapes; the output is checked.
    compute(py, shape.size(), || unsafe {
        staged::logsumexp_backward(shape, grad_rows, from, lse_rows, to);
    });
    Ok(out.unbind())
}

/// What the two functions of cross-entropy have in common.
struct Loss<'a, T: Float> {
    x: Array<'a>,
    format: &'static Format<T>,
    axis: Axis,
    ignore: Option<i64>,
    how: How,
    target: Target<'a, T>,
    options: Options<T>,
    mask: Option<Array<'a>>,
}

/// The arguments of both functions: `logits, labels, axis, ignore_index, reduction` and the options, if any.
pub(super) struct Arguments<'a, 'py> {
    pub(super) labels: Object<'a, 'py>,
    pub(super) axis: Object<'a, 'py>,
    pub(super) ignore_index: Object<'a, 'py>,
    pub(super) reduction: Object<'a, 'py>,
    pub(super) options: Option<Object<'a, 'py>>,
}

impl<'a, T: Float> Loss<'a, T> {
    /// Declines what does not fit; `out` is the caller's output, or None.
    fn new<'py>(
        (x, format): (Array<'a>, &'static Format<T>),
        arguments: &Arguments<'a, 'py>,
        mask: Option<Object<'a, 'py>>,
        out: Object<'_, '_>,
    ) -> Option<Self> {
        let &Arguments { labels, axis, ignore_index, reduction, options } = arguments;
        let axis = if axis.is_none() { None } else { axis_of(axis, &x) }?;
        let (ignore, how) = (ignored(ignore_index)?, reduction_of(reduction)?);
        let target = Target::new(labels, &x, axis, ignore)?;
        let options = match options {
            None => Options::NONE,
            Some(options) => options_of(options, &x.wide(), axis, out)?,
        };
        let mask = match mask {
            None => None,
            Some(mask) => Some(mask_of(mask, &x).filter(|mask| is_apart(mask, out))?),
        };
        Some(Loss { x, format, axis, ignore, how, target, options, mask })
    }

    /// Computes the loss into `loss` (rows) or returns it, and the gradient if there is one.
    fn compute(
        &self,
        py: Python<'_>,
        loss: &LossOut<'_>,
        grad: Option<(&Array<'_>, bool, GradOutput<T>)>,
    ) -> PyResult<Option<T>> {
        let Loss { x, format, axis, ignore, how, target, options, mask } = self;
        let (axis, shape) = (*axis, x.shape(*axis));
        let Some(from) = x.operand(axis, format) else { return Ok(None) };
        let mut value = T::default();
        let (reduce, single) = match (how, loss) {
            (How::One(reduction), _) => (Reduce::To(*reduction), false),
            (How::Each, LossOut::Rows(rows)) => {
                let Some(rows) = Array::new(rows) else { return Ok(None) };
                let apart = rows.is_apart(target.array())
                    && mask.is_none_or(|mask| rows.is_apart(&mask))
                    && grad.as_ref().is_none_or(|(grad, ..)| rows.is_apart(grad));
                let Some(view) = rows.row_view::<T>(axis, false).filter(|_| apart) else {
                    return Ok(None);
                };
                (Reduce::Rows(view), false)
            }
            (How::Each, _) => (Reduce::Rows(View::per_row(&raw mut value, shape)), true),
        };
        let grad = match grad {
            None => None,
            Some((array, fresh, incoming)) => {
                let Some(mut to) = array.operand(axis, format) else { return Ok(None) };
                to.view.fresh = fresh;
                Some((to, incoming))
            }
        };
        let targets = match target {
            Target::Classes(labels, _) => StagedTargets::Classes(*labels),
            Target::Probabilities(_, array) => {
                let Some(operand) = array.operand(axis, format) else { return Ok(None) };
                StagedTargets::Probabilities(operand)
            }
        };
        let mask = match mask {
            None => None,
            Some(mask) => {
                let Some(view) = mask.view::<u8>(axis) else { return Ok(None) };
                Some(view)
            }
        };
        let work = Sendable((targets, *options, mask, reduce, grad));
        let result = compute(py, shape.size(), || {
            let (targets, options, mask, reduce, grad) = { work }.0;
            // SAFETY: views of nonempty arrays of matching shapes; outputs are checked by the callers.
            unsafe { staged::cross_entropy(shape, from, targets, options, mask, &reduce, grad) }
        });
        match result {
            Ok(_) if single => Ok(Some(value)),
            Ok(loss) => Ok(Some(ops::rounded(loss))),
            Err(error) => Err(label_error(&error, x, axis, *ignore)),
        }
    }
}

pub(super) fn cross_entropy_typed<'a, T: Float>(
    py: Python<'_>,
    x: (Array<'a>, &'static Format<T>),
    arguments: &Arguments<'a, '_>,
    mask: Option<Object<'a, '_>>,
    out: Object<'_, '_>,
) -> Answer {
    let loss = plain!(py, Loss::new(x, arguments, mask, out));
    let to = plain!(py, LossOut::new(py, &loss.x.wide(), loss.axis, loss.how, out)?);
    let value = plain!(py, loss.compute(py, &to, None)?);
    to.finish(py, value)
}

pub(super) fn cross_entropy_grad_typed<'a, T: Float>(
    py: Python<'_>,
    x: (Array<'a>, &'static Format<T>),
    arguments: &Arguments<'a, '_>,
    mask: Option<Object<'a, '_>>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let loss = plain!(py, Loss::new(x, arguments, mask, grad_out));
    let (x, wide) = (&loss.x, loss.x.wide());
    let fresh = grad_out.is_none();
    let grad = output!(py, x, grad_out, &[x]);
    let out = plain!(py, Array::new(&grad));
    let same_labels =
        matches!(&loss.target, Target::Probabilities(_, t) if t.data == out.data && t.strides == out.strides);
    if !same_labels && !out.is_apart(loss.target.array()) {
        return declined(py);
    }
    let incoming = plain!(py, grad_output_of::<T>(grad_output, &wide, loss.axis, loss.how, &out));
    let to = plain!(py, LossOut::new(py, &wide, loss.axis, loss.how, &py.None().into_bound(py))?);
    let value = plain!(py, loss.compute(py, &to, Some((&out, fresh, incoming)))?);
    let value = to.finish(py, value)?;
    pair(py, value, grad)
}

pub(super) fn cross_entropy<'a, 'py>(
    py: Python<'_>,
    logits: Object<'a, 'py>,
    arguments: &Arguments<'a, 'py>,
    mask: Option<Object<'a, 'py>>,
    out: Object<'_, '_>,
) -> Answer {
    cross_entropy_typed::<f32>(py, plain!(py, half(logits)), arguments, mask, out)
}

pub(super) fn cross_entropy_value_and_grad<'a, 'py>(
    py: Python<'_>,
    logits: Object<'a, 'py>,
    arguments: &Arguments<'a, 'py>,
    mask: Option<Object<'a, 'py>>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    cross_entropy_grad_typed::<f32>(py, plain!(py, half(logits)), arguments, mask, grad_output, grad_out)
}

pub(super) fn classification_error(
    py: Python<'_>,
    scores: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    sample_weight: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
    reduction: Object<'_, '_>,
) -> Answer {
    let arguments = Arguments { labels, axis, ignore_index, reduction, options: None };
    let none = py.None().into_bound(py);
    let Loss { x, format, axis, ignore, how, target, .. } =
        plain!(py, Loss::new(plain!(py, half(scores)), &arguments, None, &none));
    let Target::Classes(labels, _) = target else { return declined(py) };
    let (shape, from) = (x.shape(axis), plain!(py, x.operand(axis, format)));
    let weights = plain!(py, weights_of(sample_weight, &x, axis));
    let (reduction, rows) = match how {
        How::One(reduction) => (reduction, None),
        How::Each if x.dims.len() == 1 => (Reduction::Sum, None),
        How::Each => (Reduction::Sum, Some(new_rows(py, &x, axis, false, DOUBLE)?)),
    };
    let view = match &rows {
        Some(rows) => Some(plain!(py, Array::new(rows).and_then(|rows| rows.row_view::<f64>(axis, false)))),
        None => None,
    };
    // SAFETY: views of arrays of matching shapes; the output is new.
    let result = compute(py, shape.size(), || unsafe {
        staged::classification_error(shape, from, labels, weights, reduction, view)
    });
    let error = result.map_err(|error| label_error(&error, &x, axis, ignore))?;
    match rows {
        Some(rows) => Ok(rows.unbind()),
        None => scalar(py, error),
    }
}

/// Two C-contiguous arrays of one shape and dtype of 16 bits.
pub(super) fn flat_pair<'a>(
    a: Object<'a, '_>,
    b: Object<'a, '_>,
) -> Option<(Array<'a>, Array<'a>, &'static Format<f32>)> {
    let (a, format) = half(a)?;
    let b = a.same(b)?;
    (a.flags & b.flags & C_CONTIGUOUS != 0).then_some((a, b, format))
}

pub(super) fn mse_loss(
    py: Python<'_>,
    pred: Object<'_, '_>,
    target: Object<'_, '_>,
    reduction: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let (p, t, format) = plain!(py, flat_pair(pred, target));
    let how = plain!(py, reduction_of(reduction));
    let (n, a, b) = (size(&p), p.flat(format), t.flat(format));
    let wide = p.wide();
    let How::One(reduction) = how else {
        let out = if out.is_none() {
            if p.dims.is_empty() {
                return declined(py);
            }
            losses(py, &p)?
        } else {
            plain!(py, wide.same(out).and_then(|out| out.output(&[&wide, &t.wide()])));
            out.clone()
        };
        let to = plain!(py, Array::new(&out).filter(|out| out.flags & C_CONTIGUOUS != 0));
        if !to.is_apart(&p) || !to.is_apart(&t) {
            return declined(py);
        }
        let squared = Sendable(Squared { total: false, each: Some(to.data.cast()), grad: None });
        // SAFETY: contiguous arrays of `n` elements; the output is checked.
        compute(py, n, || unsafe { staged::squared_error_all(n, a, b, &{ squared }.0) });
        return Ok(out.unbind());
    };
    let loss = if out.is_none() {
        LossOut::Scalar
    } else {
        let fits = |out: &Array<'_>| {
            out.type_num == FLOAT
                && out.dims.is_empty()
                && out.is_writable()
                && out.is_apart(&p)
                && out.is_apart(&t)
        };
        plain!(py, Array::new(out).filter(fits));
        LossOut::Zero(out.clone())
    };
    let squared = Squared { total: true, each: None, grad: None };
    // SAFETY: contiguous arrays of `n` elements.
    let sum = compute(py, n, || unsafe { staged::squared_error_all(n, a, b, &squared) });
    loss.finish::<f32>(py, ops::rounded(sum.reduced(reduction, n)))
}

/// A new float32 array of the shape of `x`, in C order.
pub(super) fn losses<'py>(py: Python<'py>, x: &Array<'_>) -> PyResult<Bound<'py, PyAny>> {
    // One row more, which the class axis takes away.
    let dims: Vec<_> = x.dims.iter().copied().chain([1]).collect();
    let like = Array { dims: &dims, flags: C_CONTIGUOUS, ..*x };
    new_rows(py, &like, Axis::At(x.dims.len()), false, FLOAT)
}

pub(super) fn mse_loss_value_and_grad(
    py: Python<'_>,
    pred: Object<'_, '_>,
    target: Object<'_, '_>,
    reduction: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let (p, t, format) = plain!(py, flat_pair(pred, target));
    let how = plain!(py, reduction_of(reduction));
    if p.dims.is_empty() {
        return declined(py);
    }
    let (n, a, b) = (size(&p), p.flat(format), t.flat(format));
    let fresh = grad_out.is_none();
    let grad = output!(py, p, grad_out, &[&p, &t]);
    let out = plain!(py, Array::new(&grad).filter(|out| out.flags & C_CONTIGUOUS != 0));
    let factors = if grad_output.is_none() {
        Factors::One(1.0)
    } else if let Ok(number) = grad_output.cast_exact::<PyFloat>() {
        Factors::One(number.value())
    } else {
        let fits = |g: &Array<'_>| how == How::Each && g.flags & C_CONTIGUOUS != 0 && g.is_apart(&out);
        let g = plain!(py, p.wide().same(grad_output).filter(fits));
        Factors::Each(g.data.cast::<f32>().cast_const())
    };
    let factors = match (factors, how) {
        (Factors::One(g), How::One(Reduction::Mean)) => Factors::One(g / n as f64),
        (factors, _) => factors,
    };
    let mut to = out.flat(format);
    to.view.fresh = fresh;
    let rows = if how == How::Each { Some(losses(py, &p)?) } else { None };
    let each = match &rows {
        Some(rows) => Some(plain!(py, Array::new(rows)).data.cast::<f32>()),
        None => None,
    };
    let squared = Sendable(Squared { total: rows.is_none(), each, grad: Some((factors, to)) });
    // SAFETY: contiguous arrays of `n` elements; the outputs are checked or new.
    let sum = compute(py, n, || unsafe { staged::squared_error_all(n, a, b, &{ squared }.0) });
    let loss = match (how, rows) {
        (How::One(reduction), _) => scalar::<f32>(py, ops::rounded(sum.reduced(reduction, n)))?,
        (How::Each, Some(rows)) => rows.unbind(),
        (How::Each, None) => unreachable!("one loss for each element"),
    };
    pair(py, loss, grad)
}
