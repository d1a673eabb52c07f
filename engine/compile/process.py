"""A process in which Triton compiles: one that interprets kernels cannot, and tests do.

Nothing of `kernels` may be imported here: a kernel's module decides when it is imported.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def compiling_process() -> ProcessPoolExecutor:
    """A pool of one process that does not interpret, whatever this one does."""
    return ProcessPoolExecutor(1, get_context("spawn"), _compile)


def _compile() -> None:
    os.environ.pop("TRITON_INTERPRET", None)
