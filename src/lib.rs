//! Softmax, log-sum-exp, cross-entropy and mean squared error with their gradients, on CPUs: at the speed of
//! memory, within a few units in the last place, and with the same bits on every processor and thread count.
//!
//! An array is a slice in C order with a [`Shape`]: any axis can be the class axis.
//!
//! ```
//! use logitkit::{Reduction, Shape, cross_entropy_value_and_grad, softmax_in_place};
//!
//! // Two rows of three logits, and the true class of each.
//! let mut logits = [2.0f32, 1.0, 0.1, -1.0, 3.0, 0.5];
//! let labels = [0i64, 1];
//! let shape = Shape::rows(2, 3);
//! let mut grad = [0.0; 6];
//! let loss = cross_entropy_value_and_grad(&logits, &labels, shape, None, Reduction::Mean, &mut grad)?;
//! assert!((loss - 0.2564).abs() < 1e-4);
//! softmax_in_place(&mut logits, shape)?;
//! assert!((logits[0] - 0.6590).abs() < 1e-4);
//! # Ok::<(), logitkit::Error>(())
//! ```
//!
//! # Architecture
//!
//! Each layer knows only those below it, but that kernels and walks know each other.
//!
//! | file | answers |
//! |---|---|
//! | `python.rs` | what the Python package calls (feature `python`): dtypes, strides, overlap |
//! | `ops.rs` | the operations: shapes and labels checked, rows split over threads |
//! | `parallel.rs` | threads, their number, fork |
//! | `ops/compiled.rs` | the operations as code of this crate, not of each crate that uses it |
//! | `ops/staged.rs` | the same for 16-bit numbers and under masks (feature `python`) |
//! | `stage.rs` | rows copied and converted into what a kernel takes, and back (feature `python`) |
//! | `kernels/` | the mathematics, one file per operation, forward beside backward |
//! | `halves.rs` | rows of 16-bit numbers, for kernels that read them as they lie |
//! | `lines.rs` | how a kernel walks memory: long rows, short rows, strided columns |
//! | `interleave.rs` | short rows put side by side, and back, by permutations |
//! | `sums.rs` | sums over chunks, and means, without overflow on the way |
//! | `math.rs` | exp and logarithms on vectors: method, interval, error bound |
//! | `float.rs` | `f32` and `f64` with the constants of the method |
//! | `shape.rs`, `error.rs` | where the elements are; what can be wrong |
//! | `simd.rs` | vectors of fixed logical width; the instruction set as a run-time value |
//! | `exact.rs` | sums and products of numbers with what rounding takes from them |

mod error;
mod exact;
mod float;
mod halves;
mod interleave;
mod kernels;
mod lines;
mod math;
mod ops;
mod parallel;
#[cfg(feature = "python")]
mod python;
mod shape;
mod simd;
#[cfg(feature = "python")]
mod stage;
mod sums;

/// The bare loops that `cargo bench` measures the operations against.
#[doc(hidden)]
#[expect(unsafe_code, reason = "safe functions over slices call the loops over pointers")]
pub mod limits {
    use crate::{Float, ops};

    /// The sum of `x`, but for what is left over beyond whole groups of vectors.
    #[must_use]
    pub fn read<T: Float>(x: &[T]) -> f64 {
        // SAFETY: the slice's own length; it is only read.
        unsafe { (ops::compiled().read)(x.len(), x.as_ptr().cast_mut()) }
    }

    /// The sum of `exp(x)`, for elements of moderate size.
    #[must_use]
    pub fn exp_sum<T: Float>(x: &[T]) -> f64 {
        // SAFETY: as above.
        unsafe { (ops::compiled().exp_sum)(x.len(), x.as_ptr().cast_mut()) }
    }

    /// Copies `x` to `out`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy<T: Float>(x: &[T], out: &mut [T]) {
        assert_eq!(x.len(), out.len(), "as many elements");
        // SAFETY: both have that length and do not overlap; `x` is only read.
        unsafe { (ops::compiled().copy)(x.len(), x.as_ptr().cast_mut(), out.as_mut_ptr(), false) }
    }
}

pub use error::Error;
pub use float::Float;
pub use kernels::grad_hess::Hessian;
pub use kernels::labels::LabelType;
pub use ops::elementwise::{binary_cross_entropy_with_logits, mse_loss_weighted};
pub use ops::evaluation::{token_logprobs, top_k_logprobs};
pub use ops::log_loss::{log_loss, soft_log_loss};
pub use ops::{
    Label, classification_error, cross_entropy, cross_entropy_grad_hess, cross_entropy_rows,
    cross_entropy_value_and_grad, log_softmax, log_softmax_backward, log_softmax_in_place, logsumexp,
    logsumexp_backward, mse_loss, mse_loss_value_and_grad, soft_cross_entropy,
    soft_cross_entropy_value_and_grad, softmax, softmax_backward, softmax_in_place,
};
pub use parallel::{get_num_threads, set_num_threads, set_thread_override};
pub use shape::Shape;
pub use simd::{Level, level, set_level};
pub use sums::Reduction;
