"""Public score_topk: checks its arguments, chooses a backend, registers the operator."""

import torch
from torch import Tensor

from kernels.backend import Backend, Choice, choose, interpreting
from kernels.checks import check_dtype, check_shape

from . import launch
from .reference import TopK
from .reference import score_topk as reference

OP = "score_topk"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def score_topk(
    queries: Tensor,
    items: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    k: int,
    *,
    backend: Backend = "auto",
) -> TopK:
    """Equals torch.topk((queries @ items.T + bias).masked_fill(~mask, -inf), k), ties to the lower.

    Args:
        queries: [B, D] fp16/bf16/fp32, contiguous.
        items: [N, D] same dtype, contiguous; rows of a multiple of 16 bytes load fastest.
        bias: [N] fp32, contiguous.
        mask: [B, ceil(N / 32)] int32 words, contiguous, bit j of word w is item 32 w + j; bits past
            the last item are not read. None keeps all.
        k: 1 <= k <= 500, may exceed N.
        backend: "auto" is the kernels on CUDA and the reference elsewhere; see `explain`.
    Returns:
        TopK of values [B, k] fp32 descending and indices [B, k] int64, -inf and -1 where fewer
        qualify; an item whose score is NaN or -inf does not.
    Raises:
        ValueError, TypeError: a shape, dtype or k outside the above; names the argument, expected,
            got.
        BackendUnavailable: "triton" was asked for and cannot run these arguments.
    Exactness: fp32 accumulation in a fixed order; the same bits whatever the batch and the shape
        class; swaps against the reference only within the score error. The reference is
        differentiable in its values; the kernels are not: torch raises in backward.
    """
    _validate(queries, items, bias, mask, k)
    if explain(queries, items, backend=backend).backend == "reference":
        return reference(queries, items, bias, mask, k)
    return TopK(*torch.ops.stars.score_topk(queries, items, bias, mask, k))


def explain(queries: Tensor, items: Tensor, *, backend: Backend = "auto") -> Choice:
    """The backend that runs for `queries` [B, D] and `items` [N, D], and why.

    Raises:
        BackendUnavailable, ValueError: as `kernels.backend.choose`.
    """
    unsupported = None
    d, n = queries.shape[1], items.shape[0]
    if d > launch.MAX_DIM:
        unsupported = f"the kernels take 1 to {launch.MAX_DIM} dimensions, queries have {d}"
    elif n > launch.MAX_ITEMS:
        unsupported = f"the kernels take up to {launch.MAX_ITEMS} items, got {n}"
    elif queries.dtype == torch.bfloat16 and queries.device.type == "cpu" and interpreting():
        unsupported = "Triton's interpreter computes bf16 wrongly"
    return choose(OP, backend, queries.device, unsupported)


def _validate(queries: Tensor, items: Tensor, bias: Tensor, mask: Tensor | None, k: int) -> None:
    if queries.ndim != 2 or queries.shape[1] == 0:
        raise ValueError(
            f"{OP}: queries: expected shape (B, D) with D at least 1, got {tuple(queries.shape)}"
        )
    if queries.dtype not in DTYPES:
        raise TypeError(f"{OP}: queries: expected one of {DTYPES}, got {queries.dtype}")
    b, d = queries.shape
    n = items.shape[0] if items.ndim else 0
    check_shape(OP, "items", items, (n, d))
    check_dtype(OP, "items", items, queries.dtype)
    check_shape(OP, "bias", bias, (n,))
    check_dtype(OP, "bias", bias, torch.float32)
    tensors = {"queries": queries, "items": items, "bias": bias}
    if mask is not None:
        check_shape(OP, "mask", mask, (b, -(-n // launch.WORD_BITS)))
        check_dtype(OP, "mask", mask, torch.int32)
        tensors["mask"] = mask
    for name, tensor in tensors.items():
        if tensor.device != queries.device:
            raise ValueError(f"{OP}: {name}: expected on {queries.device}, got {tensor.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{OP}: {name}: expected contiguous, got strides {tensor.stride()}")
    if not 1 <= k <= launch.MAX_K:
        raise ValueError(f"{OP}: k: expected 1 to {launch.MAX_K}, got {k}")


@torch.library.custom_op("stars::score_topk", mutates_args=())
def score_topk_op(
    queries: Tensor, items: Tensor, bias: Tensor, mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """As `score_topk`, by the kernels, with arguments that were checked."""
    return launch.score_topk(queries, items, bias, mask, k)


@score_topk_op.register_fake
def _(
    queries: Tensor, items: Tensor, bias: Tensor, mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(
        shape, dtype=torch.int64
    )
