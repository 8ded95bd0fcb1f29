//! Operations on the elements that a mask leaves: `where` is a bool array of the operand's own shape, whose strides may
//! be 0. Elements under the mask are never looked at; a row without any other has the result of no elements.

use super::half::{half, logsumexp_typed};
use super::{Answer, Array, BOOL, FLOAT, Object, axis_of, declined, flag};
use crate::stage::Format;
use pyo3::prelude::*;

/// A mask for an array.
pub(super) fn mask_of<'a>(object: Object<'a, '_>, x: &Array<'_>) -> Option<Array<'a>> {
    Array::new(object).filter(|mask| mask.type_num == BOOL && mask.dims == x.dims)
}

/// logsumexp over the elements where `mask` is true; -inf for rows without any.
#[pyfunction]
#[pyo3(signature = (a, axis, keepdims, out, mask, /))]
pub(super) fn logsumexp_masked(
    py: Python<'_>,
    a: Object<'_, '_>,
    axis: Object<'_, '_>,
    keepdims: Object<'_, '_>,
    out: Object<'_, '_>,
    mask: Object<'_, '_>,
) -> Answer {
    let float = Array::float(a);
    let x = plain!(py, float.or_else(|| half(a).map(|(x, _)| x)));
    let (axis, mask) = (plain!(py, axis_of(axis, &x)), plain!(py, mask_of(mask, &x)));
    let (keepdims, mask) = (plain!(py, flag(keepdims)), Some(&mask));
    match float {
        Some(x) if x.type_num == FLOAT => {
            logsumexp_typed::<f32, f32>(py, (&x, Format::NATIVE), axis, keepdims, out, mask)
        }
        Some(x) => logsumexp_typed::<f64, f64>(py, (&x, Format::NATIVE), axis, keepdims, out, mask),
        None => {
            let (x, format) = plain!(py, half(a));
            logsumexp_typed::<f32, u16>(py, (&x, format), axis, keepdims, out, mask)
        }
    }
}
