"""Softmax, log-sum-exp, cross-entropy and mean squared error with gradients, for NumPy arrays.

Every function takes what `numpy.asarray` takes, computes float32 and float64 in compiled kernels,
and returns plain arrays, or NumPy scalars where no axis is left. The positional parameters of
`logsumexp`, `softmax` and `log_softmax` are those of `scipy.special`.

Normalisation
    `softmax`, `log_softmax`, `logsumexp`
Their gradients, from saved values
    `softmax_backward`, `log_softmax_backward`, `logsumexp_backward`
Losses, alone or with their gradient in one pass
    `cross_entropy`, `cross_entropy_value_and_grad`, `mse_loss`, `mse_loss_value_and_grad`,
    `binary_cross_entropy_with_logits`, `binary_cross_entropy_with_logits_value_and_grad`,
    `log_loss`, `log_loss_value_and_grad`
Gradient boosting
    `cross_entropy_grad_hess`
Evaluation
    `classification_error`, `token_logprobs`, `top_k_logprobs`
Control
    `get_num_threads`, `set_num_threads`, `threads`, `simd_level`, `show_config`

Examples
--------
>>> import numpy as np
>>> import logitkit as lk
>>> print(lk.softmax([1.0, 2.0, 3.0]))
[0.09003057 0.24472847 0.66524096]
>>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
>>> loss, grad = lk.cross_entropy_value_and_grad(logits, [0, 1])
>>> print(loss.round(4))
1.2047
>>> print(grad.round(4))
[[-0.1065  0.0533  0.0533]
 [ 0.021  -0.4429  0.4219]]
"""

from ._binary import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_value_and_grad,
)
from ._boosting import cross_entropy_grad_hess
from ._control import get_num_threads, set_num_threads, show_config, simd_level, threads
from ._evaluation import token_logprobs, top_k_logprobs
from ._functional import (
    log_softmax,
    log_softmax_backward,
    logsumexp,
    logsumexp_backward,
    softmax,
    softmax_backward,
)
from ._log_loss import log_loss, log_loss_value_and_grad
from ._logitkit_core import __version__
from ._losses import (
    classification_error,
    cross_entropy,
    cross_entropy_value_and_grad,
    mse_loss,
    mse_loss_value_and_grad,
)

__all__ = [
    "__version__",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_value_and_grad",
    "classification_error",
    "cross_entropy",
    "cross_entropy_grad_hess",
    "cross_entropy_value_and_grad",
    "get_num_threads",
    "log_loss",
    "log_loss_value_and_grad",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "logsumexp_backward",
    "mse_loss",
    "mse_loss_value_and_grad",
    "set_num_threads",
    "show_config",
    "simd_level",
    "softmax",
    "softmax_backward",
    "threads",
    "token_logprobs",
    "top_k_logprobs",
]
