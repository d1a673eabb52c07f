from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import BundleError
from engine.ranking.sarm.cost import cost
from engine.ranking.sarm.encoder import Encoded
from engine.ranking.sarm.export import export_rank, export_user, projection
from engine.ranking.sarm.memory_bank import MemoryBank
from engine.ranking.sarm.online import Online, batches
from engine.ranking.sarm.rungs import BASE
from engine.ranking.sarm.serving import SarmRanker
from engine.runtime.onnx_cpu import open_session
from tests.ranking.sarm.tiny import CONFIG, made


@pytest.fixture(scope="module")
def online() -> Online:
    found, _ = made()
    for rows in batches(0, 600, 100):
        found.learn(rows)
    found.refresh(int(found.stream.time[-1]))
    return found


@pytest.fixture(scope="module")
def folder(online: Online, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sarm")
    export_rank(online.model, found / "sarm.onnx")
    export_user(online.model, found / "user.onnx")
    base, _ = made(BASE.of(CONFIG))
    export_rank(base.model, found / "base.onnx")
    online.bank.save(found / "bank.safetensors")
    return found


@pytest.fixture(scope="module")
def ranker(online: Online, folder: Path) -> SarmRanker:
    bank = MemoryBank.load(folder / "bank.safetensors")
    return SarmRanker(folder / "sarm.onnx", folder / "user.onnx", bank, projection(online.model))


@pytest.mark.parametrize("candidates", [1, 7, 200])
@pytest.mark.parametrize("clicked", [0, 1, 4])
def test_the_graph_is_the_model_over_the_same_bank(
    online: Online, ranker: SarmRanker, candidates: int, clicked: int
) -> None:
    rng = np.random.default_rng(candidates)
    rows = rng.integers(0, 600, candidates)
    authors = np.r_[rng.integers(0, 20, candidates - 1), 555]  # the last one is unknown
    history = rng.integers(0, 20, clicked)
    inputs = online.stream.inputs.at(torch.from_numpy(rows))
    user = ranker.user(ranker.rows(history))
    given = inputs.numbers.numpy(), inputs.categories.numpy()
    found = ranker(*given, ranker.rows(authors), user)
    with torch.no_grad():
        read, bank = online.bank.read(online.bank.rows(authors)), online.bank
        vectors = online.model.read(Encoded(*(torch.from_numpy(part) for part in read)))
        past = torch.from_numpy(bank.read(bank.rows(history)).cls)[None]
        known = torch.ones(1, clicked, dtype=torch.bool)
        sequence = online.model.sequence(past, known)  # type: ignore[misc]
        expected = online.model(*inputs, vectors, sequence)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_ranker_without_sarm_is_a_graph_too(folder: Path, online: Online) -> None:
    base, _ = made(BASE.of(CONFIG))

    inputs = online.stream.inputs.at(torch.arange(9))
    given = {"numbers": inputs.numbers.numpy(), "categories": inputs.categories.numpy()}
    found = open_session(folder / "base.onnx", 1, ("logits",)).run(None, given)[0]
    with torch.no_grad():
        expected = base.model(*inputs, None, None)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="projection: model: expected one with content"):
        projection(base.model)
    with pytest.raises(ValueError, match="export_user: model: expected a user sequence, got none"):
        export_user(base.model, folder / "none.onnx")


def test_a_projection_of_another_width_is_refused(folder: Path, online: Online) -> None:
    with pytest.raises(BundleError, match=r"projection: expected 8 or 16 rows, got 9"):
        SarmRanker(
            folder / "sarm.onnx", folder / "user.onnx", online.bank, np.zeros((9, 12), np.float32)
        )


def test_the_cost_is_measured_in_turns(online: Online, folder: Path, ranker: SarmRanker) -> None:
    inputs = online.stream.inputs.at(torch.arange(20))
    given = {"numbers": inputs.numbers.numpy(), "categories": inputs.categories.numpy()}
    rows = ranker.rows(np.arange(20))
    found = cost(
        folder / "base.onnx", ranker, **given, rows=rows, history=rows[:4], rounds=30, warm_up=2
    )
    assert found["total_ratio"]["value"] > found["rank_ratio"]["value"]
    for name in ("rank_ratio", "total_ratio"):
        ratio = found[name]
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    assert (found["candidates"], found["history"], found["rounds"]) == (20, 4, 30)
    for name in ("without_ms", "rank_ms", "user_ms"):
        assert 0 < found[name]["p50"] <= found[name]["p99"]
    with pytest.raises(ValueError, match="cost: rounds: expected at least 1, got 0"):
        cost(folder / "base.onnx", ranker, **given, rows=rows, history=rows, rounds=0)
