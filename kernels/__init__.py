"""Operators of the STARS engine: one folder an op, whose `reference.py` is the specification."""

OWNER = "stars-engine"
