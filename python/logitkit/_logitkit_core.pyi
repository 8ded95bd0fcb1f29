# The compiled module. Its functions do all the work for plain input (exact ndarrays, native
# float16, bfloat16, float32 or float64, strides that fold into outer x class x inner) and return
# NotImplemented for anything else, hence Any. A mask has the shape of its operand.

from typing import Any

__version__: str

def softmax(x: object, axis: object, out: object, /) -> Any: ...
def log_softmax(x: object, axis: object, out: object, /) -> Any: ...
def logsumexp(a: object, axis: object, keepdims: object, out: object, /) -> Any: ...
def softmax_backward(grad: object, y: object, axis: object, out: object, /) -> Any: ...
def log_softmax_backward(grad: object, y: object, axis: object, out: object, /) -> Any: ...
def logsumexp_backward(
    grad: object, a: object, lse: object, axis: object, keepdims: object, out: object, /
) -> Any: ...
def cross_entropy(
    logits: object,
    labels: object,
    axis: object,
    ignore_index: object,
    reduction: object,
    out: object,
    /,
) -> Any: ...
def cross_entropy_value_and_grad(
    logits: object,
    labels: object,
    axis: object,
    ignore_index: object,
    reduction: object,
    grad_output: object,
    grad_out: object,
    /,
) -> Any: ...
def normalize(
    x: object,
    axis: object,
    log: object,
    temperature: object,
    lse: object,
    out: object,
    mask: object,
    /,
) -> Any: ...
def backward(
    grad: object, y: object, axis: object, log: object, temperature: object, out: object, /
) -> Any: ...
def cross_entropy_with(
    logits: object,
    labels: object,
    axis: object,
    ignore_index: object,
    reduction: object,
    options: object,
    mask: object,
    out: object,
    /,
) -> Any: ...
def cross_entropy_with_value_and_grad(
    logits: object,
    labels: object,
    axis: object,
    ignore_index: object,
    reduction: object,
    options: object,
    mask: object,
    grad_output: object,
    grad_out: object,
    /,
) -> Any: ...
def mse_loss(
    pred: object, target: object, weight: object, reduction: object, out: object, /
) -> Any: ...
def mse_loss_value_and_grad(
    pred: object,
    target: object,
    weight: object,
    reduction: object,
    grad_output: object,
    grad_out: object,
    /,
) -> Any: ...
def binary_cross_entropy_with_logits(
    logits: object,
    targets: object,
    pos_weight: object,
    weight: object,
    reduction: object,
    out: object,
    /,
) -> Any: ...
def binary_cross_entropy_with_logits_value_and_grad(
    logits: object,
    targets: object,
    pos_weight: object,
    weight: object,
    reduction: object,
    grad_output: object,
    grad_out: object,
    /,
) -> Any: ...
def log_loss(
    probs: object,
    labels: object,
    axis: object,
    sample_weight: object,
    ignore_index: object,
    reduction: object,
    out: object,
    /,
) -> Any: ...
def log_loss_value_and_grad(
    probs: object,
    labels: object,
    axis: object,
    sample_weight: object,
    ignore_index: object,
    reduction: object,
    grad_output: object,
    grad_out: object,
    /,
) -> Any: ...
def classification_error(
    scores: object,
    labels: object,
    axis: object,
    sample_weight: object,
    ignore_index: object,
    reduction: object,
    /,
) -> Any: ...
def token_logprobs(
    logits: object, labels: object, axis: object, temperature: object, ignore_index: object, /
) -> Any: ...
def top_k_logprobs(logits: object, k: object, axis: object, temperature: object, /) -> Any: ...
def cross_entropy_grad_hess(
    scores: object,
    labels: object,
    sample_weight: object,
    hessian: object,
    hess_scale: object,
    hess_floor: object,
    single: object,
    order: object,
    out: object,
    /,
) -> Any: ...
def logsumexp_weighted(
    a: object, b: object, axis: object, return_sign: object, mask: object, /
) -> Any: ...
def logsumexp_backward_weighted(
    grad: object,
    a: object,
    lse: object,
    axis: object,
    b: object,
    keepdims: object,
    out: object,
    /,
) -> Any: ...
def logsumexp_masked(
    a: object, axis: object, keepdims: object, out: object, mask: object, /
) -> Any: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def set_thread_override(n: int, /) -> int: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def set_simd_level(name: str, /) -> str: ...
def cpu_name() -> str: ...
def _limit_read(a: object, /) -> float: ...
def _limit_copy(src: object, dst: object, /) -> None: ...
def _limit_stream(src: object, dst: object, /) -> None: ...
def _limit_expsum(a: object, /) -> float: ...
