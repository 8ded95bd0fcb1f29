//! The operations with what a plain call does not have: temperatures, weights, smoothing. Numbers per row come as float64
//! arrays of the batch shape, class weights as an array of the logits' dtype.
#![expect(unsafe_code, reason = "the kernels take pointers")]

use super::half::{self, Arguments, float_or_half, half};
use super::masked::mask_of;
use super::{
    Answer, Array, Axis, DOUBLE, FLOAT, Object, Options, Sendable, View, axis_both, axis_of, compute,
    cross_entropy_grad_typed, cross_entropy_typed, declined, flag, ignored, is_batch_of, new_rows,
    reduction_of, scalar,
};
use crate::float::Float;
use crate::kernels::temperature::Temperature;
use crate::kernels::weights::{ClassWeight, SampleWeight};
use crate::ops::{self, Normal, staged};
use crate::stage::Format;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyTuple};

/// Whether an array is apart from an output, if there is one.
pub(super) fn is_apart(array: &Array<'_>, out: Object<'_, '_>) -> bool {
    out.is_none() || Array::new(out).is_some_and(|out| out.is_apart(array))
}

/// A float64 array with a number for each row of `x`.
fn row_numbers(object: Object<'_, '_>, x: &Array<'_>, axis: Axis, out: Object<'_, '_>) -> Option<View<f64>> {
    let array = Array::new(object)?;
    let fits = array.type_num == DOUBLE && is_batch_of(&array, x, axis, false) && is_apart(&array, out);
    fits.then(|| array.row_view(axis, false))?
}

/// Temperatures that are taken: their reciprocals keep all digits in every type.
const TEMPERATURES: std::ops::RangeInclusive<f64> = 1e-30..=1e30;

/// None, a number, or a number for each row, in [`TEMPERATURES`].
pub(super) fn temperature_of(
    object: Object<'_, '_>,
    x: &Array<'_>,
    axis: Axis,
    out: Object<'_, '_>,
) -> Option<Temperature> {
    if object.is_none() {
        return Some(Temperature::One);
    }
    let fits = |t: f64| TEMPERATURES.contains(&t);
    if let Ok(number) = object.cast_exact::<PyFloat>() {
        let number = number.value();
        return fits(number).then_some(if number == 1.0 {
            Temperature::One
        } else {
            Temperature::All(number)
        });
    }
    let (view, shape) = (row_numbers(object, x, axis, out)?, x.shape(axis));
    // SAFETY: the view has a number for each row.
    let all = (0..shape.batch()).all(|row| fits(unsafe { view.row(row, shape.inner).read() }));
    all.then_some(Temperature::Rows(view, shape.inner))
}

/// The options of a cross-entropy: `(temperature, class_weight, sample_weight, label_smoothing, z_loss)`.
pub(super) fn options_of<T: Float>(
    object: Object<'_, '_>,
    x: &Array<'_>,
    axis: Axis,
    out: Object<'_, '_>,
) -> Option<Options<T>> {
    let options = object.cast_exact::<PyTuple>().ok()?;
    let item = |i: usize| options.get_item(i).ok();
    let number = |i: usize, highest: f64| {
        let number = item(i)?.cast_exact::<PyFloat>().ok()?.value();
        (number >= 0.0 && number <= highest).then_some(number)
    };
    let (class, sample) = (item(1)?, item(2)?);
    let class_weight = if class.is_none() {
        ClassWeight::ONE
    } else {
        let array = Array::new(&class)?;
        let fits = array.type_num == x.type_num
            && array.dims == [x.shape(axis).len as isize]
            && (array.strides[0] == array.item_size() || array.dims[0] == 1)
            && is_apart(&array, out);
        if !fits {
            return None;
        }
        // SAFETY: an aligned array of a number for each class, which the caller's tuple keeps.
        unsafe { ClassWeight::new(array.data.cast::<T>().cast_const()) }
    };
    let sample_weight = if sample.is_none() {
        SampleWeight::One
    } else {
        SampleWeight::Rows(row_numbers(&sample, x, axis, out)?, x.shape(axis).inner)
    };
    Some(Options {
        temperature: temperature_of(&item(0)?, x, axis, out)?,
        class_weight,
        sample_weight,
        smoothing: number(3, 1.0)?,
        z_loss: number(4, f64::MAX)?,
    })
}

