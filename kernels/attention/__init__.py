"""Attention with a cut per query: causal, read-out, pooled and append are the same operator."""

from .api import attention, explain

__all__ = ["attention", "explain"]
