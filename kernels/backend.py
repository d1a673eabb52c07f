"""Which implementation of an operator runs, and why."""

import os
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

Backend = Literal["auto", "triton", "reference"]
OVERRIDE = "STARS_KERNELS"  # environment: what "auto" means in this process


class BackendUnavailable(RuntimeError):  # noqa: N818 - reads as what it says
    """A backend was asked for that cannot run here; says why."""


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it."""

    backend: Literal["triton", "reference"]
    reason: str


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors: for tests, never for speed."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose(
    op: str, backend: Backend, device: torch.device, unsupported: str | None = None
) -> Choice:
    """The backend that runs `op` for tensors on `device`.

    Args:
        op: name for messages.
        backend: what the caller asked for; "auto" first reads STARS_KERNELS.
        unsupported: why the kernel cannot take these arguments at all, None where it can.
    Raises:
        BackendUnavailable: "triton" was asked for and cannot run.
        ValueError: an unknown backend, or STARS_KERNELS holds one; lists the known.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"{op}: backend: expected one of {get_args(Backend)}, got {backend!r}")
    asked = "the caller asked for it"
    if backend == "auto" and OVERRIDE in os.environ:
        if os.environ[OVERRIDE] not in get_args(Backend):
            raise ValueError(
                f"{OVERRIDE}: expected one of {get_args(Backend)}, got {os.environ[OVERRIDE]!r}"
            )
        backend = cast(Backend, os.environ[OVERRIDE])
        asked = f"{OVERRIDE} asks for it"
    obstacle = unsupported
    # Meta tensors go the way that the operator's fake describes.
    if obstacle is None and device.type not in ("cuda", "meta") and not interpreting():
        obstacle = f"the tensors are on {device.type}, Triton kernels need a CUDA device"
    if backend == "triton" and obstacle is not None:
        raise BackendUnavailable(f"{op}: backend 'triton' cannot run: {obstacle}")
    if backend != "auto":
        return Choice(backend, asked)
    if obstacle is not None:
        return Choice("reference", obstacle)
    if device.type == "cpu":
        return Choice("reference", "the tensors are on cpu; Triton's interpreter is for tests")
    return Choice("triton", f"the tensors are on {device.type}")