/// Softmax (`log`: its logarithm) of `x / temperature` where the mask is true; with `lse`, a pair of it and logsumexp,
/// which is float32 for 16-bit types.
#[pyfunction]
#[pyo3(signature = (x, axis, log, temperature, lse, out, mask, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub(super) fn normalize(
    py: Python<'_>,
    x: Object<'_, '_>,
    axis: Object<'_, '_>,
    log: Object<'_, '_>,
    temperature: Object<'_, '_>,
    lse: Object<'_, '_>,
    out: Object<'_, '_>,
    mask: Object<'_, '_>,
) -> Answer {
    let float = Array::float(x);
    let array = plain!(py, float.or_else(|| half(x).map(|(x, _)| x)));
    let axis = plain!(py, axis_of(axis, &array));
    let which = if plain!(py, flag(log)) { Normal::LogSoftmax } else { Normal::Softmax };
    let temperature = plain!(py, temperature_of(temperature, &array, axis, out));
    let lse = plain!(py, flag(lse));
    let mask = if mask.is_none() { None } else { Some(plain!(py, mask_of(mask, &array))) };
    let call = Normalize { axis, which, temperature, lse, mask };
    match float {
        Some(x) if x.type_num == FLOAT => call.run::<f32>(py, &x, Format::NATIVE, out),
        Some(x) => call.run::<f64>(py, &x, Format::NATIVE, out),
        None => {
            let (x, format) = plain!(py, half(x));
            call.run::<f32>(py, &x, format, out)
        }
    }
}

/// The arguments of [`normalize`].
struct Normalize<'a> {
    axis: Axis,
    which: Normal,
    temperature: Temperature,
    lse: bool,
    mask: Option<Array<'a>>,
}

impl Normalize<'_> {
    fn run<T: Float>(
        self,
        py: Python<'_>,
        x: &Array<'_>,
        format: &'static Format<T>,
        out: Object<'_, '_>,
    ) -> Answer {
        let Normalize { axis, which, temperature, lse, mask } = self;
        let shape = x.shape(axis);
        let fresh = out.is_none();
        let out = output!(py, x, out, &[x]);
        let to = plain!(py, Array::new(&out).filter(|out| mask.is_none_or(|mask| mask.is_apart(out))));
        let mut value = T::default();
        let single = x.dims.len() == 1 || matches!(axis, Axis::All);
        let type_num = if size_of::<T>() == 4 { FLOAT } else { DOUBLE };
        let rows = if lse && !single { Some(new_rows(py, x, axis, false, type_num)?) } else { None };
        let lse_to = match &rows {
            Some(rows) => Some(plain!(py, Array::new(rows).and_then(|rows| rows.row_view::<T>(axis, false)))),
            None => lse.then(|| View::per_row(&raw mut value, shape)),
        };
        if format.size == size_of::<T>() && mask.is_none() {
            let from = plain!(py, x.view::<T>(axis));
            let to = View { fresh, ..plain!(py, to.view::<T>(axis)) };
            let work = Sendable((temperature, lse_to));
            // SAFETY: views of nonempty arrays of matching shapes; the output is checked, logsumexp's is new.
            compute(py, shape.size(), || unsafe {
                let (temperature, lse_to) = { work }.0;
                ops::normalize_view(shape, from, to, which, temperature, lse_to);
            });
        } else {
            let from = plain!(py, x.operand(axis, format));
            let mut to = plain!(py, to.operand(axis, format));
            to.view.fresh = fresh;
            let mask = match &mask {
                Some(mask) => Some(plain!(py, mask.view::<u8>(axis))),
                None => None,
            };
            let work = Sendable((temperature, lse_to));
            // SAFETY: as above; the mask is of the shape of `x`.
            compute(py, shape.size(), || unsafe {
                let (temperature, lse_to) = { work }.0;
                staged::normalize(shape, from, to, which, temperature, lse_to, mask);
            });
        }
        if !lse {
            return Ok(out.unbind());
        }
        let lse = match rows {
            Some(rows) => rows.unbind(),
            None => scalar(py, value)?,
        };
        Ok(PyTuple::new(py, [out, lse.into_bound(py)])?.into_any().unbind())
    }
}

