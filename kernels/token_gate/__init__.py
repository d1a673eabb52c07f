"""Each token takes a share of its domain token's value, by a gate of their agreement."""

from .api import explain, token_gate

__all__ = ["explain", "token_gate"]
