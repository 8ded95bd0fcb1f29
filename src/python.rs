//! The extension module `logitkit._logitkit_core`: dtype, strides and overlap of plain arrays, and nothing else.
//!
//! Every function returns `NotImplemented` when an argument is not plain: not exactly an `ndarray`, not
//! native aligned `float32` or `float64` (or of 16 bits, see `half`), not foldable into (outer, class, inner), overlapping in part, and
//! so on. The Python package then validates, copies what must be copied, and calls again. So the operations
//! here have no messages but one: a label out of range.
//!
//! Arrays are read through their C structure: a borrow registry would cost more than a small call computes.
#![expect(unsafe_code, reason = "NumPy's C structures; the kernels take pointers")]

use crate::error::Error;
use crate::float::Float;
use crate::kernels::labels::{LabelType, Labels};
use crate::ops::{
    self, GradOutput, Options, Reduce, Targets, classification_error_view, cross_entropy_view,
    log_softmax_backward_view, log_softmax_view, logsumexp_backward_view, logsumexp_view,
    softmax_backward_view, softmax_view,
};
use crate::parallel;
use crate::shape::{Shape, View};
use crate::simd::{self, Level};
use crate::sums::Reduction;
use numpy::npyffi::{NPY_ORDER, NpyTypes, PY_ARRAY_API, PyArrayObject, get_type_object, npy_intp};
use pyo3::exceptions::{PyImportError, PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString, PyTuple};
use pyo3::{ffi, intern};
use std::ffi::{c_int, c_long, c_void};
use std::ops::Range;

type Answer = PyResult<Py<PyAny>>;
type Object<'a, 'py> = &'a Bound<'py, PyAny>;

const BOOL: c_int = 0;
const FLOAT: c_int = 11;
const DOUBLE: c_int = 12;
const HALF: c_int = 23;
/// The first number of types that NumPy does not have itself.
const USER: c_int = 256;
const C_CONTIGUOUS: c_int = 1;
const F_CONTIGUOUS: c_int = 2;
const ALIGNED: c_int = 0x100;
const WRITEABLE: c_int = 0x400;
/// The byte order by its own name, as arrays from `ctypes` have it.
const NATIVE: u8 = if cfg!(target_endian = "little") { b'<' } else { b'>' };
/// Work from this many elements on releases the interpreter.
const DETACH: usize = 16_384;

/// `NotImplemented`.
fn declined(py: Python<'_>) -> Answer {
    Ok(py.NotImplemented())
}

/// Unwraps an `Option`, or declines the call.
macro_rules! plain {
    ($py:expr, $value:expr) => {
        match $value {
            Some(value) => value,
            None => return declined($py),
        }
    };
}

/// Unwraps an array of float32 or float64, or answers for one of 16 bits.
macro_rules! float {
    ($object:expr, $half:expr) => {
        match Array::float($object) {
            Some(array) => array,
            None => return $half,
        }
    };
}

/// Calls `$f::<f32>` or `$f::<f64>` by the dtype of an array.
macro_rules! by_dtype {
    ($array:expr, $f:ident($($arg:expr),*)) => {
        if $array.type_num == FLOAT { $f::<f32>($($arg),*) } else { $f::<f64>($($arg),*) }
    };
}

/// Calls `$f` with an array and its format: `$half` for one of 16 bits, otherwise its dtype's own.
macro_rules! by_format {
    ($array:expr, $half:expr, $f:ident($py:expr $(, $arg:expr)*)) => {
        match $half {
            Some(format) => $f::<f32>($py, ($array, format) $(, $arg)*),
            None if $array.type_num == FLOAT => $f::<f32>($py, ($array, Format::NATIVE) $(, $arg)*),
            None => $f::<f64>($py, ($array, Format::NATIVE) $(, $arg)*),
        }
    };
}

// (Behind the macros that they use.)
mod elementwise;
mod evaluation;
mod grad_hess;
mod log_loss;

/// The C structure of an exact, native, aligned `ndarray`.
#[derive(Clone, Copy)]
struct Array<'a> {
    object: *mut PyArrayObject,
    data: *mut u8,
    dims: &'a [npy_intp],
    strides: &'a [npy_intp],
    type_num: c_int,
    flags: c_int,
}

impl<'a> Array<'a> {
    #[inline]
    fn new(object: Object<'a, '_>) -> Option<Self> {
        let py = object.py();
        // SAFETY: the GIL is held; the type object is NumPy's.
        let exact = unsafe { ffi::Py_TYPE(object.as_ptr()) == get_type_object(py, NpyTypes::PyArray_Type) };
        if !exact {
            return None;
        }
        // SAFETY: it is an exact ndarray; dims and strides have `nd` elements and live as long as the array,
        // which the caller's reference keeps (nothing here resizes it).
        unsafe {
            let array = object.as_ptr().cast::<PyArrayObject>();
            let fields = &(*array).fields;
            let descr = &(*fields.descr).fields;
            let native = matches!(descr.byteorder as u8, b'=' | b'|' | NATIVE);
            if !native || fields.flags & ALIGNED == 0 {
                return None;
            }
            let nd = fields.nd as usize;
            let slice = |p: *mut npy_intp| if nd == 0 { &[][..] } else { std::slice::from_raw_parts(p, nd) };
            Some(Array {
                object: array,
                data: fields.data.cast(),
                dims: slice(fields.dimensions),
                strides: slice(fields.strides),
                type_num: descr.type_num,
                flags: fields.flags,
            })
        }
    }

    /// A nonempty array of float32 or float64.
    #[inline]
    fn float(object: Object<'a, '_>) -> Option<Self> {
        let array = Array::new(object)?;
        (matches!(array.type_num, FLOAT | DOUBLE) && !array.dims.contains(&0)).then_some(array)
    }

    /// Another array of the same dtype and shape.
    #[inline]
    fn same(&self, object: Object<'a, '_>) -> Option<Self> {
        let array = Array::new(object)?;
        (array.type_num == self.type_num && array.dims == self.dims).then_some(array)
    }

    fn item_size(&self) -> isize {
        match self.label_type() {
            Some(LabelType::I8 | LabelType::U8) => 1,
            Some(LabelType::I16 | LabelType::U16) => 2,
            Some(LabelType::I32 | LabelType::U32) => 4,
            Some(LabelType::I64 | LabelType::U64) => 8,
            None if self.type_num == BOOL => 1,
            None if self.type_num == FLOAT => 4,
            None if self.type_num == HALF || self.type_num >= USER => 2,
            None => 8,
        }
    }

