"""Public candidate softmax: checks its arguments, chooses a backend, registers the operators."""

from typing import Any

import torch
from torch import Tensor

from kernels.backend import Backend, Choice, choose, interpreting
from kernels.checks import check_dtype, check_shape

from . import launch
from .reference import CandidateLoss
from .reference import candidate_softmax as reference

OP = "candidate_softmax"


def candidate_softmax(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor,
    shared: Tensor,
    shared_log_pi: Tensor,
    candidates: Tensor,
    log_pi: Tensor,
    offset: Tensor,
    weight: Tensor,
    negative: Tensor,
    *,
    backend: Backend = "auto",
) -> CandidateLoss:
    """Equals -Σ_j weight_j log softmax(hidden @ items.T + bias + offset - log π)_j by row.

    Args:
        hidden: [P, D] fp16/bf16/fp32.
        items: [N, D], dtype of `hidden`.
        bias: [N] fp32.
        shared: [S] int64, unique; every item of a whole catalogue too.
        shared_log_pi: [S] fp32.
        candidates: [P, C] int64, unique within a row, -1 pads; nothing else is read under a pad.
        log_pi, offset, weight: [P, C] fp32.
        negative: [P, C] bool.
        backend: "auto" is the kernels on CUDA and the reference elsewhere; see `explain`.
    Returns:
        CandidateLoss of loss, negative_loss and logsumexp, [P] fp32 each, as in `reference.py`.
    Raises:
        ValueError, TypeError: a shape or dtype outside the above; names the argument.
        BackendUnavailable: "triton" was asked for and cannot run these arguments.
    Exactness: fp32 sums in a fixed order; a row's bits are the same whatever other rows are there;
        differentiable, and deterministically so, in hidden, items and offset.
    """
    (p, d), c = hidden.shape, candidates.shape[-1]
    check_shape(OP, "items", items, (items.shape[0], d))
    check_shape(OP, "bias", bias, (items.shape[0],))
    check_shape(OP, "shared_log_pi", shared_log_pi, tuple(shared.shape))
    for name, tensor in (
        ("candidates", candidates),
        ("log_pi", log_pi),
        ("offset", offset),
        ("weight", weight),
        ("negative", negative),
    ):
        check_shape(OP, name, tensor, (p, c))
    check_dtype(OP, "items", items, hidden.dtype)
    check_dtype(OP, "shared", shared, torch.int64)
    check_dtype(OP, "candidates", candidates, torch.int64)
    check_dtype(OP, "negative", negative, torch.bool)
    reals = (bias, shared_log_pi, log_pi, offset, weight)
    arguments = (
        hidden, items, bias, shared, shared_log_pi, candidates, log_pi, offset, weight, negative
    )  # fmt: skip
    if explain(hidden, *reals, backend=backend).backend == "reference":
        return reference(*arguments)
    loss, negative_loss, logsumexp, _, _ = torch.ops.stars.candidate_softmax(*arguments)
    return CandidateLoss(loss, negative_loss, logsumexp)


def explain(hidden: Tensor, *reals: Tensor, backend: Backend = "auto") -> Choice:
    """The backend that runs for `hidden` [P, D] and the fp32 arguments `reals`, and why.

    Raises:
        BackendUnavailable, ValueError: as `kernels.backend.choose`.
    """
    unsupported = None
    dtype, d = hidden.dtype, hidden.shape[1]
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        unsupported = f"the kernels take fp16, bf16 and fp32, hidden is {dtype}"
    elif not 1 <= d <= launch.MAX_DIMENSION:
        unsupported = f"the kernels take 1 to {launch.MAX_DIMENSION} dimensions, hidden has {d}"
    elif wrong := [real.dtype for real in reals if real.dtype != torch.float32]:
        unsupported = f"the kernels take bias, log π, offset and weight in fp32, not {wrong[0]}"
    elif dtype == torch.bfloat16 and hidden.device.type == "cpu" and interpreting():
        unsupported = "Triton's interpreter computes bf16 wrongly"
    return choose(OP, backend, hidden.device, unsupported)


@torch.library.custom_op("stars::candidate_softmax", mutates_args=())
def forward_op(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor,
    shared: Tensor,
    shared_log_pi: Tensor,
    candidates: Tensor,
    log_pi: Tensor,
    offset: Tensor,
    weight: Tensor,
    negative: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `candidate_softmax`, with Σ w of the targets and the count of negatives, [P] fp32 each."""
    return launch.forward(
        launch.Inputs.of(
            hidden, items, bias, shared, shared_log_pi, candidates, log_pi, offset, weight, negative
        )
    )


@forward_op.register_fake
def _(hidden: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    return tuple(hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(5))


@torch.library.custom_op("stars::candidate_softmax_backward", mutates_args=())
def backward_op(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor,
    shared: Tensor,
    shared_log_pi: Tensor,
    candidates: Tensor,
    log_pi: Tensor,
    offset: Tensor,
    weight: Tensor,
    negative: Tensor,
    logsumexp: Tensor,
    weight_sum: Tensor,
    negative_count: Tensor,
    d_loss: Tensor,
    d_negative_loss: Tensor,
    d_logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, items and offset from those of the three outputs, [P] fp32 each."""
    inputs = launch.Inputs.of(
        hidden, items, bias, shared, shared_log_pi, candidates, log_pi, offset, weight, negative
    )
    d_sum = d_loss * weight_sum + d_logsumexp
    d_negative = d_negative_loss / negative_count.clamp(min=1)
    return launch.backward(inputs, d_loss.contiguous(), d_sum, d_negative, logsumexp)


@backward_op.register_fake
def _(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor,
    shared: Tensor,
    shared_log_pi: Tensor,
    candidates: Tensor,
    log_pi: Tensor,
    offset: Tensor,
    *_: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        torch.empty_like(items, memory_format=torch.contiguous_format),
        torch.empty_like(offset, memory_format=torch.contiguous_format),
    )


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[3:])
    ctx.save_for_backward(*inputs, *output[2:])


def _backward(
    ctx: Any, d_loss: Tensor, d_negative_loss: Tensor, d_logsumexp: Tensor, *_: Tensor
) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.stars.candidate_softmax_backward(
        *ctx.saved_tensors, d_loss, d_negative_loss, d_logsumexp
    )
    d_hidden, d_items, d_offset = gradients
    return d_hidden, d_items, None, None, None, None, None, d_offset, None, None


forward_op.register_autograd(_backward, setup_context=_save)
