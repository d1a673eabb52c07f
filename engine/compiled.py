"""Loops over numpy arrays as machine code: one decorator, so that all are compiled alike.

The request path goes over a user's few hundred items, and over the sums of a scan, a number at a
time and with branches. In numpy each step of that is a call over a small array, and together they
cost more than the product itself; Numba compiles the loop as it stands. Compiled once a machine,
then read from a cache beside the source, or in the user's cache folder where that is not writable.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function as machine code, for the types that it is first called with.

    Numbers in it are never NaN. Sums may be taken several at a time, always in the same way: the
    same arguments give the same bits. The interpreter lock is free meanwhile.
    """
    allowed = {"nnan", "nsz", "reassoc", "contract"}
    jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=allowed)
    result: Callable[_P, _R] = jit(function)
    return result
