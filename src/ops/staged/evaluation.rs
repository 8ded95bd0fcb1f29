//! Log-probabilities on staged operands.
#![expect(unsafe_code, reason = "the operations take views")]

use super::run_kernel;
use crate::error::Error;
use crate::float::Float;
use crate::kernels::labels::Labels;
use crate::kernels::temperature::Temperature;
use crate::kernels::token_logprobs::TokenLogprobs;
use crate::kernels::top_k::TopK;
use crate::lines::PerRow;
use crate::shape::{Shape, View};
use crate::stage::{Call, Operand, Results};
use std::marker::PhantomData;

/// The log-probability of every row's label, and whether the label is the first maximum.
///
/// # Safety
/// As [`token_logprobs_view`](crate::ops::evaluation::token_logprobs_view).
pub(crate) unsafe fn token_logprobs<T: Float>(
    shape: Shape,
    x: Operand<T>,
    labels: Labels,
    temperature: Temperature,
    logprobs: View<T>,
    is_argmax: View<u8>,
) -> Result<(), Error> {
    labels.check(shape.batch())?;
    let (inner, element) = (shape.inner, PhantomData);
    let kernel = TokenLogprobs::<T::Ops> { labels, is_argmax, inner, temperature, element };
    let results = Results::As(PerRow::Array(logprobs));
    let x = [x];
    let call = Call { results, ..Call::new(shape, &x) };
    // SAFETY: the caller's promise.
    unsafe { run_kernel(call, &kernel) };
    Ok(())
}

/// The `k` largest log-probabilities of every row and their classes, `1 <= k <= len`.
///
/// # Safety
/// As [`top_k_logprobs_view`](crate::ops::evaluation::top_k_logprobs_view).
pub(crate) unsafe fn top_k_logprobs<T: Float>(
    shape: Shape,
    k: usize,
    x: Operand<T>,
    temperature: Temperature,
    values: View<T>,
    indices: View<i64>,
) {
    assert!((1..=shape.len).contains(&k), "k = {k} of {} classes", shape.len);
    let kernel = TopK { k, values, indices, inner: shape.inner, temperature };
    let x = [x];
    let call = Call::new(shape, &x);
    // SAFETY: the caller's promise.
    unsafe { run_kernel(call, &kernel) }
}
