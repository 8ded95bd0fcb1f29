//! Evaluation: log-probabilities of labels, the best classes.

use super::half::float_or_half;
use super::options::temperature_of;
use super::{
    Answer, Array, Axis, C_CONTIGUOUS, F_CONTIGUOUS, FLOAT, Object, Target, axis_of, compute, declined,
    ignored, label_error, new_rows, number_of, pair,
};
use crate::float::Float;
use crate::kernels::temperature::Temperature;
use crate::ops::evaluation::{token_logprobs_view, top_k_logprobs_view};
use crate::ops::staged;
use crate::stage::Format;
use numpy::npyffi::{NpyTypes, PY_ARRAY_API, get_type_object, npy_intp};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};
use std::ffi::{c_int, c_long};

const BOOL: c_int = 0;
const UBYTE: c_int = 2;
/// `int64`.
const INDEX: c_int = if size_of::<c_long>() == 8 { 7 } else { 9 };

#[pyfunction]
#[pyo3(signature = (logits, labels, axis, temperature, ignore_index, /))]
pub(super) fn token_logprobs(
    py: Python<'_>,
    logits: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    temperature: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
) -> Answer {
    let (x, half) = plain!(py, float_or_half(logits));
    if axis.is_none() {
        return declined(py);
    }
    let axis = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let temperature = plain!(py, temperature_of(temperature, &x, axis, &py.None().into_bound(py)));
    by_format!(&x, half, token_logprobs_typed(py, labels, axis, temperature, ignore))
}

fn token_logprobs_typed<T: Float>(
    py: Python<'_>,
    (x, format): (&Array<'_>, &'static Format<T>),
    labels: Object<'_, '_>,
    axis: Axis,
    temperature: Temperature,
    ignore: Option<i64>,
) -> Answer {
    let shape = x.shape(axis);
    let from = plain!(py, x.operand(axis, format));
    let Target::<T>::Classes(labels, _) = plain!(py, Target::new(labels, x, axis, ignore)) else {
        return declined(py);
    };
    let logprobs = new_rows(py, x, axis, false, number_of::<T>())?;
    let is_argmax = new_rows(py, x, axis, false, BOOL)?;
    let to = plain!(py, Array::new(&logprobs).and_then(|array| array.row_view::<T>(axis, false)));
    let bytes = Array::new(&is_argmax).map(|array| Array { type_num: UBYTE, ..array });
    let bytes = plain!(py, bytes.and_then(|array| array.row_view::<u8>(axis, false)));
    let result = compute(py, shape.size(), || {
        let (to, bytes, temperature) = (to, bytes, temperature);
        // SAFETY: views of nonempty arrays of matching shapes; the results are new.
        unsafe {
            match from.native() {
                Some(from) => token_logprobs_view(shape, from, labels, temperature, to, bytes),
                None => staged::evaluation::token_logprobs(shape, from, labels, temperature, to, bytes),
            }
        }
    });
    result.map_err(|error| label_error(&error, x, axis, ignore))?;
    if x.dims.len() > 1 {
        return pair(py, logprobs.unbind(), is_argmax);
    }
    // One row: NumPy scalars.
    let index = PyTuple::empty(py);
    pair(py, logprobs.get_item(&index)?.unbind(), is_argmax.get_item(&index)?)
}

/// A new array of the shape of `x` with `k` in the place of its classes, in C order, or in Fortran order as `x`.
fn new_top<'py>(
    py: Python<'py>,
    x: &Array<'_>,
    axis: usize,
    k: usize,
    type_num: c_int,
) -> PyResult<Bound<'py, PyAny>> {
    let mut dims: Vec<npy_intp> = x.dims.to_vec();
    dims[axis] = k as npy_intp;
    let fortran = x.flags & F_CONTIGUOUS != 0 && x.flags & C_CONTIGUOUS == 0;
    // SAFETY: the GIL is held; NumPy copies the dimensions; no data, so the flag chooses the order.
    unsafe {
        let array = PY_ARRAY_API.PyArray_New(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            dims.len() as c_int,
            dims.as_mut_ptr(),
            type_num,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
            c_int::from(fortran),
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, array)
    }
}

#[pyfunction]
#[pyo3(signature = (logits, k, axis, temperature, /))]
pub(super) fn top_k_logprobs(
    py: Python<'_>,
    logits: Object<'_, '_>,
    k: Object<'_, '_>,
    axis: Object<'_, '_>,
    temperature: Object<'_, '_>,
) -> Answer {
    let (x, half) = plain!(py, float_or_half(logits));
    let axis = match axis_of(axis, &x) {
        Some(Axis::At(at)) if !axis.is_none() => at,
        _ => return declined(py),
    };
    let k = plain!(py, k.cast_exact::<PyInt>().ok().and_then(|k| k.extract::<usize>().ok()));
    if k < 1 || k > x.dims[axis] as usize {
        return declined(py);
    }
    let none = py.None().into_bound(py);
    let temperature = plain!(py, temperature_of(temperature, &x, Axis::At(axis), &none));
    by_format!(&x, half, top_k_logprobs_typed(py, k, axis, temperature))
}

fn top_k_logprobs_typed<T: Float>(
    py: Python<'_>,
    (x, format): (&Array<'_>, &'static Format<T>),
    k: usize,
    at: usize,
    temperature: Temperature,
) -> Answer {
    let axis = Axis::At(at);
    let shape = x.shape(axis);
    let from = plain!(py, x.operand(axis, format));
    let (values, indices) = (new_top(py, x, at, k, number_of::<T>())?, new_top(py, x, at, k, INDEX)?);
    let to = plain!(py, Array::new(&values).and_then(|array| array.view::<T>(axis)));
    let classes = plain!(py, Array::new(&indices).and_then(|array| array.view::<i64>(axis)));
    compute(py, shape.size(), || {
        let (to, classes, temperature) = (to, classes, temperature);
        // SAFETY: a view of a nonempty array and views of new ones of this shape with `1 <= k <= len` classes.
        unsafe {
            match from.native() {
                Some(from) => top_k_logprobs_view(shape, k, from, temperature, to, classes),
                None => staged::evaluation::top_k_logprobs(shape, k, from, temperature, to, classes),
            }
        }
    });
    pair(py, values.unbind(), indices)
}
