"""Public token assembly: checks its arguments and runs the reference."""

from collections.abc import Sequence

from torch import Tensor

from kernels.checks import check_shape

from . import reference


def unfolded_rows(
    text: Tensor, delta: Tensor, tag_ids: Tensor, tag_offsets: Tensor, tag_weight: Tensor
) -> Tensor:
    """Equals concat(text + delta, Σ tag_weight[tags of the item]): the token v before projection.

    Args:
        text, delta: [n, d_e].
        tag_ids: [nnz] int64.
        tag_offsets: [n] int64, where each item's tags start.
        tag_weight: [V, d_a].
    Returns:
        [n, d_e + d_a].
    Raises:
        ValueError: a shape outside the above; names the argument.
    Exactness: differentiable in delta and tag_weight; no gradient into the frozen text.
    """
    check_shape("unfolded_rows", "delta", delta, tuple(text.shape))
    check_shape("unfolded_rows", "tag_offsets", tag_offsets, (text.shape[0],))
    return reference.unfolded_rows(text, delta, tag_ids, tag_offsets, tag_weight)


def token_assembly(
    rows: Tensor,
    user: Tensor,
    tables: Sequence[Tensor],
    indices: Sequence[Tensor],
    signals: Tensor,
    signal_weight: Tensor,
    read_out: Tensor,
    n_read_outs: int,
) -> tuple[Tensor, Tensor]:
    """Equals concat(user, rows + Σ tables[indices] + signals @ signal_weight), and user + read_out.

    Args:
        rows: [B, L, D].
        user: [B, D].
        tables: [V_i, D] each; indices: [B, L] or [1, L] int64 each, one a table.
        signals: [B, L, S]; signal_weight: [S, D].
        read_out: [D]; n_read_outs: read-outs a sequence.
    Returns:
        tokens [B, L + 1, D] and read_outs [B, n_read_outs, D].
    Raises:
        ValueError: a shape outside the above; names the argument.
    """
    op = "token_assembly"
    b, length, d = rows.shape
    check_shape(op, "user", user, (b, d))
    check_shape(op, "signals", signals, (b, length, signal_weight.shape[0]))
    check_shape(op, "signal_weight", signal_weight, (signal_weight.shape[0], d))
    check_shape(op, "read_out", read_out, (d,))
    if len(tables) != len(indices):
        raise ValueError(f"{op}: expected {len(tables)} indices, one a table, got {len(indices)}")
    for i, table in enumerate(tables):
        check_shape(op, f"tables[{i}]", table, (table.shape[0], d))
    for i, index in enumerate(indices):
        # Any other shape might broadcast too, to tokens that nobody meant.
        if index.shape[1:] != (length,) or index.shape[0] not in (b, 1):
            raise ValueError(
                f"{op}: indices[{i}]: expected shape {(b, length)} or {(1, length)}, "
                f"got {tuple(index.shape)}"
            )
    return reference.token_assembly(
        rows, user, tables, indices, signals, signal_weight, read_out, n_read_outs
    )
