"""Tokens of a sequence from item rows, small tables and the [USER] vector."""

from .api import explain, token_assembly
from .api_rows import explain_rows, unfolded_rows
from .reference import Assembled, tag_sums
from .tags import Tags, pack_tags

__all__ = [
    "Assembled",
    "Tags",
    "explain",
    "explain_rows",
    "pack_tags",
    "tag_sums",
    "token_assembly",
    "unfolded_rows",
]
