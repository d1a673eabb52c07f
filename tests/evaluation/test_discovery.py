"""The weights that order never-bought items follow what the left-out days say, and no more."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.data.dataset import Dataset
from engine.evaluation import discovery
from engine.evaluation.discovery import fit_discovery
from engine.evaluation.protocol import Cuts, Task, next_session
from engine.serving.discovery import FEATURES
from engine.serving.options import Options
from engine.serving.recommender import Recommender

SOLD = FEATURES.index("log_sold_28d")


def shop_where(
    bundle: Path, dataset: Dataset, cuts: Cuts, monkeypatch: pytest.MonkeyPatch, bought: int | None
) -> Bundle:
    """Item 5 alone sold of late; whoever comes back buys `bought`, or nothing new at all."""
    opened = Bundle.open(bundle)
    sold = np.zeros_like(opened.items["sold"])
    sold[5] = 4.0
    task = next_session(dataset, cuts.validation, cuts.test)
    nothing = np.zeros(0, np.int32)
    targets = [nothing if bought is None else np.array([bought], np.int32)] * len(task.users)
    planted = Task(task.cut, task.users, task.times, targets)
    monkeypatch.setattr(discovery, "next_session", lambda *_: planted)
    return replace(opened, items={**opened.items, "sold": sold})


def test_what_is_bought_anew_decides_the_weights(
    earlier: Path, dataset: Dataset, cuts: Cuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for item in (5, 6):
        bundle = shop_where(earlier, dataset, cuts, monkeypatch, item)
        found[item] = fit_discovery(bundle, dataset, cuts.test, 0.05)
        assert found[item].dtype == np.float32
        assert found[item].shape == (2, Recommender(bundle, Options()).discovery.n_features)
    assert (found[5][:, SOLD] > 0.1).all()
    assert (found[6][:, SOLD] < 0).all()


def test_where_nothing_new_is_bought_the_vectors_alone_decide(
    earlier: Path, dataset: Dataset, cuts: Cuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shop_where(earlier, dataset, cuts, monkeypatch, None)
    weights = fit_discovery(bundle, dataset, cuts.test, 0.05)
    assert (weights[:, 0] == 1).all()
    assert not weights[:, 1:].any()
