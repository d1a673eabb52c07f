from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from benchmarks.hashed_words import HashedWords
from engine.model.build import build_model, model_data
from engine.model.items import ItemEncoder
from engine.ops import pack_tags
from engine.retrieval.exact import ExactIndex
from tests.tiny import tiny_config, tiny_shop, trained_like


def items(**changes: object) -> ItemEncoder:
    return trained_like(build_model(tiny_config(**changes).model, tiny_shop(), seed=0)).items


@pytest.mark.parametrize("attribute_mlp", [False, True])
def test_rows_are_the_projected_token(attribute_mlp: bool) -> None:
    """Proj([e + Δ ; W_attr t]) with the tags as a 0/1 vector."""
    encoder = items(attribute_mlp=attribute_mlp)
    shop = tiny_shop()
    index = torch.tensor([3, 3, 59, 0])
    with torch.no_grad():
        got = encoder.rows(index)
    text = encoder.reduce(torch.from_numpy(shop.text_rows))[shop.item_text[index.numpy()]]
    for row, item in enumerate(index.tolist()):
        t = torch.zeros(len(shop.meta.tags))
        t[shop.tag_ids[shop.tag_offsets[item] : shop.tag_offsets[item + 1]].tolist()] = 1
        assert t.sum() > 1
        a = encoder.attribute(t @ encoder.tag_weight)
        v = torch.cat([text[row] + encoder.delta[item], a])
        torch.testing.assert_close(got[row], encoder.project(v).detach())


def test_rows_of_an_item_depend_on_no_other_item() -> None:
    encoder = items()
    everything = encoder.rows(torch.arange(60))
    some = torch.tensor([59, 7, 0, 7])
    torch.testing.assert_close(encoder.rows(some), everything[some])
    assert encoder.rows(torch.zeros(0, dtype=torch.int64)).shape == (0, 16)


def test_delta_starts_at_0_and_moves_its_own_item_alone() -> None:
    fresh = build_model(tiny_config().model, tiny_shop(), seed=0).items
    assert not fresh.delta.any()
    encoder = items()
    before = encoder.rows(torch.arange(60))
    with torch.no_grad():
        encoder.delta[4] += 1
    moved = (encoder.rows(torch.arange(60)) != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [4]


def test_the_reduced_text_keeps_what_varies() -> None:
    shop = tiny_shop()
    text = torch.from_numpy(shop.text_rows)
    encoder = items(text_dim=8)
    reduced = encoder.reduce(text)
    assert reduced.shape == (len(text), 8)
    assert float(reduced.square().mean()) == pytest.approx(1, rel=1e-4)
    assert float(reduced.mean(dim=0).abs().max()) < 1e-4
    # The components: uncorrelated, the widest first, and the widest that there are.
    covariance = (reduced.T @ reduced) / len(text)
    spread = covariance.diagonal()
    assert torch.equal(spread, spread.sort(descending=True).values)
    assert float((covariance - spread.diag()).abs().max()) < 1e-3
    singular = torch.linalg.svdvals(text - text.mean(dim=0))[:8] ** 2
    torch.testing.assert_close(spread / spread.sum(), singular / singular.sum())
    # With every dimension kept, distances survive.
    full = items(text_dim=384)
    assert full.delta.shape == (60, text.shape[1])
    distances = torch.cdist(full.reduce(text), full.reduce(text))
    original = torch.cdist(text, text)
    torch.testing.assert_close(
        distances / distances.max(), original / original.max(), rtol=1e-3, atol=1e-3
    )


def new_item(encoder: ItemEncoder, text: str, tags: list[int]) -> Tensor:
    """Candidate vector of an item that training never saw."""
    shop = tiny_shop()
    vector = torch.from_numpy(HashedWords(shop.text_rows.shape[1]).embed([text]))
    reduced = encoder.reduce(vector)
    with torch.no_grad():
        row = encoder.project_rows(
            reduced,
            torch.zeros_like(reduced),
            pack_tags(torch.tensor(tags), torch.tensor([0, len(tags)]), len(shop.meta.tags)),
        )
        return encoder.candidates(row)[0]


def test_a_cold_item_has_the_vector_of_its_text_and_tags() -> None:
    encoder = items()
    with torch.no_grad():
        encoder.delta[:] = 0
        known = encoder.candidates(encoder.rows(torch.tensor([5])))[0]
    shop = tiny_shop()
    tags = shop.tag_ids[shop.tag_offsets[5] : shop.tag_offsets[6]].tolist()
    row = encoder.project_rows(
        encoder.reduce(torch.from_numpy(shop.text_rows[shop.item_text[5]][None])),
        torch.zeros(1, encoder.delta.shape[1]),
        pack_tags(torch.tensor(tags), torch.tensor([0, len(tags)]), len(shop.meta.tags)),
    )
    torch.testing.assert_close(encoder.candidates(row)[0], known)


def test_some_user_finds_a_cold_item_first() -> None:
    encoder = items(d_serve=16)
    cold = new_item(encoder, "large umbrella household Basics", [0, 3])
    assert bool(cold.isfinite().all())
    with torch.no_grad():
        warm = encoder.candidates(encoder.rows(torch.arange(60)))
    everything = torch.cat([warm, cold[None]]).numpy()
    # h·(c_cold - c_j) >= 1 for every other j.
    found = linprog(
        np.zeros(16), everything[:60] - everything[60], -np.ones(60), bounds=[(None, None)] * 16
    )
    assert found.success
    index = ExactIndex(everything, np.zeros(61, np.float32))
    assert index.search(found.x[None].astype(np.float32), 1, None).items[0, 0] == 60


def test_a_shop_without_tags_has_rows() -> None:
    data = model_data(tiny_shop())
    none = torch.zeros(0, dtype=torch.int64)
    content = replace(
        data.content, tag_ids=none, tag_offsets=torch.zeros(61, dtype=torch.int64), n_tags=0
    )
    encoder = ItemEncoder(tiny_config().model, content)
    rows = encoder.rows(torch.arange(60))
    assert bool(rows.isfinite().all())
    rows.sum().backward()
    assert encoder.delta.grad is not None
