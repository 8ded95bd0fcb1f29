//! The mathematics: one file per operation, forward beside backward.

pub(crate) mod binary_cross_entropy;
pub(crate) mod classification_error;
pub(crate) mod cross_entropy;
pub(crate) mod grad_hess;
pub(crate) mod labels;
pub(crate) mod limits;
pub(crate) mod log_loss;
pub(crate) mod log_softmax;
pub(crate) mod logsumexp;
pub(crate) mod map;
pub(crate) mod mse;
#[cfg(feature = "python")]
pub(crate) mod positive_sum;
#[cfg(test)]
mod price;
pub(crate) mod regularized_cross_entropy;
pub(crate) mod rowsum;
pub(crate) mod soft_cross_entropy;
pub(crate) mod softmax;
pub(crate) mod temperature;
pub(crate) mod token_logprobs;
pub(crate) mod top_k;
pub(crate) mod total;
#[cfg(feature = "python")]
pub(crate) mod weighted_logsumexp;
pub(crate) mod weights;
