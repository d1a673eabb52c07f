"""The request path without a server."""

from benchmarks.case import Opener

CASES: dict[str, Opener] = {}
