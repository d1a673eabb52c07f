"""The kernels as torch operators with gradients: stars::token_assembly, stars::unfolded_rows."""

from typing import Any

import torch
from torch import Tensor

from . import launch, launch_rows
from .reference import token_rows


@torch.library.custom_op("stars::token_assembly", mutates_args=())
def assemble(
    rows: Tensor,
    index: Tensor | None,
    user: Tensor,
    table: Tensor,
    codes: Tensor,
    signals: Tensor,
    signal_weight: Tensor,
    read_out: Tensor,
    read_sequence: Tensor | None,
    ends: Tensor,
    offsets: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, read-outs and cuts; see `token_assembly`."""
    return launch.assemble(
        rows, index, user, table, codes, signals, signal_weight, read_out, read_sequence, ends,
        offsets, norm_weight, norm_bias, eps,
    )  # fmt: skip


@torch.library.custom_op("stars::token_assembly_backward", mutates_args=())
def assemble_backward(
    d_tokens: Tensor,
    d_read_outs: Tensor,
    index: Tensor | None,
    codes: Tensor,
    signals: Tensor,
    read_sequence: Tensor | None,
    offsets: Tensor | None,
    n_rows: int,
    n_table: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of rows (empty without an index), user, table and signal_weight."""
    return launch.assemble_backward(
        d_tokens, d_read_outs, index, codes, signals, read_sequence, offsets, n_rows, n_table
    )


@torch.library.custom_op("stars::unfolded_rows", mutates_args=())
def unfolded(
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tag_bits: Tensor,
    tag_weight: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Rows [n, D] of `dtype`; see `unfolded_rows`."""
    return launch_rows.unfolded(
        index, text, text_index, delta, tag_bits, tag_weight, project_weight, project_bias, dtype
    )


@torch.library.custom_op("stars::unfolded_rows_backward", mutates_args=())
def unfolded_backward(
    d_rows: Tensor,
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tag_bits: Tensor,
    tag_weight: Tensor,
    project_weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of delta, tag_weight, project_weight and project_bias."""
    return launch_rows.unfolded_backward(
        d_rows, index, text, text_index, delta, tag_bits, tag_weight, project_weight
    )


@assemble.register_fake
def _(
    rows: Tensor,
    index: Tensor | None,
    user: Tensor,
    table: Tensor,
    codes: Tensor,
    signals: Tensor,
    signal_weight: Tensor,
    read_out: Tensor,
    read_sequence: Tensor | None,
    ends: Tensor,
    offsets: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = launch.result_dtype(rows, user, table, signals, signal_weight, read_out)
    (b, d), r = user.shape, ends.shape[0]
    shape = (b, codes.shape[1] + 1, d) if offsets is None else (codes.shape[0] + b, d)
    tokens, read_outs = rows.new_empty(shape, dtype=dtype), rows.new_empty((r, d), dtype=dtype)
    return tokens, read_outs, torch.empty_like(ends, memory_format=torch.contiguous_format)


@assemble_backward.register_fake
def _(
    d_tokens: Tensor,
    d_read_outs: Tensor,
    index: Tensor | None,
    codes: Tensor,
    signals: Tensor,
    read_sequence: Tensor | None,
    offsets: Tensor | None,
    n_rows: int,
    n_table: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d = d_tokens.shape[-1]
    b = d_tokens.shape[0] if offsets is None else offsets.shape[0] - 1
    sizes = (0 if index is None else n_rows, b, n_table, signals.shape[-1])
    return tuple(d_tokens.new_empty(n, d) for n in sizes)  # type: ignore[return-value]


@unfolded.register_fake
def _(
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tag_bits: Tensor,
    tag_weight: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    return text.new_empty(index.shape[0], project_weight.shape[0], dtype=dtype)


@unfolded_backward.register_fake
def _(
    d_rows: Tensor,
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tag_bits: Tensor,
    tag_weight: Tensor,
    project_weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    learned = (delta, tag_weight, project_weight)
    d_delta, d_tags, d_weight = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in learned
    )
    return d_delta, d_tags, d_weight, project_weight.new_empty(project_weight.shape[0])


def _keep_assembly(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    rows, index, user, table, codes, signals, signal_weight, read_out = inputs[:8]
    read_sequence, ends, offsets, norm_weight, norm_bias, ctx.eps = inputs[8:]
    ctx.n_rows, ctx.n_table = rows.shape[0], table.shape[0]
    ctx.dtypes = tuple(x.dtype for x in (rows, user, table, signal_weight, read_out))
    # Only the norm's gradient needs the tokens themselves; it computes them again.
    of_norm = (rows, user, table, signal_weight, read_out, ends, norm_weight, norm_bias)
    ctx.save_for_backward(
        index, codes, signals, read_sequence, offsets, *(of_norm if norm_weight is not None else ())
    )
    ctx.mark_non_differentiable(output[2])


def _assembly_gradient(ctx: Any, d_tokens: Tensor, d_read_outs: Tensor, _: Any) -> tuple[Any, ...]:
    index, codes, signals, read_sequence, offsets, *of_norm = ctx.saved_tensors
    d_weight = d_bias = None
    if of_norm:
        d_tokens, d_read_outs, d_weight, d_bias = _norm_gradient(ctx, d_tokens, d_read_outs)
    d_rows, d_user, d_table, d_signal_weight = assemble_backward(
        d_tokens, d_read_outs, index, codes, signals, read_sequence, offsets, ctx.n_rows,
        ctx.n_table,
    )  # fmt: skip
    if index is None:
        # Each event has a row of its own, so that the token's gradient is the row's.
        d_rows = (
            d_tokens[:, 1:] if offsets is None else d_tokens[token_rows(offsets, len(codes))[1]]
        )
    d_read_out = d_read_outs.sum(dim=0, dtype=torch.float32)
    gradients = (d_rows, d_user, d_table, d_signal_weight, d_read_out)
    d_rows, d_user, d_table, d_signal_weight, d_read_out = (
        gradient.to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
    )
    return (
        d_rows, None, d_user, d_table, None, None, d_signal_weight, d_read_out, None, None, None,
        d_weight, d_bias, None,
    )  # fmt: skip


def _norm_gradient(
    ctx: Any, d_tokens: Tensor, d_read_outs: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the tokens and read-outs before the norm, and of its weight and bias."""
    index, codes, signals, read_sequence, offsets, *of_norm = ctx.saved_tensors
    rows, user, table, signal_weight, read_out, ends, weight, bias = of_norm
    tokens, read_outs, _ = assemble(
        rows, index, user, table, codes, signals, signal_weight, read_out, read_sequence, ends,
        offsets, None, None, ctx.eps,
    )  # fmt: skip
    x = torch.cat([tokens.flatten(0, -2), read_outs]).float()
    gradient = torch.cat([d_tokens.flatten(0, -2), d_read_outs]).float()
    shape = x.shape[-1:]
    _, mean, scale = torch.native_layer_norm(x, shape, weight.float(), bias.float(), ctx.eps)
    d_x, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, x, shape, mean, scale, weight.float(), bias.float(), [True, True, True]
    )
    d_x = d_x.to(d_tokens.dtype)
    n = len(d_x) - len(d_read_outs)
    return d_x[:n].view_as(d_tokens), d_x[n:], d_weight.to(weight.dtype), d_bias.to(bias.dtype)


def _keep_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.bias_dtype = inputs[7].dtype


def _rows_gradient(ctx: Any, d_rows: Tensor) -> tuple[Any, ...]:
    d_delta, d_tags, d_weight, d_bias = unfolded_backward(d_rows, *ctx.saved_tensors)
    return None, None, None, d_delta, None, d_tags, d_weight, d_bias.to(ctx.bias_dtype), None


assemble.register_autograd(_assembly_gradient, setup_context=_keep_assembly)
unfolded.register_autograd(_rows_gradient, setup_context=_keep_rows)