    fn label_type(&self) -> Option<LabelType> {
        let long = size_of::<c_long>() == 8;
        Some(match self.type_num {
            1 => LabelType::I8,
            2 => LabelType::U8,
            3 => LabelType::I16,
            4 => LabelType::U16,
            5 => LabelType::I32,
            6 => LabelType::U32,
            7 if long => LabelType::I64,
            8 if long => LabelType::U64,
            7 => LabelType::I32,
            8 => LabelType::U32,
            9 => LabelType::I64,
            10 => LabelType::U64,
            _ => return None,
        })
    }

    /// The bytes that the elements lie in: from the first to behind the last.
    fn extent(&self) -> (isize, isize) {
        let (mut low, mut high) = (self.data.addr() as isize, self.data.addr() as isize + self.item_size());
        for (&dim, &stride) in self.dims.iter().zip(self.strides) {
            if dim == 0 {
                return (low, low);
            }
            let reach = (dim - 1) * stride;
            if reach < 0 { low += reach } else { high += reach }
        }
        (low, high)
    }

    fn is_apart(&self, other: &Array<'_>) -> bool {
        let (a, b) = (self.extent(), other.extent());
        a.1 <= b.0 || b.1 <= a.0
    }

    fn is_writable(&self) -> bool {
        self.flags & WRITEABLE != 0
    }

    /// Whether no two elements share memory (a sufficient condition).
    fn is_injective(&self) -> bool {
        if self.flags & (C_CONTIGUOUS | F_CONTIGUOUS) != 0 {
            return true;
        }
        // Each dimension steps over all that the finer ones reach.
        let mut order: [(isize, isize); 8] = [(0, 0); 8];
        let mut n = 0;
        for (&dim, &stride) in self.dims.iter().zip(self.strides) {
            if dim > 1 {
                if n == order.len() {
                    return false;
                }
                order[n] = (stride.abs(), dim);
                n += 1;
            }
        }
        order[..n].sort_unstable();
        let mut reach = self.item_size();
        for &(stride, dim) in &order[..n] {
            if stride < reach {
                return false;
            }
            reach += stride * (dim - 1);
        }
        true
    }

    /// An output: writable, without elements that share memory, and apart from every input unless it is
    /// exactly that input.
    #[inline]
    fn output(self, inputs: &[&Array<'_>]) -> Option<Self> {
        let fits = |input: &Array<'_>| {
            self.data == input.data && self.dims == input.dims && self.strides == input.strides
                || self.is_apart(input)
        };
        let fits = self.is_writable() && self.is_injective() && inputs.iter().all(|input| fits(input));
        fits.then_some(self)
    }

    /// The array as a view of (outer, class, inner), unless the dimensions around the axis do not fold.
    #[inline]
    fn view<T>(&self, axis: Axis) -> Option<View<T>> {
        let fold = |dims: Range<usize>| fold(&self.dims[dims.clone()], &self.strides[dims], self.item_size());
        let (outer, len, inner) = match axis {
            Axis::All => (0, fold(0..self.dims.len())?, 0),
            Axis::At(axis) => (fold(0..axis)?, fold(axis..axis + 1)?, fold(axis + 1..self.dims.len())?),
        };
        // A single class has neighbours at any distance.
        let len = if self.shape(axis).len == 1 { 1 } else { len };
        Some(View { ptr: self.data.cast(), outer, len, inner, fresh: false })
    }

    /// An array with one element per row as a view: the class axis is missing, or (`keepdims`) of length 1.
    fn row_view<T>(&self, axis: Axis, keepdims: bool) -> Option<View<T>> {
        let fold = |dims: Range<usize>| fold(&self.dims[dims.clone()], &self.strides[dims], self.item_size());
        let (outer, inner) = match axis {
            Axis::All => (0, 0),
            Axis::At(axis) => (fold(0..axis)?, fold(axis + usize::from(keepdims)..self.dims.len())?),
        };
        Some(View { ptr: self.data.cast(), outer, len: 0, inner, fresh: false })
    }

    fn shape(&self, axis: Axis) -> Shape {
        let product = |dims: &[npy_intp]| dims.iter().product::<npy_intp>() as usize;
        match axis {
            Axis::All => Shape { outer: 1, len: product(self.dims), inner: 1 },
            Axis::At(axis) => Shape {
                outer: product(&self.dims[..axis]),
                len: self.dims[axis] as usize,
                inner: product(&self.dims[axis + 1..]),
            },
        }
    }

    /// A new array of the same shape and dtype, in K-order.
    fn like<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the GIL is held and the prototype is an ndarray.
        unsafe {
            let array = PY_ARRAY_API.PyArray_NewLikeArray(
                py,
                self.object,
                NPY_ORDER::NPY_KEEPORDER,
                std::ptr::null_mut(),
                0,
            );
            Bound::from_owned_ptr_or_err(py, array)
        }
    }
}

/// The one stride, in elements, of dimensions that are walked in C order; 0 when they hold one element.
#[inline]
fn fold(dims: &[npy_intp], strides: &[npy_intp], size: isize) -> Option<isize> {
    let mut folded: Option<(isize, isize)> = None;
    for (&dim, &stride) in dims.iter().zip(strides).rev() {
        if dim == 1 {
            continue;
        }
        folded = match folded {
            None => Some((stride, stride * dim)),
            Some((first, next)) if stride == next => Some((first, stride * dim)),
            Some(_) => return None,
        };
    }
    // (Where alignment is weaker than the size, a stride may be no whole number of elements.)
    let stride = folded.map_or(0, |(stride, _)| stride);
    (stride % size == 0).then_some(stride / size)
}

#[derive(Clone, Copy)]
enum Axis {
    /// The whole array is one row.
    All,
    At(usize),
}

#[inline]
fn axis_of(axis: Object<'_, '_>, array: &Array<'_>) -> Option<Axis> {
    let nd = array.dims.len();
    if axis.is_none() {
        return if nd == 1 {
            Some(Axis::At(0))
        } else {
            (nd > 0 && array.flags & C_CONTIGUOUS != 0).then_some(Axis::All)
        };
    }
    let axis: i64 = axis.cast_exact::<PyInt>().ok()?.extract().ok()?;
    let nd = nd as i64;
    (-nd <= axis && axis < nd).then(|| Axis::At((if axis < 0 { axis + nd } else { axis }) as usize))
}

fn flag(object: Object<'_, '_>) -> Option<bool> {
    object.cast_exact::<PyBool>().ok().map(|flag| flag.is_true())
}

