"""Ranking a request with the bank's rows: NumPy and ONNX Runtime, no encoder and no torch.

The graph reads rows that are projected already: what an author adds to the ranker's first layer is
the same in every request, so it is computed when the bank is published, and is one gathered row a
candidate here. h_UIN runs once a request, on the few authors of the user's history.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engine.errors import BundleError

from .memory_bank import MemoryBank

F32 = NDArray[np.float32]
Ids = NDArray[np.int64]


class SarmRanker:
    """A ranker's graph beside a memory bank."""

    def __init__(self, graph: Path, bank: MemoryBank, projection: F32, threads: int = 1) -> None:
        """`projection` [D or 2 D, P] is what the exported ranker projects a bank row by.

        Raises:
            BundleError: a projection of another width than the bank's rows.
        """
        vectors = bank.all()
        rows = np.concatenate([vectors.cls, vectors.tar], 1)
        if projection.shape[0] not in (bank.dim, 2 * bank.dim):
            raise BundleError(
                f"{graph}: projection: expected {bank.dim} or {2 * bank.dim} rows,"
                f" got {projection.shape[0]}"
            )
        self._bank = bank
        self._projected = rows[:, : projection.shape[0]] @ projection  # [A + 1, P]
        self._history = vectors.cls
        self._session = session(graph, threads)

    def __call__(
        self, numbers: F32, categories: Ids, authors: Ids, history: Ids
    ) -> NDArray[np.float32]:
        """Logits [N, M] of a request's candidates.

        Args:
            numbers: [N, F], categories: [N, C] int64, as `engine.ranking.features` reads them.
            authors: [N] ids of the candidates' authors.
            history: [m] ids of the authors the user clicked last, the last one last; may be empty.
        """
        given = self.inputs(numbers, categories, authors, history)
        found: NDArray[np.float32] = self._session.run(None, given)[0]
        return found

    def inputs(
        self, numbers: F32, categories: Ids, authors: Ids, history: Ids
    ) -> dict[str, NDArray[np.generic]]:
        """What the graph is fed: two gathers besides the features."""
        return {
            "numbers": numbers,
            "categories": categories,
            "content": self._projected[self._bank.rows(authors)],
            "history": self._history[self._bank.rows(history)],
        }


def session(graph: Path, threads: int = 1) -> ort.InferenceSession:
    """A session on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
