"""Public token assembly: checks its arguments and chooses a backend."""

import torch
from torch import Tensor

from kernels.backend import Backend, Choice, choose
from kernels.checks import check_shape

from . import reference
from .launch import MAX_CODES, MAX_SIGNALS
from .ops import assemble
from .reference import Assembled

OP = "token_assembly"
KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def token_assembly(
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
    *,
    offsets: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> Assembled:
    """Equals concat(user, rows[index] + Σ table[codes] + signals @ signal_weight), user + read_out.

    Args:
        rows: [N, D] fp16/bf16/fp32 item rows Proj(v), gathered by `index`; without one [B, L, D],
            or packed [T, D], one row an event. Floating arguments may differ in dtype; the result
            has what torch promotes them to.
        index: [B, L] or [T] int32/int64, 0 <= index < N, or None.
        user: [B, D] the [USER] vector, first token of every sequence.
        table: [V, D] all small tables, one below the other.
        codes: [B, L, F] or [T, F] int32/int64 rows of `table` to sum.
        signals: [B, L, S] or [T, S] external signals, data without a gradient.
        signal_weight: [S, D]; read_out: [D] type embedding of a read-out.
        read_sequence: [R] int32/int64 sequence of each read-out; None for R = B, in order.
        ends: [R] int32/int64 events of its sequence before each read-out.
        offsets: [B + 1] int32/int64 from 0 to T, ascending, where each sequence's events start;
            None for the padded form. Not checked: that would wait for the device.
        norm: weight and bias [D] of a layer norm over tokens and read-outs, or None.
        eps: of the norm.
        backend: see `explain`.
    Returns:
        tokens [B, L + 1, D], or packed [T + B, D] with sequence b's from row offsets[b] + b on;
        read_outs [R, D]; cuts [R] = ends + 1, the keys that each read-out sees.
    Raises:
        ValueError, TypeError: an argument outside the above; names it.
        BackendUnavailable: "triton" was asked for and cannot run.
    Exactness: fp32 sums, one rounding; no atomics, so the same bits every time. A token and the
        gradient of a row do not change with what else is in the batch.
    """
    _check(rows, index, user, table, codes, signals, signal_weight, read_out)
    _check_places(user, codes, read_sequence, ends, offsets, norm)
    floats = (rows, user, table, signals, signal_weight, read_out, *(norm or ()))
    choice = explain(floats, codes.shape[-1], signals.shape[-1], backend=backend)
    if choice.backend == "reference":
        return reference.token_assembly(
            rows, index, user, table, codes, signals, signal_weight, read_out, read_sequence, ends,
            offsets, norm, eps,
        )  # fmt: skip
    weight, bias = norm or (None, None)
    return Assembled(
        *assemble(
            rows, index, user, table, codes, signals, signal_weight, read_out, read_sequence, ends,
            offsets, weight, bias, eps,
        )
    )  # fmt: skip


def explain(
    floats: tuple[Tensor, ...], n_codes: int, n_signals: int, *, backend: Backend = "auto"
) -> Choice:
    """The backend that `token_assembly` runs for such arguments, and why.

    Args:
        floats: all floating arguments; the first one's device decides.
        n_codes, n_signals: F and S.
    Raises:
        ValueError, BackendUnavailable: see `kernels.backend.choose`.
    """
    unsupported = unsupported_dtype(floats)
    if n_codes > MAX_CODES:
        unsupported = f"at most {MAX_CODES} codes an event, got {n_codes}"
    if n_signals > MAX_SIGNALS:
        unsupported = f"at most {MAX_SIGNALS} signals an event, got {n_signals}"
    return choose(OP, backend, floats[0].device, unsupported)


def unsupported_dtype(floats: tuple[Tensor, ...]) -> str | None:
    """Why the kernels cannot take these dtypes, None where they can."""
    others = {x.dtype for x in floats} - set(KERNEL_DTYPES)
    return f"kernels take fp16, bf16 and fp32, got {others.pop()}" if others else None


def _check(
    rows: Tensor,
    index: Tensor | None,
    user: Tensor,
    table: Tensor,
    codes: Tensor,
    signals: Tensor,
    signal_weight: Tensor,
    read_out: Tensor,
) -> None:
    """Raises unless shapes and dtypes of what a token sums agree."""
    d, events = user.shape[-1], tuple(codes.shape[:-1])
    check_rank(OP, "user", user, (2,))
    check_rank(OP, "table", table, (2,))
    check_rank(OP, "signal_weight", signal_weight, (2,))
    if index is None:
        check_shape(OP, "rows", rows, (*events, d))
    else:
        check_int(OP, "index", index)
        check_shape(OP, "index", index, events)
        check_shape(OP, "rows", rows, (*rows.shape[:1], d))
    check_int(OP, "codes", codes)
    check_shape(OP, "table", table, (table.shape[0], d))
    check_shape(OP, "signals", signals, (*events, signal_weight.shape[0]))
    check_shape(OP, "signal_weight", signal_weight, (signal_weight.shape[0], d))
    check_shape(OP, "read_out", read_out, (d,))
    if signals.requires_grad:
        raise ValueError(f"{OP}: signals: expected data without a gradient, got requires_grad")


def _check_places(
    user: Tensor,
    codes: Tensor,
    read_sequence: Tensor | None,
    ends: Tensor,
    offsets: Tensor | None,
    norm: tuple[Tensor, Tensor] | None,
) -> None:
    """Raises unless the sequences, the read-outs and the norm fit `user` [B, D]."""
    b, d = user.shape
    check_int(OP, "ends", ends)
    check_rank(OP, "ends", ends, (1,))
    if read_sequence is None:
        check_shape(OP, "ends", ends, (b,))
    else:
        check_int(OP, "read_sequence", read_sequence)
        check_shape(OP, "read_sequence", read_sequence, tuple(ends.shape))
    check_rank(OP, "codes", codes, (3,) if offsets is None else (2,))
    if offsets is None:
        check_shape(OP, "user", user, (codes.shape[0], d))
    else:
        check_int(OP, "offsets", offsets)
        check_shape(OP, "offsets", offsets, (b + 1,))
    for name, value in zip(("norm weight", "norm bias"), norm or (), strict=False):
        check_shape(OP, name, value, (d,))


def check_rank(op: str, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raises ValueError unless `tensor` has one of the expected numbers of dimensions."""
    if tensor.ndim not in expected:
        raise ValueError(
            f"{op}: {name}: expected {expected[0]} dimensions, got shape {tuple(tensor.shape)}"
        )


def check_int(op: str, name: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` is int32 or int64."""
    if tensor.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: {name}: expected int32 or int64, got {tensor.dtype}")