/// Promises that what a closure captures may be used from another thread.
struct Sendable<F>(F);
// SAFETY: the closures capture views of arrays that the caller's references keep alive.
unsafe impl<F> Send for Sendable<F> {}
impl<R, F: FnOnce() -> R> Sendable<F> {
    fn call(self) -> R {
        (self.0)()
    }
}

/// Runs the work, without the GIL when it is long enough.
#[inline]
fn compute<R: Send>(py: Python<'_>, elements: usize, work: impl FnOnce() -> R) -> R {
    if elements < DETACH {
        return work();
    }
    let work = Sendable(work);
    py.detach(move || work.call())
}

/// The output array: the caller's, or a new one.
macro_rules! output {
    ($py:expr, $array:expr, $out:expr, $inputs:expr) => {
        if $out.is_none() {
            $array.like($py)?
        } else {
            plain!($py, $array.same($out).and_then(|out| out.output($inputs)));
            $out.clone()
        }
    };
}

// (Here, where they see the macros.)
mod half;
mod half_elementwise;
mod masked;
mod options;
mod weighted;

/// An operation of one array operand and a result per element.
#[inline]
fn unary<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    axis: Axis,
    out: Object<'_, '_>,
    work: unsafe fn(Shape, View<T>, View<T>),
) -> Answer {
    let shape = x.shape(axis);
    let from = plain!(py, x.view::<T>(axis));
    let fresh = out.is_none();
    let out = output!(py, x, out, &[x]);
    let to = View { fresh, ..plain!(py, Array::new(&out).and_then(|out| out.view::<T>(axis))) };
    // SAFETY: both views are of nonempty arrays of this shape and dtype, the second one checked by `output`.
    compute(py, shape.size(), || unsafe { work(shape, from, to) });
    Ok(out.unbind())
}

/// An operation of two array operands and a result per element.
#[inline]
fn binary<T: Float>(
    py: Python<'_>,
    a: &Array<'_>,
    b: &Array<'_>,
    axis: Axis,
    out: Object<'_, '_>,
    work: unsafe fn(Shape, View<T>, View<T>, View<T>),
) -> Answer {
    let shape = a.shape(axis);
    let (from_a, from_b) = (plain!(py, a.view::<T>(axis)), plain!(py, b.view::<T>(axis)));
    let fresh = out.is_none();
    let out = output!(py, b, out, &[a, b]);
    let to = View { fresh, ..plain!(py, Array::new(&out).and_then(|out| out.view::<T>(axis))) };
    // SAFETY: as in `unary`.
    compute(py, shape.size(), || unsafe { work(shape, from_a, from_b, to) });
    Ok(out.unbind())
}

#[pyfunction]
#[pyo3(signature = (x, axis, out, /))]
fn softmax(py: Python<'_>, x: Object<'_, '_>, axis: Object<'_, '_>, out: Object<'_, '_>) -> Answer {
    let x = float!(x, half::unary(py, x, axis, out, ops::staged::softmax));
    let axis = plain!(py, axis_of(axis, &x));
    if x.type_num == FLOAT {
        unary::<f32>(py, &x, axis, out, softmax_view)
    } else {
        unary::<f64>(py, &x, axis, out, softmax_view)
    }
}

#[pyfunction]
#[pyo3(signature = (x, axis, out, /))]
fn log_softmax(py: Python<'_>, x: Object<'_, '_>, axis: Object<'_, '_>, out: Object<'_, '_>) -> Answer {
    let x = float!(x, half::unary(py, x, axis, out, ops::staged::log_softmax));
    let axis = plain!(py, axis_of(axis, &x));
    if x.type_num == FLOAT {
        unary::<f32>(py, &x, axis, out, log_softmax_view)
    } else {
        unary::<f64>(py, &x, axis, out, log_softmax_view)
    }
}

#[pyfunction]
#[pyo3(signature = (grad, y, axis, out, /))]
fn softmax_backward(
    py: Python<'_>,
    grad: Object<'_, '_>,
    y: Object<'_, '_>,
    axis: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let y = float!(y, half::binary(py, grad, y, axis, out, ops::staged::softmax_backward));
    let grad = plain!(py, y.same(grad));
    let axis = plain!(py, axis_both(axis, &y, &grad));
    if y.type_num == FLOAT {
        binary::<f32>(py, &grad, &y, axis, out, softmax_backward_view)
    } else {
        binary::<f64>(py, &grad, &y, axis, out, softmax_backward_view)
    }
}

#[pyfunction]
#[pyo3(signature = (grad, y, axis, out, /))]
fn log_softmax_backward(
    py: Python<'_>,
    grad: Object<'_, '_>,
    y: Object<'_, '_>,
    axis: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let y = float!(y, half::binary(py, grad, y, axis, out, ops::staged::log_softmax_backward));
    let grad = plain!(py, y.same(grad));
    let axis = plain!(py, axis_both(axis, &y, &grad));
    if y.type_num == FLOAT {
        binary::<f32>(py, &grad, &y, axis, out, log_softmax_backward_view)
    } else {
        binary::<f64>(py, &grad, &y, axis, out, log_softmax_backward_view)
    }
}

/// An axis of two arrays; all of them only when both are C-contiguous.
fn axis_both(axis: Object<'_, '_>, a: &Array<'_>, b: &Array<'_>) -> Option<Axis> {
    axis_of(axis, b)?;
    axis_of(axis, a)
}

/// A new array for the results per row, in K-order.
fn new_rows<'py>(
    py: Python<'py>,
    x: &Array<'_>,
    axis: Axis,
    keepdims: bool,
    type_num: c_int,
) -> PyResult<Bound<'py, PyAny>> {
    let mut dims: Vec<npy_intp> = x.dims.to_vec();
    match (axis, keepdims) {
        (Axis::All, true) => dims.fill(1),
        (Axis::All, false) => dims.clear(),
        (Axis::At(axis), true) => dims[axis] = 1,
        (Axis::At(axis), false) => drop(dims.remove(axis)),
    }
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

/// NumPy's number for `T`.
fn number_of<T: Float>() -> c_int {
    if size_of::<T>() == 4 { FLOAT } else { DOUBLE }
}

/// A NumPy scalar of the array's dtype.
fn scalar<T: Float>(py: Python<'_>, mut value: T) -> Answer {
    let type_num = if size_of::<T>() == 4 { FLOAT } else { DOUBLE };
    // SAFETY: the GIL is held; `value` is of the descriptor's type; the descriptor is released.
    unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(py, type_num);
        let data = std::ptr::from_mut(&mut value).cast::<c_void>();
        let object = PY_ARRAY_API.PyArray_Scalar(py, data, descr, std::ptr::null_mut());
        ffi::Py_DECREF(descr.cast());
        Ok(Bound::from_owned_ptr_or_err(py, object)?.unbind())
    }
}

