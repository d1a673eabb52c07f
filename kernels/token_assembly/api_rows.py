"""Public unfolded rows: checks its arguments, chooses a backend."""

import torch
from torch import Tensor

from kernels.backend import Backend, Choice, choose
from kernels.checks import check_dtype, check_shape

from . import reference
from .api import check_int, check_rank, unsupported_dtype
from .ops import unfolded
from .tags import Tags

OP = "unfolded_rows"


def unfolded_rows(
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tags: Tags,
    tag_weight: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Equals linear(concat(text[text_index] + delta, Σ tag_weight[tags]), project) at `index`.

    Args:
        index: [n] int32/int64 items, 0 <= index < N, each at most once: the gradient of Δ is
            written, not summed.
        text: [T, d_e] fp16/bf16/fp32 frozen text embeddings; no gradient goes there.
        text_index: [N] int32/int64 row of `text` of each item.
        delta: [N, d_e] learned residual.
        tags: of the N items, from `pack_tags`.
        tag_weight: [V, d_a] rows of W_attr, one a tag.
        project_weight: [D, d_e + d_a]; project_bias: [D].
        backend: see `explain_rows`.
    Returns:
        [n, D] rows Proj(v), of the projection's dtype, or autocast's inside one.
    Raises:
        ValueError, TypeError: an argument outside the above; names it.
        BackendUnavailable: "triton" was asked for and cannot run.
    Exactness: fp32 accumulation in a fixed order, v rounded to the result's dtype first; a row has
        the same bits whatever the other rows. No atomics: gradients have the same bits each time.
    """
    _check(index, text, text_index, delta, tags, tag_weight, project_weight, project_bias)
    floats = (text, delta, tag_weight, project_weight, project_bias)
    if explain_rows(floats, backend=backend).backend == "reference":
        return reference.unfolded_rows(
            index, text, text_index, delta, tags, tag_weight, project_weight, project_bias
        )
    device = text.device.type
    half = device != "meta" and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if half else project_weight.dtype
    rows: Tensor = unfolded(
        index, text, text_index, delta, tags.bits, tag_weight, project_weight, project_bias, dtype
    )
    return rows


def explain_rows(floats: tuple[Tensor, ...], *, backend: Backend = "auto") -> Choice:
    """The backend that `unfolded_rows` runs for such floating arguments, and why.

    Raises:
        ValueError, BackendUnavailable: see `kernels.backend.choose`.
    """
    return choose(OP, backend, floats[0].device, unsupported_dtype(floats))


def _check(
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tags: Tags,
    tag_weight: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
) -> None:
    """Raises unless shapes and dtypes agree."""
    for name, value in (("index", index), ("text_index", text_index)):
        check_int(OP, name, value)
        check_rank(OP, name, value, (1,))
    for name, value in (("text", text), ("tag_weight", tag_weight), ("delta", delta)):
        check_rank(OP, name, value, (2,))
    check_rank(OP, "project_weight", project_weight, (2,))
    n_items, d_e = len(text_index), text.shape[1]
    n_tags, d_a = tag_weight.shape
    check_shape(OP, "delta", delta, (n_items, d_e))
    check_dtype(OP, "tags.bits", tags.bits, torch.int32)
    check_shape(OP, "tags.bits", tags.bits, (n_items, -(-n_tags // 32)))
    check_shape(OP, "tags.offsets", tags.offsets, (n_items + 1,))
    check_shape(OP, "project_weight", project_weight, (project_weight.shape[0], d_e + d_a))
    check_shape(OP, "project_bias", project_bias, (project_weight.shape[0],))
    if text.requires_grad:
        raise ValueError(f"{OP}: text: expected frozen embeddings, got requires_grad")
