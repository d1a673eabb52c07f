"""Argument checks that every operator shares."""

import torch
from torch import Tensor


def check_shape(op: str, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raises ValueError unless `tensor` has the expected shape."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{op}: {name}: expected shape {expected}, got {tuple(tensor.shape)}")


def check_dtype(op: str, name: str, tensor: Tensor, expected: torch.dtype) -> None:
    """Raises TypeError unless `tensor` has the expected dtype."""
    if tensor.dtype != expected:
        raise TypeError(f"{op}: {name}: expected {expected}, got {tensor.dtype}")