/// Whether an array has the shape of `x` without the class axis, or with it at length 1.
fn is_batch_of(array: &Array<'_>, x: &Array<'_>, axis: Axis, keepdims: bool) -> bool {
    match (axis, keepdims) {
        (Axis::All, false) => array.dims.is_empty(),
        (Axis::All, true) => array.dims.len() == x.dims.len() && array.dims.iter().all(|&dim| dim == 1),
        (Axis::At(axis), true) => {
            array.dims.len() == x.dims.len()
                && (0..x.dims.len()).all(|d| array.dims[d] == if d == axis { 1 } else { x.dims[d] })
        }
        (Axis::At(axis), false) => {
            array.dims.len() + 1 == x.dims.len()
                && array.dims[..axis] == x.dims[..axis]
                && array.dims[axis..] == x.dims[axis + 1..]
        }
    }
}

#[pyfunction]
#[pyo3(signature = (a, axis, keepdims, out, /))]
fn logsumexp(
    py: Python<'_>,
    a: Object<'_, '_>,
    axis: Object<'_, '_>,
    keepdims: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let x = float!(a, half::logsumexp(py, a, axis, keepdims, out));
    let axis = plain!(py, axis_of(axis, &x));
    let keepdims = plain!(py, flag(keepdims));
    by_dtype!(x, logsumexp_typed(py, &x, axis, keepdims, out))
}

fn logsumexp_typed<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    axis: Axis,
    keepdims: bool,
    out: Object<'_, '_>,
) -> Answer {
    let shape = x.shape(axis);
    let from = plain!(py, x.view::<T>(axis));
    let scalar_result = !keepdims && (x.dims.len() == 1 || matches!(axis, Axis::All));
    if scalar_result && out.is_none() {
        let mut value = T::default();
        let to = View::per_row(&raw mut value, shape);
        let to = Sendable(to);
        // SAFETY: the view is of a nonempty array; there is one row, hence one result.
        compute(py, shape.size(), || unsafe { logsumexp_view(shape, from, { to }.0) });
        return scalar(py, value);
    }
    let out = if out.is_none() {
        new_rows(py, x, axis, keepdims, x.type_num)?
    } else {
        let fits = |out: &Array<'_>| {
            out.type_num == x.type_num && is_batch_of(out, x, axis, keepdims) && out.is_apart(x)
        };
        plain!(py, Array::new(out).filter(fits).and_then(|out| out.output(&[])));
        out.clone()
    };
    let to = plain!(py, Array::new(&out).and_then(|out| out.row_view::<T>(axis, keepdims)));
    // SAFETY: views of nonempty arrays; the second one has an element per row, apart from the first.
    compute(py, shape.size(), || unsafe { logsumexp_view(shape, from, to) });
    Ok(out.unbind())
}

#[pyfunction]
#[pyo3(signature = (grad, a, lse, axis, keepdims, out, /))]
fn logsumexp_backward(
    py: Python<'_>,
    grad: Object<'_, '_>,
    a: Object<'_, '_>,
    lse: Object<'_, '_>,
    axis: Object<'_, '_>,
    keepdims: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let x = float!(a, half::logsumexp_backward(py, grad, a, lse, axis, keepdims, out));
    let axis = plain!(py, axis_of(axis, &x));
    let keepdims = plain!(py, flag(keepdims));
    let fits = |array: &Array<'_>| array.type_num == x.type_num && is_batch_of(array, &x, axis, keepdims);
    let grad = plain!(py, Array::new(grad).filter(fits));
    let lse = plain!(py, Array::new(lse).filter(fits));
    by_dtype!(x, logsumexp_backward_typed(py, &grad, &x, &lse, axis, keepdims, out))
}

fn logsumexp_backward_typed<T: Float>(
    py: Python<'_>,
    grad: &Array<'_>,
    x: &Array<'_>,
    lse: &Array<'_>,
    axis: Axis,
    keepdims: bool,
    out: Object<'_, '_>,
) -> Answer {
    let shape = x.shape(axis);
    let from = plain!(py, x.view::<T>(axis));
    let grad_view = plain!(py, grad.row_view::<T>(axis, keepdims));
    let lse_view = plain!(py, lse.row_view::<T>(axis, keepdims));
    let fresh = out.is_none();
    let out = output!(py, x, out, &[x]);
    let to = plain!(py, Array::new(&out));
    if !to.is_apart(grad) || !to.is_apart(lse) {
        return declined(py);
    }
    let to = View { fresh, ..plain!(py, to.view::<T>(axis)) };
    // SAFETY: views of nonempty arrays of matching shapes; the output is checked.
    compute(py, shape.size(), || unsafe { logsumexp_backward_view(shape, grad_view, from, lse_view, to) });
    Ok(out.unbind())
}

/// `reduction` as the caller wrote it.
#[derive(Clone, Copy, PartialEq)]
enum How {
    One(Reduction),
    Each,
}

#[inline]
fn reduction_of(object: Object<'_, '_>) -> Option<How> {
    let py = object.py();
    if object.is(intern!(py, "mean")) {
        return Some(How::One(Reduction::Mean));
    }
    let name = object.cast_exact::<PyString>().ok()?.to_cow().ok()?;
    match &*name {
        "mean" => Some(How::One(Reduction::Mean)),
        "sum" => Some(How::One(Reduction::Sum)),
        "none" => Some(How::Each),
        _ => None,
    }
}

#[inline]
fn ignored(object: Object<'_, '_>) -> Option<Option<i64>> {
    if object.is_none() {
        return Some(None);
    }
    object.cast_exact::<PyInt>().ok()?.extract().ok().map(Some)
}

/// Integer labels of the batch shape, or probabilities of the logits'.
enum Target<'a, T> {
    Classes(Labels, Array<'a>),
    Probabilities(View<T>, Array<'a>),
}

impl<'a, T: Float> Target<'a, T> {
    #[inline]
    fn new(object: Object<'a, '_>, x: &Array<'_>, axis: Axis, ignore: Option<i64>) -> Option<Self> {
        let array = Array::new(object)?;
        if let Some(kind) = array.label_type() {
            if !is_batch_of(&array, x, axis, false) {
                return None;
            }
            let Shape { len: classes, inner, .. } = x.shape(axis);
            let view = array.row_view::<u8>(axis, false)?;
            return Some(Target::Classes(Labels { view, kind, inner, ignore, classes }, array));
        }
        (array.type_num == x.type_num && array.dims == x.dims)
            .then(|| array.view(axis).map(|view| Target::Probabilities(view, array)))
            .flatten()
    }

    fn array(&self) -> &Array<'a> {
        match self {
            Target::Classes(_, array) | Target::Probabilities(_, array) => array,
        }
    }
}

