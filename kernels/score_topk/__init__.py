"""The k best items of each query, exactly: scores, filter and selection in one scan."""

from .api import explain, score_topk
from .reference import TopK

__all__ = ["TopK", "explain", "score_topk"]
