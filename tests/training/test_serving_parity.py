"""The score that is served is the logit that was trained, repeats, prior and context included."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import engine.training.loss as loss_module
from engine.compile.export import export
from engine.config import Config
from engine.data.dataset import Dataset
from engine.evaluation.protocol import Cuts, Task, next_session
from engine.features import window_start
from engine.model.build import build_model
from engine.model.stars import Stars
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.training.batches import Batches, _Window
from engine.training.history import past
from engine.training.loss import Objective
from kernels.candidate_softmax import candidate_softmax
from tests import tiny

Logits = list[dict[int, float]]


def training_logits(
    model: Stars, dataset: Dataset, task: Task, config: Config, monkeypatch: pytest.MonkeyPatch
) -> tuple[Logits, Logits]:
    """item -> z of every task of next and general: the loss as if the test window were trained."""
    before = past(dataset, task.cut, config.train.alpha, config.train.repeat_types)
    # What the tasks' sessions hold is known, what training knew of the items is not newer.
    known = replace(
        past(dataset, int(dataset.event_time.max()) + 1, 1.0, config.train.repeat_types),
        log_p=before.log_p,
        statistics=before.statistics,
        repeats=before.repeats,
        catalogue=before.catalogue,
    )
    windows = []
    for user in task.users.tolist():
        n_events = len(before.history(user).items)
        start = window_start(n_events, config.model.window, config.model.hop)
        session = len(before.session_start[user]) - 1
        end = np.array([n_events - start])
        windows.append(_Window(user, start, n_events, end, np.array([session])))
    batch = Batches(known, config).batch(windows, np.random.default_rng(0))
    calls: list[tuple[Tensor, ...]] = []

    def note(*arguments: Tensor) -> Any:
        calls.append(arguments)
        return candidate_softmax(*arguments)

    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(loss_module, "candidate_softmax", note)
        Objective(model, config.train, torch.from_numpy(before.log_p)).eval()(batch)
    found: tuple[Logits, Logits] = ([], [])
    for logits, (hidden, items, bias, shared, _, own, _, offset, *_) in zip(
        found, calls, strict=True
    ):
        z = hidden @ items.T + bias
        for p in range(len(z)):
            of_item = {int(batch.item[j]): float(z[p, j]) for j in shared}
            for j, rho in zip(own[p].tolist(), offset[p].tolist(), strict=True):
                if j >= 0:
                    of_item[int(batch.item[j])] = float(z[p, j]) + rho
            logits.append(of_item)
    return found


def compare(
    model: Stars, dataset: Dataset, task: Task, config: Config, bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Asserts equal scores of all that is served to the task's users, by both vectors."""
    recommender = Recommender.load(bundle)
    every = {
        "lambda_train": recommender.bundle.manifest.lambda_serve,
        "shared_uniform": 1000,
        "history_candidates": 1000,
    }
    certain = config.model_copy(update={"train": config.train.model_copy(update=every)})
    both = training_logits(model, dataset, task, certain, monkeypatch)
    empty = np.zeros(0, np.int64)
    names = [name.decode() for name in dataset.user_ids[task.users]]
    assert len(names) > 10
    repeats = 0
    for strategy, logits in zip(("next", "general"), both, strict=True):
        requests = [
            Request(name, empty, None, None, None, 500, strategy, "allow", None, time, False)
            for name, time in zip(names, task.times.tolist(), strict=True)
        ]
        for reply, expected in zip(recommender.recommend(requests), logits, strict=True):
            assert isinstance(reply, Reply)
            real = reply.item_ids >= 0
            items = np.searchsorted(dataset.item_ids, reply.item_ids[real])
            assert len(items) > 50
            np.testing.assert_allclose(
                reply.scores[real], [expected[item] for item in items.tolist()], atol=3e-4
            )
            repeats += int((reply.source[real] == 2).sum())
    assert repeats > 50


def test_a_served_score_is_the_trained_logit(
    trained: Stars, dataset: Dataset, cuts: Cuts, tiny_config: Config, bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    task = next_session(dataset, cuts.test, cuts.end)
    compare(trained, dataset, task, tiny_config, bundle, monkeypatch)


def test_so_it_is_where_events_have_an_order_but_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, config = tiny.tiny_shop(with_time=False), tiny.tiny_config()
    cut = tiny.cut_of(shop, 0.5)
    task = next_session(shop, cut, int(shop.event_time.max()) + 1)
    model = tiny.trained_like(build_model(config.model, shop, seed=0))
    export(model, shop, config, cut, tmp_path / "bundle", lambda_serve=0.2)
    compare(model, shop, task, config, tmp_path / "bundle", monkeypatch)