/// The exception for a label; its position in the batch shape.
fn label_error(error: &Error, x: &Array<'_>, axis: Axis, ignore: Option<i64>) -> PyErr {
    let Error::Label { row, label, classes } = error else {
        return PyValueError::new_err(error.to_string());
    };
    let mut position = Vec::new();
    let mut rest = *row;
    for d in (0..x.dims.len()).rev() {
        if !matches!(axis, Axis::At(axis) if axis == d) {
            position.push((rest % x.dims[d] as usize).to_string());
            rest /= x.dims[d] as usize;
        }
    }
    position.reverse();
    let place =
        if position.is_empty() { "labels".into() } else { format!("labels[{}]", position.join(", ")) };
    let ignore = ignore.map_or(String::new(), |ignore| format!(" and not ignore_index ({ignore})"));
    PyIndexError::new_err(format!("{place} is {label}: not in [0, {classes}){ignore}"))
}

/// Where a loss goes: a scalar, or an array of the batch shape.
enum LossOut<'py> {
    Scalar,
    /// A 0-d array that takes the scalar.
    Zero(Bound<'py, PyAny>),
    Rows(Bound<'py, PyAny>),
}

impl<'py> LossOut<'py> {
    #[inline]
    fn new(
        py: Python<'py>,
        x: &Array<'_>,
        axis: Axis,
        how: How,
        out: Object<'_, 'py>,
    ) -> PyResult<Option<Self>> {
        let one = matches!(how, How::One(_)) || x.dims.len() == 1;
        if out.is_none() {
            return Ok(Some(if one {
                LossOut::Scalar
            } else {
                LossOut::Rows(new_rows(py, x, axis, false, x.type_num)?)
            }));
        }
        let fits = |out: &Array<'_>| {
            out.type_num == x.type_num
                && out.is_apart(x)
                && if one { out.dims.is_empty() } else { is_batch_of(out, x, axis, false) }
        };
        let fits = Array::new(out).filter(fits).and_then(|out| out.output(&[])).is_some();
        Ok(fits.then(|| if one { LossOut::Zero(out.clone()) } else { LossOut::Rows(out.clone()) }))
    }

    fn finish<T: Float>(self, py: Python<'py>, value: T) -> Answer {
        match self {
            LossOut::Scalar => scalar(py, value),
            LossOut::Zero(array) => {
                // SAFETY: a writable 0-d array of this dtype, checked in `new`.
                unsafe { (*array.as_ptr().cast::<PyArrayObject>()).fields.data.cast::<T>().write(value) };
                Ok(array.unbind())
            }
            LossOut::Rows(array) => Ok(array.unbind()),
        }
    }
}

#[pyfunction]
#[pyo3(signature = (logits, labels, axis, ignore_index, reduction, out, /))]
fn cross_entropy(
    py: Python<'_>,
    logits: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
    reduction: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    let arguments = half::Arguments { labels, axis, ignore_index, reduction, options: None };
    let x = float!(logits, half::cross_entropy(py, logits, &arguments, None, out));
    if axis.is_none() {
        return declined(py);
    }
    let axis = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(x, cross_entropy_typed(py, &x, labels, axis, ignore, how, Options::NONE, out))
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
fn cross_entropy_typed<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    labels: Object<'_, '_>,
    axis: Axis,
    ignore: Option<i64>,
    how: How,
    options: Options<T>,
    out: Object<'_, '_>,
) -> Answer {
    let target = plain!(py, Target::<T>::new(labels, x, axis, ignore));
    let loss = plain!(py, LossOut::new(py, x, axis, how, out)?);
    let value = plain!(py, loss_and_grad::<T>(py, x, axis, how, &target, &loss, ignore, options, None)?);
    loss.finish(py, value)
}

/// Computes the loss into `loss` (rows) or returns it, and the gradient if there is one; declines what does not fit.
#[expect(clippy::too_many_arguments, reason = "the arguments of cross-entropy")]
fn loss_and_grad<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    axis: Axis,
    how: How,
    target: &Target<'_, T>,
    loss: &LossOut<'_>,
    ignore: Option<i64>,
    options: Options<T>,
    grad: Option<(&Array<'_>, bool, GradOutput<T>)>,
) -> PyResult<Option<T>> {
    let shape = x.shape(axis);
    let Some(from) = x.view::<T>(axis) else { return Ok(None) };
    let mut value = T::default();
    let (reduce, single) = match (how, loss) {
        (How::One(reduction), _) => (Reduce::To(reduction), false),
        (How::Each, LossOut::Rows(rows)) => {
            let Some(rows) = Array::new(rows) else { return Ok(None) };
            if !rows.is_apart(target.array()) || grad.as_ref().is_some_and(|(grad, ..)| !rows.is_apart(grad))
            {
                return Ok(None);
            }
            let Some(view) = rows.row_view::<T>(axis, false) else { return Ok(None) };
            (Reduce::Rows(view), false)
        }
        (How::Each, _) => (Reduce::Rows(View::per_row(&raw mut value, shape)), true),
    };
    let grad = match grad {
        None => None,
        Some((array, fresh, incoming)) => {
            let Some(view) = array.view::<T>(axis) else { return Ok(None) };
            Some((View { fresh, ..view }, incoming))
        }
    };
    let work = Sendable((options, grad));
    let result = compute(py, shape.size(), || {
        let (reduce, (options, grad)) = (reduce, { work }.0);
        // SAFETY: views of nonempty arrays of matching shapes; outputs are checked by the callers.
        unsafe {
            match target {
                Target::Classes(labels, _) => {
                    cross_entropy_view(shape, from, Targets::Classes(*labels), options, &reduce, grad)
                }
                Target::Probabilities(t, _) => {
                    cross_entropy_view(shape, from, Targets::Probabilities(*t), options, &reduce, grad)
                }
            }
        }
    });
    match result {
        Ok(_) if single => Ok(Some(value)),
        Ok(loss) => Ok(Some(ops::rounded(loss))),
        Err(error) => Err(label_error(&error, x, axis, ignore)),
    }
}

