//! Gradient and diagonal Hessian of cross-entropy for arrays: dtypes, memory order and overlap of two results.
#![expect(unsafe_code, reason = "NumPy's C interface; the kernels take pointers")]

use super::half::float_or_half;
use super::{
    Answer, Array, Axis, DOUBLE, FLOAT, Object, Sendable, Target, compute, declined, is_batch_of,
    label_error, number_of,
};
use crate::float::{Element, Float};
use crate::kernels::grad_hess::{GradHess, Hessian, Results, Weights};
use crate::kernels::labels::{LabelType, Labels};
use crate::ops::{grad_hess_view, staged};
use crate::shape::{Shape, View};
use crate::stage::Format;
use numpy::npyffi::{NPY_ORDER, PY_ARRAY_API};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyString, PyTuple};
use std::ffi::c_int;

/// Floats from here on are not taken for labels.
const MAX_LABEL: f64 = 9e15;

fn hessian_of(object: Object<'_, '_>) -> Option<Hessian> {
    Some(match &*object.cast_exact::<PyString>().ok()?.to_cow().ok()? {
        "exact" => Hessian::Exact,
        "upper" => Hessian::Upper,
        "lightgbm" => Hessian::LightGbm,
        "residual" => Hessian::Residual,
        _ => return None,
    })
}

fn order_of(object: Object<'_, '_>) -> Option<NPY_ORDER> {
    Some(match &*object.cast_exact::<PyString>().ok()?.to_cow().ok()? {
        "K" => NPY_ORDER::NPY_KEEPORDER,
        "C" => NPY_ORDER::NPY_CORDER,
        "F" => NPY_ORDER::NPY_FORTRANORDER,
        _ => return None,
    })
}

fn float_of(object: Object<'_, '_>) -> Option<f64> {
    Some(object.cast_exact::<PyFloat>().ok()?.value())
}

/// None, or a tuple of two.
#[expect(clippy::option_option, reason = "declined, nothing or a pair")]
fn pair_of<'py>(object: Object<'_, 'py>) -> Option<Option<[Bound<'py, PyAny>; 2]>> {
    if object.is_none() {
        return Some(None);
    }
    let pair = object.cast_exact::<PyTuple>().ok().filter(|pair| pair.len() == 2)?;
    Some(Some([pair.get_item(0).ok()?, pair.get_item(1).ok()?]))
}

/// A new array of the shape of `x`.
fn new_like<'py>(
    py: Python<'py>,
    x: &Array<'_>,
    order: NPY_ORDER,
    type_num: c_int,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the GIL is held; the prototype is an ndarray; the descriptor's reference is handed over.
    unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(py, type_num);
        let array = PY_ARRAY_API.PyArray_NewLikeArray(py, x.object, order, descr, 0);
        Bound::from_owned_ptr_or_err(py, array)
    }
}

/// Float labels of the batch shape as integers, in C order, if each of them holds one.
fn integral<L: Float>(view: &View<L>, rows: usize) -> Option<Vec<i64>> {
    let mut labels = Vec::with_capacity(rows);
    for row in 0..rows {
        // SAFETY: the view has an element for every row.
        let label = L::Ops::to_f64(unsafe { view.row(row, 1).read() });
        if label.abs() >= MAX_LABEL || label != label.trunc() {
            return None;
        }
        labels.push(label as i64);
    }
    Some(labels)
}

/// Labels as the kernel reads them, and the memory of those that were floats.
fn labels_of<T: Float>(
    py: Python<'_>,
    object: Object<'_, '_>,
    x: &Array<'_>,
    axis: Axis,
    converted: &mut Vec<i64>,
) -> Option<Labels> {
    let array = Array::new(object)?;
    if array.label_type().is_some() {
        return match Target::<T>::new(object, x, axis, None)? {
            Target::Classes(labels, _) => Some(labels),
            Target::Probabilities(..) => None,
        };
    }
    let shape = x.shape(axis);
    let rows = shape.batch();
    if !matches!(array.type_num, FLOAT | DOUBLE) || !is_batch_of(&array, x, axis, false) {
        return None;
    }
    *converted = if array.type_num == FLOAT {
        let view = array.row_view::<f32>(axis, false)?;
        let view = Sendable(view);
        compute(py, rows, || integral(&{ view }.0, rows))?
    } else {
        let view = array.row_view::<f64>(axis, false)?;
        let view = Sendable(view);
        compute(py, rows, || integral(&{ view }.0, rows))?
    };
    let view = View::per_row(converted.as_mut_ptr().cast::<u8>(), shape);
    Some(Labels { view, kind: LabelType::I64, inner: 1, ignore: None, classes: shape.len })
}

