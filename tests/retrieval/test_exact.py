import numpy as np
import pytest
from numpy.typing import NDArray

from engine.retrieval.exact import ExactIndex
from engine.retrieval.index import TopK
from engine.retrieval.mask import pack_mask


def test_the_two_vectors_of_a_request_are_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    scan = ExactIndex._nearest

    def counted(
        self: ExactIndex, queries: NDArray[np.float32], k: int, words: NDArray[np.int32]
    ) -> TopK:
        batches.append(len(queries))
        return scan(self, queries, k, words)

    monkeypatch.setattr(ExactIndex, "_nearest", counted)
    index = ExactIndex(np.arange(80, dtype=np.float32).reshape(40, 2), np.zeros(40, np.float32))
    allowed = np.ones((4, 40), bool)
    allowed[2:, 7] = False
    index.search(np.ones((4, 2), np.float32), 3, pack_mask(allowed))
    assert batches == [2, 2]
