"""What an approximate index promises: a recall, and never fewer answers than qualify."""

from copy import copy
from functools import cache

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import BackendUnavailable
from engine.retrieval.approximate import ApproximateIndex, Kind, overlap
from engine.retrieval.exact import ExactIndex
from engine.retrieval.mask import pack_mask

N_ITEMS, DIM = 12_000, 24


@cache
def catalogue() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Items in 200 groups of very different length, their bias, queries near the groups."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, DIM), np.float32)
    centres *= np.exp(rng.standard_normal((200, 1), np.float32) / 2)
    group = rng.integers(0, 200, N_ITEMS)
    rows = centres[group] + rng.standard_normal((N_ITEMS, DIM), np.float32) / 3
    queries = centres[rng.integers(0, 200, 300)] + rng.standard_normal((300, DIM), np.float32)
    return rows, rng.standard_normal(N_ITEMS, np.float32), queries


@cache
def index_of(kind: Kind, recall: float) -> ApproximateIndex:
    rows, bias, queries = catalogue()
    return ApproximateIndex(rows, bias, kind=kind, recall=recall, queries=queries[:128])


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("recall", [0.8, 0.98])
def test_the_promised_recall_is_kept_on_queries_it_has_not_seen(kind: Kind, recall: float) -> None:
    rows, bias, queries = catalogue()
    index = index_of(kind, recall)
    assert index.recall >= recall
    assert index.widths[1.0] < index._widest / 4, "a search looks at a part"
    truth = ExactIndex(rows, bias).search(queries[128:], 100)
    assert overlap(index.search(queries[128:], 100).items, truth.items) >= recall


@pytest.mark.parametrize("share", [0.8, 0.3, 0.1, 0.05, 0.01, 0.0001])
def test_filters_keep_the_recall(share: float) -> None:
    rows, bias, queries = catalogue()
    index = index_of("ivf", 0.95)
    allowed = np.random.default_rng(1).random((172, N_ITEMS)) < share
    mask = pack_mask(allowed)
    truth = ExactIndex(rows, bias).search(queries[128:], 100, mask)
    found = index.search(queries[128:], 100, mask)
    assert overlap(found.items, truth.items) >= 0.95
    np.testing.assert_array_equal(found.items >= 0, truth.items >= 0)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_filter_on_the_far_side_of_the_catalogue_is_searched_in_full(
    kind: Kind,
) -> None:
    rows, bias, queries = catalogue()
    index = copy(index_of(kind, 0.8))
    index.widths = {1.0: 1}
    worst = np.argsort(rows @ queries[0] + bias)[:2_000]  # more than are scored one by one
    allowed = np.zeros((1, N_ITEMS), bool)
    allowed[0, worst] = True
    truth = ExactIndex(rows, bias).search(queries[:1], 1_900, pack_mask(allowed))
    found = index.search(queries[:1], 1_900, pack_mask(allowed))
    assert (found.items >= 0).all()
    assert overlap(found.items, truth.items) > 0.9


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_its_exact_twin_answers_as_the_exact_index(
    kind: Kind,
) -> None:
    rows, bias, queries = catalogue()
    index = index_of(kind, 0.8)
    truth = ExactIndex(rows, bias).search(queries[:20], 30)
    assert overlap(index.search(queries[:20], 30).items, truth.items) < 1
    np.testing.assert_array_equal(index.exact.search(queries[:20], 30).items, truth.items)


def test_what_it_cannot_promise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    rows, bias = rng.standard_normal((3_000, 8), np.float32), np.zeros(3_000, np.float32)
    with pytest.raises(ValueError, match="kind: expected ivf or hnsw, got 'annoy'"):
        ApproximateIndex(rows, bias, kind="annoy")  # type: ignore[arg-type]
    for recall in (0.0, 1.01):
        with pytest.raises(ValueError, match=f"recall: expected above 0 to 1, got {recall}"):
            ApproximateIndex(rows, bias, recall=recall)
    with pytest.raises(ValueError, match=r"expected rows shorter than 1e\+18, .*, got 2.8e\+19"):
        ApproximateIndex(np.full((100, 8), 1e19, np.float32), bias[:100])
    with pytest.raises(ValueError, match="device: expected cpu or cuda, got 'tpu'"):
        ApproximateIndex(rows, bias, device="tpu")
    monkeypatch.setattr("engine.retrieval.approximate.overlaps", lambda *_: np.array([0.5]))
    with pytest.raises(BackendUnavailable, match=r"hnsw: expected a recall of 0.9, got 0.500"):
        ApproximateIndex(rows, bias, kind="hnsw", recall=0.9)


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this FAISS has a GPU build")
def test_without_a_gpu_build_of_faiss_the_device_is_refused() -> None:
    rows, bias = np.ones((100, 8), np.float32), np.zeros(100, np.float32)
    with pytest.raises(BackendUnavailable, match="install faiss-gpu-cuvs in the place of faiss-cp"):
        ApproximateIndex(rows, bias, device="cuda")
    with pytest.raises(BackendUnavailable, match="device 'cuda': expected kind ivf, got hnsw"):
        ApproximateIndex(rows, bias, kind="hnsw", device="cuda")