/// None, or an array of the batch shape.
fn weights_of<'a>(object: Object<'a, '_>, x: &Array<'_>, axis: Axis) -> Option<(Weights, Option<Array<'a>>)> {
    if object.is_none() {
        return Some((Weights::One, None));
    }
    let array = Array::new(object)?;
    if !is_batch_of(&array, x, axis, false) {
        return None;
    }
    let weights = match array.type_num {
        FLOAT => Weights::Single(array.row_view(axis, false)?),
        DOUBLE => Weights::Double(array.row_view(axis, false)?),
        _ => return None,
    };
    Some((weights, Some(array)))
}

#[pyfunction]
#[pyo3(signature = (scores, labels, sample_weight, hessian, hess_scale, hess_floor, single, order, out, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub(super) fn cross_entropy_grad_hess(
    py: Python<'_>,
    scores: Object<'_, '_>,
    labels: Object<'_, '_>,
    sample_weight: Object<'_, '_>,
    hessian: Object<'_, '_>,
    hess_scale: Object<'_, '_>,
    hess_floor: Object<'_, '_>,
    single: Object<'_, '_>,
    order: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let (x, half) = plain!(py, float_or_half(scores));
    let options = Options {
        weight: sample_weight,
        hessian: plain!(py, hessian_of(hessian)),
        scale: plain!(py, float_of(hess_scale).filter(|scale| scale.is_finite())),
        floor: plain!(py, float_of(hess_floor).filter(|floor| !floor.is_nan())),
        type_num: if plain!(py, single.cast_exact::<PyBool>().ok()).is_true() { FLOAT } else { DOUBLE },
        order: plain!(py, order_of(order)),
        out: plain!(py, pair_of(out)),
    };
    // A wider result has the scores widened first.
    if x.dims.is_empty() || x.type_num != DOUBLE && options.type_num == DOUBLE {
        return declined(py);
    }
    by_format!(&x, half, typed(py, labels, &options))
}

struct Options<'a, 'py> {
    weight: Object<'a, 'py>,
    hessian: Hessian,
    scale: f64,
    floor: f64,
    type_num: c_int,
    order: NPY_ORDER,
    /// The caller's arrays, if any.
    out: Option<[Bound<'py, PyAny>; 2]>,
}

fn typed<T: Float>(
    py: Python<'_>,
    (x, format): (&Array<'_>, &'static Format<T>),
    labels: Object<'_, '_>,
    options: &Options<'_, '_>,
) -> Answer {
    let axis = Axis::At(x.dims.len() - 1);
    let shape: Shape = x.shape(axis);
    let operand = plain!(py, x.operand(axis, format));
    let native = operand.native();
    let mut converted = Vec::new();
    let label_view = plain!(py, labels_of::<T>(py, labels, x, axis, &mut converted));
    let (weights, weight_array) = plain!(py, weights_of(options.weight, x, axis));
    let fresh = options.out.is_none();
    let new = || new_like(py, x, options.order, options.type_num);
    let results = match &options.out {
        Some(out) => out.clone(),
        None => [new()?, new()?],
    };
    let [grad, hess] = [plain!(py, Array::new(&results[0])), plain!(py, Array::new(&results[1]))];
    let labels_array = plain!(py, Array::new(labels));
    for out in [&grad, &hess] {
        let apart = out.is_apart(&labels_array)
            && weight_array.as_ref().is_none_or(|weight| out.is_apart(weight))
            && (native.is_some() || out.is_apart(x));
        if !apart || out.type_num != options.type_num || out.dims != x.dims || out.output(&[x]).is_none() {
            return declined(py);
        }
    }
    if !grad.is_apart(&hess) {
        return declined(py);
    }
    let results_at = if options.type_num == number_of::<T>() {
        let to = |out: &Array<'_>| out.view::<T>(axis).map(|view| View { fresh, ..view });
        Results::Same([plain!(py, to(&grad)), plain!(py, to(&hess))])
    } else {
        let to = |out: &Array<'_>| out.view::<f32>(axis).map(|view| View { fresh, ..view });
        Results::Narrow([plain!(py, to(&grad)), plain!(py, to(&hess))])
    };
    let call = GradHess {
        shape,
        // (Staged scores take its place.)
        x: native.unwrap_or(View::contiguous(std::ptr::null_mut(), shape)),
        labels: label_view,
        weights,
        hessian: options.hessian,
        factor: options.hessian.factor::<T::Ops>(shape.len, options.scale),
        floor: options.floor,
        results: results_at,
        stream: false,
    };
    // SAFETY: views of nonempty arrays of matching shapes along the last axis; the results are checked or new.
    let result = compute(py, shape.size(), || unsafe {
        match native {
            Some(_) => grad_hess_view(call),
            None => staged::grad_hess::grad_hess(operand, call),
        }
    });
    result.map_err(|error| label_error(&error, x, axis, None))?;
    Ok(PyTuple::new(py, results)?.into_any().unbind())
}
