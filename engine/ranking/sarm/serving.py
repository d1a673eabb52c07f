"""Ranking a request with the bank's rows: NumPy and ONNX Runtime, no encoder and no torch.

The graph reads rows that are projected already: what an author adds to the ranker's first layer is
the same in every request, so it is computed when the bank is published, and is one gathered row a
candidate here. A user's vector hangs on the history alone, so it is at hand before the candidates
are: computed while they are retrieved, or kept with the user.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import BundleError
from engine.runtime.onnx_cpu import open_session

from .memory_bank import MemoryBank

F32 = NDArray[np.float32]
Ids = NDArray[np.int64]


class SarmRanker:
    """The graphs of candidates and of users beside a memory bank."""

    def __init__(
        self, rank: Path, user: Path, bank: MemoryBank, projection: F32, threads: int = 1
    ) -> None:
        """`projection` [D or 2 D, P] is what the exported ranker projects a bank row by.

        Raises:
            BundleError: a projection of another width than the bank's rows, or a file that is not
                the graph.
        """
        vectors = bank.all()
        rows = np.concatenate([vectors.cls, vectors.tar], 1)
        if projection.shape[0] not in (bank.dim, 2 * bank.dim):
            raise BundleError(
                f"{rank}: projection: expected {bank.dim} or {2 * bank.dim} rows,"
                f" got {projection.shape[0]}"
            )
        self._bank = bank
        self._projected = rows[:, : projection.shape[0]] @ projection  # [A + 1, P]
        self._vectors = vectors.cls
        self._rank = open_session(rank, threads, ("logits",))
        self._user = open_session(user, threads, ("user",))

    def rows(self, authors: Ids) -> Ids:
        """Row of each author: a feature of the candidate, looked up as its categories are."""
        return self._bank.rows(authors)

    def user(self, history: Ids) -> F32:
        """[1, P] of the rows [m] of the authors last clicked, the last one last; m may be 0."""
        found: F32 = self._user.run(None, {"vectors": self._vectors, "history": history})[0]
        return found

    def __call__(self, numbers: F32, categories: Ids, rows: Ids, user: F32) -> F32:
        """Logits [N, M] of a request's candidates.

        Args:
            numbers: [N, F], categories: [N, C], as `engine.ranking.features` reads them.
            rows: [N] of the candidates' authors.
            user: [1, P].
        """
        given = {
            "numbers": numbers, "categories": categories, "bank": self._projected, "rows": rows,
            "user": user,
        }  # fmt: skip
        found: F32 = self._rank.run(None, given)[0]
        return found
