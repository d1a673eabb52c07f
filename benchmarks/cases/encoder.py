"""Encoder runtimes, full and incremental."""

from benchmarks.case import Opener

CASES: dict[str, Opener] = {}