/// The incoming gradient: none or a number, or (`reduction="none"`) an array of the batch shape.
#[inline]
fn grad_output_of<T: Float>(
    object: Object<'_, '_>,
    x: &Array<'_>,
    axis: Axis,
    how: How,
    out: &Array<'_>,
) -> Option<GradOutput<T>> {
    if object.is_none() {
        return Some(GradOutput::Scalar(1.0));
    }
    if let Ok(number) = object.cast_exact::<PyFloat>() {
        return Some(GradOutput::Scalar(number.value()));
    }
    let array = Array::new(object)?;
    let fits = how == How::Each && array.type_num == x.type_num && is_batch_of(&array, x, axis, false);
    if !fits || !array.is_apart(out) {
        return None;
    }
    Some(GradOutput::Rows(array.row_view(axis, false)?))
}

#[pyfunction]
#[pyo3(signature = (logits, labels, axis, ignore_index, reduction, grad_output, grad_out, /))]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
fn cross_entropy_value_and_grad(
    py: Python<'_>,
    logits: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
    reduction: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let arguments = half::Arguments { labels, axis, ignore_index, reduction, options: None };
    let x = float!(
        logits,
        half::cross_entropy_value_and_grad(py, logits, &arguments, None, grad_output, grad_out)
    );
    if axis.is_none() {
        return declined(py);
    }
    let axis = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(
        x,
        cross_entropy_grad_typed(py, &x, labels, axis, ignore, how, Options::NONE, grad_output, grad_out)
    )
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
fn cross_entropy_grad_typed<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    labels: Object<'_, '_>,
    axis: Axis,
    ignore: Option<i64>,
    how: How,
    options: Options<T>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let target = plain!(py, Target::<T>::new(labels, x, axis, ignore));
    let fresh = grad_out.is_none();
    let grad = output!(py, x, grad_out, &[x]);
    let out = plain!(py, Array::new(&grad));
    let same_labels =
        matches!(&target, Target::Probabilities(_, t) if t.data == out.data && t.strides == out.strides);
    if !same_labels && !out.is_apart(target.array()) {
        return declined(py);
    }
    let incoming = plain!(py, grad_output_of::<T>(grad_output, x, axis, how, &out));
    let loss = plain!(py, LossOut::new(py, x, axis, how, &py.None().into_bound(py))?);
    let grad_to = Some((&out, fresh, incoming));
    let value = plain!(py, loss_and_grad(py, x, axis, how, &target, &loss, ignore, options, grad_to)?);
    let loss = loss.finish(py, value)?;
    pair(py, loss, grad)
}

fn pair(py: Python<'_>, loss: Py<PyAny>, grad: Bound<'_, PyAny>) -> Answer {
    Ok(PyTuple::new(py, [loss.into_bound(py), grad])?.into_any().unbind())
}

/// Two C-contiguous arrays of one shape and dtype.
fn flat_pair<'a>(a: Object<'a, '_>, b: Object<'a, '_>) -> Option<(Array<'a>, Array<'a>)> {
    let a = Array::float(a)?;
    let b = a.same(b)?;
    (a.flags & b.flags & C_CONTIGUOUS != 0).then_some((a, b))
}

fn size(array: &Array<'_>) -> usize {
    array.dims.iter().product::<npy_intp>() as usize
}

#[pyfunction]
#[pyo3(signature = (pred, target, weight, reduction, out, /))]
fn mse_loss(
    py: Python<'_>,
    pred: Object<'_, '_>,
    target: Object<'_, '_>,
    weight: Object<'_, '_>,
    reduction: Object<'_, '_>,
    out: Object<'_, '_>,
) -> Answer {
    if !weight.is_none() {
        return elementwise::weighted_mse_loss(py, pred, target, weight, reduction, out);
    }
    let (p, t) = match flat_pair(pred, target) {
        Some(pair) => pair,
        None => return half::mse_loss(py, pred, target, reduction, out),
    };
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(p, mse_typed(py, &p, &t, how, out))
}

fn mse_typed<T: Float>(
    py: Python<'_>,
    p: &Array<'_>,
    t: &Array<'_>,
    how: How,
    out: Object<'_, '_>,
) -> Answer {
    let n = size(p);
    let (a, b) = (p.data.cast::<T>().cast_const(), t.data.cast::<T>().cast_const());
    let How::One(reduction) = how else {
        let fresh = out.is_none();
        let out = output!(py, p, out, &[p, t]);
        let to = plain!(py, Array::new(&out).filter(|out| out.flags & C_CONTIGUOUS != 0)).data.cast::<T>();
        let to = Sendable(to);
        // SAFETY: contiguous arrays of `n` elements; the output is checked.
        compute(py, n, || unsafe { ops::squared_differences_view(n, a, b, { to }.0, fresh) });
        return Ok(out.unbind());
    };
    let loss = if out.is_none() {
        LossOut::Scalar
    } else {
        let fits = |out: &Array<'_>| {
            out.type_num == p.type_num
                && out.dims.is_empty()
                && out.is_writable()
                && out.is_apart(p)
                && out.is_apart(t)
        };
        plain!(py, Array::new(out).filter(fits));
        LossOut::Zero(out.clone())
    };
    // SAFETY: contiguous arrays of `n` elements.
    let sum = compute(py, n, || unsafe { ops::squared_error_view::<T>(n, a, b, None, false) });
    loss.finish::<T>(py, ops::rounded(sum.reduced(reduction, n)))
}

#[pyfunction]
#[pyo3(signature = (pred, target, weight, reduction, grad_output, grad_out, /))]
fn mse_loss_value_and_grad(
    py: Python<'_>,
    pred: Object<'_, '_>,
    target: Object<'_, '_>,
    weight: Object<'_, '_>,
    reduction: Object<'_, '_>,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    if !weight.is_none() {
        return elementwise::weighted_mse_loss_value_and_grad(
            py,
            pred,
            target,
            weight,
            reduction,
            grad_output,
            grad_out,
        );
    }
    let (p, t) = match flat_pair(pred, target) {
        Some(pair) => pair,
        None => return half::mse_loss_value_and_grad(py, pred, target, reduction, grad_output, grad_out),
    };
    let how = plain!(py, reduction_of(reduction));
    by_dtype!(p, mse_grad_typed(py, &p, &t, how, grad_output, grad_out))
}

