"""Search under filters."""

from benchmarks.case import Opener

CASES: dict[str, Opener] = {}
