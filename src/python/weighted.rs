//! Logsumexp with weights: operands of one dtype and shape, whose strides may be 0.

use super::half::float_or_half;
use super::masked::mask_of;
use super::{
    Answer, Array, Axis, FLOAT, Object, axis_of, compute, declined, flag, is_batch_of, new_rows, number_of,
    pair,
};
use crate::float::Float;
use crate::ops::staged::weighted;
use crate::stage::Format;
use pyo3::prelude::*;

/// The logarithm of the weighted sums, and with `return_sign` their signs: new arrays, of float32 for 16-bit operands.
#[pyfunction]
#[pyo3(signature = (a, b, axis, return_sign, mask, /))]
pub(super) fn logsumexp_weighted(
    py: Python<'_>,
    a: Object<'_, '_>,
    b: Object<'_, '_>,
    axis: Object<'_, '_>,
    return_sign: Object<'_, '_>,
    mask: Object<'_, '_>,
) -> Answer {
    let (a, half) = plain!(py, float_or_half(a));
    let b = plain!(py, a.same(b));
    let axis = plain!(py, axis_of(axis, &a));
    let return_sign = plain!(py, flag(return_sign));
    let mask = if mask.is_none() { None } else { Some(plain!(py, mask_of(mask, &a))) };
    by_format!(&a, half, logsumexp_typed(py, &b, axis, return_sign, mask.as_ref()))
}

fn logsumexp_typed<T: Float>(
    py: Python<'_>,
    (a, format): (&Array<'_>, &'static Format<T>),
    b: &Array<'_>,
    axis: Axis,
    return_sign: bool,
    mask: Option<&Array<'_>>,
) -> Answer {
    let shape = a.shape(axis);
    let (from, weights) = (plain!(py, a.operand(axis, format)), plain!(py, b.operand(axis, format)));
    let mask = match mask {
        Some(mask) => Some(plain!(py, mask.view::<u8>(axis))),
        None => None,
    };
    let rows =
        |object: &Bound<'_, PyAny>| Array::new(object).and_then(|rows| rows.row_view::<T>(axis, false));
    let log = new_rows(py, a, axis, false, number_of::<T>())?;
    let to = plain!(py, rows(&log));
    let sign = if return_sign { Some(new_rows(py, a, axis, false, number_of::<T>())?) } else { None };
    let signs = match &sign {
        Some(sign) => Some(plain!(py, rows(sign))),
        None => None,
    };
    // SAFETY: views of nonempty arrays of one shape; the results are new, with an element per row.
    compute(py, shape.size(), || unsafe { weighted::logsumexp(shape, from, weights, to, signs, mask) });
    match sign {
        Some(sign) => pair(py, log.unbind(), sign),
        None => Ok(log.unbind()),
    }
}

/// The gradient; all operands of one dtype, `b` of the shape of `a`.
#[pyfunction]
#[pyo3(signature = (grad, a, lse, axis, b, keepdims, out, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub(super) fn logsumexp_backward_weighted(
    py: Python<'_>,
    grad: Object<'_, '_>,
    a: Object<'_, '_>,
    lse: Object<'_, '_>,
    axis: Object<'_, '_>,
    b: Object<'_, '_>,
    keepdims: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let (a, half) = plain!(py, float_or_half(a));
    let b = plain!(py, a.same(b));
    let axis = plain!(py, axis_of(axis, &a));
    let keepdims = plain!(py, flag(keepdims));
    let fits = |array: &Array<'_>| array.type_num == a.type_num && is_batch_of(array, &a, axis, keepdims);
    let grad = plain!(py, Array::new(grad).filter(fits));
    let lse = plain!(py, Array::new(lse).filter(fits));
    by_format!(&a, half, backward_typed(py, [&grad, &lse], &b, axis, keepdims, out))
}

fn backward_typed<T: Float>(
    py: Python<'_>,
    (a, format): (&Array<'_>, &'static Format<T>),
    [grad, lse]: [&Array<'_>; 2],
    b: &Array<'_>,
    axis: Axis,
    keepdims: bool,
    out: Object<'_, '_>,
) -> Answer {
    let shape = a.shape(axis);
    let (from, weights) = (plain!(py, a.operand(axis, format)), plain!(py, b.operand(axis, format)));
    let grad_rows = plain!(py, grad.row_operand(axis, keepdims, format));
    let lse_rows = plain!(py, lse.row_operand(axis, keepdims, format));
    let fresh = out.is_none();
    let out = output!(py, a, out, &[a, b]);
    let apart = |out: &Array<'_>| out.is_apart(grad) && out.is_apart(lse);
    let mut to = plain!(py, Array::new(&out).filter(apart).and_then(|out| out.operand(axis, format)));
    to.view.fresh = fresh;
    // SAFETY: views of nonempty arrays of matching shapes; the output is checked.
    compute(py, shape.size(), || unsafe {
        weighted::logsumexp_backward(shape, [grad_rows, lse_rows], from, weights, to);
    });
    Ok(out.unbind())
}