fn mse_grad_typed<T: Float>(
    py: Python<'_>,
    p: &Array<'_>,
    t: &Array<'_>,
    how: How,
    grad_output: Object<'_, '_>,
    grad_out: Object<'_, '_>,
) -> Answer {
    let n = size(p);
    let fresh = grad_out.is_none();
    let grad = output!(py, p, grad_out, &[p, t]);
    let out = plain!(py, Array::new(&grad).filter(|out| out.flags & C_CONTIGUOUS != 0));
    let to = out.data.cast::<T>();
    let (a, b) = (p.data.cast::<T>().cast_const(), t.data.cast::<T>().cast_const());
    let incoming = if grad_output.is_none() {
        ops::SquaredGrad::Scalar(1.0, to)
    } else if let Ok(number) = grad_output.cast_exact::<PyFloat>() {
        ops::SquaredGrad::Scalar(number.value(), to)
    } else {
        let fits = |g: &Array<'_>| how == How::Each && g.flags & C_CONTIGUOUS != 0 && g.is_apart(&out);
        let g = plain!(py, p.same(grad_output).filter(fits));
        ops::SquaredGrad::Elements(g.data.cast::<T>().cast_const(), to)
    };
    let incoming = match (incoming, how) {
        (ops::SquaredGrad::Scalar(g, to), How::One(Reduction::Mean)) => {
            ops::SquaredGrad::Scalar(g / n as f64, to)
        }
        (incoming, _) => incoming,
    };
    if let How::One(reduction) = how {
        let ops::SquaredGrad::Scalar(factor, to) = incoming else { return declined(py) };
        let work = Sendable((factor, to));
        // SAFETY: contiguous arrays of `n` elements; the gradient is checked.
        let sum = compute(py, n, || unsafe { ops::squared_error_view(n, a, b, Some({ work }.0), fresh) });
        let loss = scalar::<T>(py, ops::rounded(sum.reduced(reduction, n)))?;
        return pair(py, loss, grad);
    }
    // The losses first: the gradient may overwrite an operand.
    let losses = p.like(py)?;
    let losses_to = plain!(py, Array::new(&losses)).data.cast::<T>();
    let work = Sendable((losses_to, incoming));
    // SAFETY: contiguous arrays of `n` elements; the outputs are checked or new.
    compute(py, n, || unsafe {
        let (losses, incoming) = { work }.0;
        ops::squared_differences_view(n, a, b, losses, true);
        ops::squared_error_grad_view(n, a, b, incoming, fresh);
    });
    pair(py, losses.unbind(), grad)
}

#[pyfunction]
#[pyo3(signature = (scores, labels, axis, sample_weight, ignore_index, reduction, /))]
fn classification_error(
    py: Python<'_>,
    scores: Object<'_, '_>,
    labels: Object<'_, '_>,
    axis: Object<'_, '_>,
    sample_weight: Object<'_, '_>,
    ignore_index: Object<'_, '_>,
    reduction: Object<'_, '_>,
) -> Answer {
    let half =
        || half::classification_error(py, scores, labels, axis, sample_weight, ignore_index, reduction);
    let x = float!(scores, half());
    if axis.is_none() {
        return declined(py);
    }
    let axis = plain!(py, axis_of(axis, &x));
    let ignore = plain!(py, ignored(ignore_index));
    let how = plain!(py, reduction_of(reduction));
    let weights = plain!(py, weights_of(sample_weight, &x, axis));
    by_dtype!(x, classification_error_typed(py, &x, labels, axis, weights, ignore, how))
}

/// None, or a float64 array with a weight for each row.
#[expect(clippy::option_option, reason = "declined, nothing or weights")]
fn weights_of(object: Object<'_, '_>, x: &Array<'_>, axis: Axis) -> Option<Option<View<f64>>> {
    if object.is_none() {
        return Some(None);
    }
    let fits = |w: &Array<'_>| w.type_num == DOUBLE && is_batch_of(w, x, axis, false);
    Array::new(object).filter(fits)?.row_view(axis, false).map(Some)
}

fn classification_error_typed<T: Float>(
    py: Python<'_>,
    x: &Array<'_>,
    labels: Object<'_, '_>,
    axis: Axis,
    weights: Option<View<f64>>,
    ignore: Option<i64>,
    how: How,
) -> Answer {
    let shape = x.shape(axis);
    let from = plain!(py, x.view::<T>(axis));
    let Target::<T>::Classes(labels, _) = plain!(py, Target::new(labels, x, axis, ignore)) else {
        return declined(py);
    };
    let (reduction, rows) = match how {
        How::One(reduction) => (reduction, None),
        How::Each if x.dims.len() == 1 => (Reduction::Sum, None),
        How::Each => (Reduction::Sum, Some(new_rows(py, x, axis, false, DOUBLE)?)),
    };
    let view = match &rows {
        Some(rows) => Some(plain!(py, Array::new(rows).and_then(|rows| rows.row_view::<f64>(axis, false)))),
        None => None,
    };
    // SAFETY: views of arrays of matching shapes; the output is new.
    let result = compute(py, shape.size(), || unsafe {
        classification_error_view(shape, from, labels, weights, reduction, view)
    });
    let error = result.map_err(|error| label_error(&error, x, axis, ignore))?;
    match rows {
        Some(rows) => Ok(rows.unbind()),
        None => scalar(py, error),
    }
}

// --- control -------------------------------------------------------------------------------------------

#[pyfunction]
fn get_num_threads() -> usize {
    parallel::get_num_threads()
}

#[pyfunction]
#[pyo3(signature = (n, /))]
fn set_num_threads(n: usize) {
    parallel::set_num_threads(n);
}

/// Sets the calling thread's own number of threads, 0 for none; returns the former.
#[pyfunction]
#[pyo3(signature = (n, /))]
fn set_thread_override(n: usize) -> usize {
    parallel::set_thread_override((n > 0).then_some(n)).unwrap_or(0)
}

#[pyfunction]
fn simd_level() -> &'static str {
    simd::level().name()
}

#[pyfunction]
fn simd_levels() -> Vec<&'static str> {
    Level::available().into_iter().map(Level::name).collect()
}

#[pyfunction]
#[pyo3(signature = (name, /))]
fn set_simd_level(name: &str) -> PyResult<&'static str> {
    let level = named_level(name).map_err(PyValueError::new_err)?;
    Ok(simd::set_level(level).name())
}

fn named_level(name: &str) -> Result<Level, String> {
    let available = Level::available();
    available.iter().copied().find(|level| level.name() == name).ok_or_else(|| {
        let names: Vec<_> = available.iter().map(|level| level.name()).collect();
        format!("the SIMD level {name:?} is not one of those that this CPU has: {}", names.join(", "))
    })
}

