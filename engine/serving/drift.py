"""Drift of the context signals: what requests bring, against the 0 and 1 of training."""

import numpy as np
from numpy.typing import NDArray

from engine.compiled import compiled


class Drift:
    """Sums over the requests since the start.

    A signal is standardised by training's mean and deviation: where requests are as training was,
    `total / n` is near 0 and `square / n` near 1.

    Attributes:
        n: requests.
        total, square: [S] float64 sums of each signal and of its square.
    """

    def __init__(self, n_signals: int) -> None:
        self.n = 0
        self.total, self.square = np.zeros((2, n_signals))

    def add(self, signals: NDArray[np.float32]) -> None:
        """Signals [B, S] of requests, standardised."""
        self.n += len(signals)
        _add(signals, self.total, self.square)


@compiled
def _add(
    signals: NDArray[np.float32], total: NDArray[np.float64], square: NDArray[np.float64]
) -> None:
    for row in range(len(signals)):
        for i in range(len(total)):
            total[i] += signals[row, i]
            square[i] += signals[row, i] * signals[row, i]
