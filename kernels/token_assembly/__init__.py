"""Tokens of a sequence from item rows, small tables and the [USER] vector."""

from .api import token_assembly, unfolded_rows

__all__ = ["token_assembly", "unfolded_rows"]