/// The processor's brand string, or its architecture.
#[pyfunction]
fn cpu_name() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::__cpuid;
        if __cpuid(0x8000_0000).eax >= 0x8000_0004 {
            let registers =
                (0x8000_0002..=0x8000_0004u32).map(__cpuid).flat_map(|r| [r.eax, r.ebx, r.ecx, r.edx]);
            let bytes: Vec<u8> = registers.flat_map(u32::to_le_bytes).take_while(|&byte| byte != 0).collect();
            return String::from_utf8_lossy(&bytes).trim().to_owned();
        }
    }
    std::env::consts::ARCH.to_owned()
}

// --- the machine's limits, for the benchmarks ------------------------------------------------------------

fn limit_operand<'a>(object: Object<'a, '_>) -> PyResult<Array<'a>> {
    Array::float(object)
        .filter(|array| array.flags & C_CONTIGUOUS != 0)
        .ok_or_else(|| PyValueError::new_err("a nonempty C-contiguous float32 or float64 array is wanted"))
}

/// The sum of an array: the time of reading it.
#[pyfunction]
#[pyo3(signature = (a, /))]
fn _limit_read(py: Python<'_>, a: Object<'_, '_>) -> PyResult<f64> {
    let a = limit_operand(a)?;
    let (n, data) = (size(&a), Sendable(a.data));
    let single = a.type_num == FLOAT;
    Ok(compute(py, n, || {
        let data = { data }.0;
        // SAFETY: a contiguous array of `n` elements.
        unsafe {
            if single {
                ops::limits::read::<f32>(n, data.cast())
            } else {
                ops::limits::read::<f64>(n, data.cast())
            }
        }
    }))
}

/// The sum of the exponentials of an array, which is taken to be of moderate size: the time of one exponential.
#[pyfunction]
#[pyo3(signature = (a, /))]
fn _limit_expsum(py: Python<'_>, a: Object<'_, '_>) -> PyResult<f64> {
    let a = limit_operand(a)?;
    let (n, data) = (size(&a), Sendable(a.data));
    let single = a.type_num == FLOAT;
    Ok(compute(py, n, || {
        let data = { data }.0;
        // SAFETY: a contiguous array of `n` elements.
        unsafe {
            if single {
                ops::limits::exp_sum::<f32>(n, data.cast())
            } else {
                ops::limits::exp_sum::<f64>(n, data.cast())
            }
        }
    }))
}

fn copy(py: Python<'_>, src: Object<'_, '_>, dst: Object<'_, '_>, stream: bool) -> PyResult<()> {
    let src = limit_operand(src)?;
    let dst = limit_operand(dst)?;
    if src.type_num != dst.type_num || size(&src) != size(&dst) || !dst.is_writable() || !src.is_apart(&dst) {
        return Err(PyValueError::new_err("two arrays of one dtype and size that do not overlap are wanted"));
    }
    let (n, operands) = (size(&src), Sendable((src.data, dst.data)));
    let single = src.type_num == FLOAT;
    compute(py, n, || {
        let (src, dst) = { operands }.0;
        // SAFETY: contiguous arrays of `n` elements that do not overlap.
        unsafe {
            if single {
                ops::limits::copy::<f32>(n, src.cast(), dst.cast(), stream);
            } else {
                ops::limits::copy::<f64>(n, src.cast(), dst.cast(), stream);
            }
        }
    });
    Ok(())
}

/// Copies with ordinary stores.
#[pyfunction]
#[pyo3(signature = (src, dst, /))]
fn _limit_copy(py: Python<'_>, src: Object<'_, '_>, dst: Object<'_, '_>) -> PyResult<()> {
    copy(py, src, dst, false)
}

/// Copies with stores past the caches.
#[pyfunction]
#[pyo3(signature = (src, dst, /))]
fn _limit_stream(py: Python<'_>, src: Object<'_, '_>, dst: Object<'_, '_>) -> PyResult<()> {
    copy(py, src, dst, true)
}

#[pymodule(gil_used = false)]
fn _logitkit_core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    match std::env::var("LOGITKIT_SIMD") {
        Ok(name) if !name.is_empty() => {
            let level =
                named_level(&name).map_err(|e| PyImportError::new_err(format!("LOGITKIT_SIMD: {e}")))?;
            simd::set_level(level);
        }
        _ => {}
    }
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    for function in [
        wrap_pyfunction!(softmax, m)?,
        wrap_pyfunction!(log_softmax, m)?,
        wrap_pyfunction!(logsumexp, m)?,
        wrap_pyfunction!(softmax_backward, m)?,
        wrap_pyfunction!(log_softmax_backward, m)?,
        wrap_pyfunction!(logsumexp_backward, m)?,
        wrap_pyfunction!(cross_entropy, m)?,
        wrap_pyfunction!(cross_entropy_value_and_grad, m)?,
        wrap_pyfunction!(options::normalize, m)?,
        wrap_pyfunction!(options::backward, m)?,
        wrap_pyfunction!(options::cross_entropy_with, m)?,
        wrap_pyfunction!(options::cross_entropy_with_value_and_grad, m)?,
        wrap_pyfunction!(mse_loss, m)?,
        wrap_pyfunction!(mse_loss_value_and_grad, m)?,
        wrap_pyfunction!(classification_error, m)?,
        wrap_pyfunction!(evaluation::token_logprobs, m)?,
        wrap_pyfunction!(evaluation::top_k_logprobs, m)?,
        wrap_pyfunction!(grad_hess::cross_entropy_grad_hess, m)?,
        wrap_pyfunction!(elementwise::binary_cross_entropy_with_logits, m)?,
        wrap_pyfunction!(elementwise::binary_cross_entropy_with_logits_value_and_grad, m)?,
        wrap_pyfunction!(log_loss::log_loss, m)?,
        wrap_pyfunction!(log_loss::log_loss_value_and_grad, m)?,
        wrap_pyfunction!(masked::logsumexp_masked, m)?,
        wrap_pyfunction!(weighted::logsumexp_weighted, m)?,
        wrap_pyfunction!(weighted::logsumexp_backward_weighted, m)?,
        wrap_pyfunction!(get_num_threads, m)?,
        wrap_pyfunction!(set_num_threads, m)?,
        wrap_pyfunction!(set_thread_override, m)?,
        wrap_pyfunction!(simd_level, m)?,
        wrap_pyfunction!(simd_levels, m)?,
        wrap_pyfunction!(set_simd_level, m)?,
        wrap_pyfunction!(cpu_name, m)?,
        wrap_pyfunction!(_limit_read, m)?,
        wrap_pyfunction!(_limit_copy, m)?,
        wrap_pyfunction!(_limit_stream, m)?,
        wrap_pyfunction!(_limit_expsum, m)?,
    ] {
        m.add_function(function)?;
    }
    Ok(())
}
