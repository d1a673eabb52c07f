"""One softmax over a position's own candidates and the shared ones."""

from .api import candidate_softmax, explain
from .reference import CandidateLoss

__all__ = ["CandidateLoss", "candidate_softmax", "explain"]