/// The gradient of [`normalize`] from its result.
#[pyfunction]
#[pyo3(signature = (grad, y, axis, log, temperature, out, /))]
pub(super) fn backward(
    py: Python<'_>,
    grad: Object<'_, '_>,
    y: Object<'_, '_>,
    axis: Object<'_, '_>,
    log: Object<'_, '_>,
    temperature: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let (y, half) = plain!(py, float_or_half(y));
    let grad = plain!(py, y.same(grad));
    let axis = plain!(py, axis_both(axis, &y, &grad));
    let which = if plain!(py, flag(log)) { Normal::LogSoftmax } else { Normal::Softmax };
    let temperature = plain!(py, temperature_of(temperature, &y, axis, out));
    by_format!(&y, half, backward_typed(py, &grad, axis, which, temperature, out))
}

fn backward_typed<T: Float>(
    py: Python<'_>,
    (y, format): (&Array<'_>, &'static Format<T>),
    grad: &Array<'_>,
    axis: Axis,
    which: Normal,
    temperature: Temperature,
    out: Object<'_, '_>,
) -> Answer {
    let shape = y.shape(axis);
    let (g, from) = (plain!(py, grad.operand(axis, format)), plain!(py, y.operand(axis, format)));
    let fresh = out.is_none();
    let out = output!(py, y, out, &[grad, y]);
    let mut to = plain!(py, Array::new(&out).and_then(|out| out.operand(axis, format)));
    to.view.fresh = fresh;
    let temperature = Sendable(temperature);
    // SAFETY: views of nonempty arrays of one shape; the output is checked.
    compute(py, shape.size(), || unsafe {
        let temperature = { temperature }.0;
        match (g.native(), from.native(), to.native()) {
            (Some(g), Some(from), Some(to)) => ops::backward_view(shape, g, from, to, which, temperature),
            _ => staged::backward(shape, g, from, to, which, temperature),
        }
    });
    Ok(out.unbind())
}

#[pyfunction]
#[pyo3(signature = (logits, labels, axis, ignore_index, reduction, options, mask, out, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub(super) fn cross_entropy_with(
    py: Python<'_>,
    logits: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
    reduction: Object<'_, '_>,
    options: Object<'_, '_>,
    mask: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let arguments = Arguments { labels, axis, ignore_index, reduction, options: Some(options) };
    let mask = (!mask.is_none()).then_some(mask);
    let Some(x) = Array::float(logits) else {
        return half::cross_entropy(py, logits, &arguments, mask, out);
    };
    if axis.is_none() {
        return declined(py);
    }
    let at = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    macro_rules! typed {
        ($t:ty) => {{
            if mask.is_some() {
                return half::cross_entropy_typed::<$t>(py, (x, Format::NATIVE), &arguments, mask, out);
            }
            let options = plain!(py, options_of::<$t>(options, &x, at, out));
            cross_entropy_typed::<$t>(py, &x, labels, at, ignore, how, options, out)
        }};
    }
    if x.type_num == DOUBLE { typed!(f64) } else { typed!(f32) }
}

#[pyfunction]
#[pyo3(signature = (logits, labels, axis, ignore_index, reduction, options, mask, grad_output, grad_out, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub(super) fn cross_entropy_with_value_and_grad(
    py: Python<'_>,
    logits: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
    reduction: Object<'_, '_>,
    options: Object<'_, '_>,
    mask: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let arguments = Arguments { labels, axis, ignore_index, reduction, options: Some(options) };
    let mask = (!mask.is_none()).then_some(mask);
    let Some(x) = Array::float(logits) else {
        return half::cross_entropy_value_and_grad(py, logits, &arguments, mask, grad_output, grad_out);
    };
    if axis.is_none() {
        return declined(py);
    }
    let at = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    macro_rules! typed {
        ($t:ty) => {{
            if mask.is_some() {
                let x = (x, Format::NATIVE);
                return half::cross_entropy_grad_typed::<$t>(py, x, &arguments, mask, grad_output, grad_out);
            }
            let options = plain!(py, options_of::<$t>(options, &x, at, grad_out));
            cross_entropy_grad_typed::<$t>(py, &x, labels, at, ignore, how, options, grad_output, grad_out)
        }};
    }
    if x.type_num == DOUBLE { typed!(f64) } else { typed!(f32) }
}
