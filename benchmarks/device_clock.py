"""Time of a GPU alone: what its stream takes for a call, launches queued ahead, cache cold."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

# Several times any card's last-level cache; reading it leaves no written line to be put back.
_EVICT_BYTES = 1 << 28
_CYCLES_PER_S = 2e9  # at least any card's clock
_WARMUP = 5


class Microseconds(NamedTuple):
    """Time of one call over `n` of them."""

    p50: float
    p95: float
    n: int

    def in_us(self) -> dict[str, float]:
        """The times with their unit in the names."""
        return {"p50_us": round(self.p50, 3), "p95_us": round(self.p95, 3), "n": self.n}


class DeviceClock:
    """Events around a call whose launches wait in the stream until all of them are there.

    A kernel of some microseconds is over before Python has launched the next: without the wait the
    events measure the launching. The wait is twice what the CPU needs for the call.
    """

    def __init__(self) -> None:
        self._evict = torch.zeros(_EVICT_BYTES // 4, dtype=torch.int32, device="cuda")

    def __call__(self, call: Callable[[], object], repeats: int = 50) -> Microseconds:
        """Microseconds of `call`, which must not wait for the device."""
        for _ in range(_WARMUP):
            call()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        launching_s = time.perf_counter() - begin
        torch.cuda.synchronize()
        wait = int((2 * launching_s + 1e-4) * _CYCLES_PER_S)
        events = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self._evict.sum()
            torch.cuda._sleep(wait)  # type: ignore[no-untyped-call]
            start.record()
            call()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        taken = [1e3 * start.elapsed_time(end) for start, end in events]
        p50, p95 = np.percentile(taken, (50, 95)).tolist()
        return Microseconds(p50, p95, repeats)
