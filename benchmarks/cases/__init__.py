"""Every case by name; a module a subject, each with its own CASES."""

from benchmarks.case import Opener

from . import encoder, kernels, request, retrieval, server

CASES: dict[str, Opener] = {
    **kernels.CASES,
    **encoder.CASES,
    **retrieval.CASES,
    **request.CASES,
    **server.CASES,
}
