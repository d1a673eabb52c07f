"""Operators of the STARS engine: one folder an op, whose `reference.py` is the specification."""

OWNER = "stars-engine"
OPS = ("token_assembly", "attention", "candidate_softmax", "score_topk", "token_gate")
