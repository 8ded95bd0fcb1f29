//! The operations as this crate's own compiled code: generic functions are otherwise compiled anew, for every level, by
//! each crate that calls them, which takes minutes.
#![expect(unsafe_code, reason = "pointers to unsafe functions")]

use super::elementwise::{BinaryLoss, Cycle, ElementLoss, SquaredLoss, reduced_loss};
use super::evaluation::{token_logprobs_view, top_k_logprobs_view};
use super::grad_hess::grad_hess_view;
use super::log_loss::{SharedView, log_loss_view, soft_log_loss_view};
use super::{
    GradOutput, Options, Reduce, Targets, classification_error_view, cross_entropy_view, limits,
    log_softmax_backward_view, log_softmax_view, logsumexp_backward_view, logsumexp_view,
    softmax_backward_view, softmax_view, squared_error_view,
};
use crate::error::Error;
use crate::float::Float;
use crate::kernels::grad_hess::GradHess;
use crate::kernels::labels::Labels;
use crate::kernels::temperature::Temperature;
use crate::shape::{Shape, View};
use crate::sums::{Reduction, Sum};
#[cfg(not(test))]
use std::any::TypeId;

/// The place and the incoming part of a gradient that is wanted.
type Gradient<To, T> = Option<(To, GradOutput<T>)>;

macro_rules! operations {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)? = $function:expr;)+) => {
        /// The operations on elements of one type; each has the safety contract of the function it is.
        pub(crate) struct Operations<T: Float> {
            $(pub(crate) $name: unsafe fn($($argument),*) $(-> $result)?,)+
        }

        impl<T: Float> Operations<T> {
            const ALL: Self = Operations { $($name: $function,)+ };
        }
    };
}

operations! {
    softmax: fn(Shape, View<T>, View<T>) = softmax_view;
    log_softmax: fn(Shape, View<T>, View<T>) = log_softmax_view;
    logsumexp: fn(Shape, View<T>, View<T>) = logsumexp_view;
    softmax_backward: fn(Shape, View<T>, View<T>, View<T>) = softmax_backward_view;
    log_softmax_backward: fn(Shape, View<T>, View<T>, View<T>) = log_softmax_backward_view;
    logsumexp_backward: fn(Shape, View<T>, View<T>, View<T>, View<T>) = logsumexp_backward_view;
    cross_entropy: fn(Shape, View<T>, Targets<T>, Options<T>, &Reduce<T>, Gradient<View<T>, T>) -> Result<f64, Error>
        = cross_entropy_view;
    classification_error: fn(Shape, View<T>, Labels, Option<View<f64>>, Reduction, Option<View<f64>>) -> Result<f64, Error>
        = classification_error_view;
    token_logprobs: fn(Shape, View<T>, Labels, Temperature, View<T>, View<u8>) -> Result<(), Error>
        = token_logprobs_view;
    top_k_logprobs: fn(Shape, usize, View<T>, Temperature, View<T>, View<i64>) = top_k_logprobs_view;
    cross_entropy_grad_hess: fn(GradHess<T>) -> Result<(), Error> = grad_hess_view;
    squared_error: fn(usize, *const T, *const T, Option<(f64, *mut T)>, bool) -> Sum = squared_error_view;
    squared_loss: fn(&SquaredLoss<T>, Reduction, Option<(f64, *mut T)>, bool) -> f64 = reduced::<T, _>;
    binary_loss: fn(&BinaryLoss<T>, Reduction, Option<(f64, *mut T)>, bool) -> f64 = reduced::<T, _>;
    log_loss: fn(Shape, SharedView<T>, Labels, Option<Cycle<T>>, &Reduce<T>, Gradient<SharedView<T>, T>) -> Result<f64, Error>
        = log_loss_view;
    soft_log_loss: fn(Shape, [SharedView<T>; 2], Option<Cycle<T>>, &Reduce<T>, Gradient<SharedView<T>, T>) -> f64
        = soft_log_loss_view;
    read: fn(usize, *mut T) -> f64 = limits::read;
    exp_sum: fn(usize, *mut T) -> f64 = limits::exp_sum;
    copy: fn(usize, *mut T, *mut T, bool) = limits::copy;
}

/// [`reduced_loss`] of a loss whose type is known.
///
/// # Safety
/// As there.
unsafe fn reduced<T: Float, L: ElementLoss<T>>(
    loss: &L,
    reduction: Reduction,
    grad: Option<(f64, *mut T)>,
    fresh: bool,
) -> f64 {
    // SAFETY: the caller's promise.
    unsafe { reduced_loss(loss, reduction, grad, fresh) }
}

#[cfg(not(test))]
static SINGLE: Operations<f32> = Operations::ALL;
#[cfg(not(test))]
static DOUBLE: Operations<f64> = Operations::ALL;

/// The operations on `T`.
#[cfg(not(test))]
pub(crate) fn compiled<T: Float>() -> &'static Operations<T> {
    let single = TypeId::of::<T>() == TypeId::of::<f32>();
    let table: *const () = if single { (&raw const SINGLE).cast() } else { (&raw const DOUBLE).cast() };
    // SAFETY: `Float` is sealed: what is not `f32` is `f64`, and the table is that of the type.
    unsafe { &*table.cast() }
}

/// The operations on `T`. Unit tests call none of them, and a static would have them all compiled.
#[cfg(test)]
pub(crate) fn compiled<T: Float>() -> &'static Operations<T> {
    const { &Operations::ALL }
}
