"""The served model, over gRPC and HTTP, under load."""

from benchmarks.case import Opener

CASES: dict[str, Opener] = {}
