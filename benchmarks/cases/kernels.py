"""The operators: bytes, resources, results and CPU times."""

from benchmarks.case import Opener

CASES: dict[str, Opener] = {}
