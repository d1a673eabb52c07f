"""Drift of the context signals: what requests bring, against the 0 and 1 of training."""

import numpy as np
from numpy.typing import NDArray


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
        self.total += signals.sum(axis=0)
        self.square += np.square(signals).sum(axis=0)
