"""The score that is served is the logit that was trained, repeats, prior and context included."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from engine.evaluation.protocol import Cuts
from engine.features import window_start
from engine.model.build import build_model
from engine.model.stars import Stars
from engine.repeats import RepeatHistory
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.training.batches import Batches, _Window
from engine.training.history import Past, past
from engine.training.loss import Objective
from kernels.candidate_softmax import candidate_softmax
from tests import tiny

Logits = list[dict[int, float]]
LAST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Case:
    """A model, the dataset and cut of its bundle, and everything that happened, as a Past."""

    model: Stars
    dataset: Dataset
    config: Config
    cut: int
    bundle: Path

    def pasts(self) -> tuple[Past, Past]:
        """At the cut, and at the end but with what the cut's statistics say of items and users."""
        arguments = (self.config.train.alpha, self.config.train.repeat_types)
        before = past(self.dataset, self.cut, *arguments)
        end = past(self.dataset, int(self.dataset.event_time.max()) + 1, *arguments)
        repeats = [
            as_counted(now, then) for now, then in zip(end.repeats, before.repeats, strict=True)
        ]
        return before, replace(
            end,
            log_p=before.log_p,
            statistics=before.statistics,
            sales=before.sales,
            catalogue=before.catalogue,
            repeats=repeats,
        )


def as_counted(now: RepeatHistory, then: RepeatHistory) -> RepeatHistory:
    """`now` with the counts and spans that statistics of `then` hold of the user."""
    final = then.until == LAST
    known = {
        item: (count, span)
        for item, count, span in zip(
            then.item[final], then.count[final], then.all_span[final], strict=True
        )
    }
    found = np.array([known.get(item, (0, 0)) for item in now.item], np.float32).reshape(-1, 2)
    return replace(now, all_count=found[:, 0], all_span=found[:, 1])


def training_logits(
    case: Case, users: Sequence[int], sessions: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> tuple[Logits, Logits]:
    """item -> z of each (user, session) by next and by general, as the loss computes them."""
    before, known = case.pasts()
    window, hop = case.config.model.window, case.config.model.hop
    windows = []
    for user, session in zip(users, sessions, strict=True):
        n_events = int(known.session_start[user][session])
        start = window_start(n_events, window, hop)
        end = np.array([n_events - start])
        windows.append(_Window(user, start, n_events, end, np.array([session])))
    everything = {
        "lambda_train": Recommender.load(case.bundle).bundle.manifest.lambda_serve,
        "shared_uniform": 1000,
        "history_candidates": 1000,
    }
    train = case.config.train.model_copy(update=everything)
    batches = Batches(known, case.config.model_copy(update={"train": train}))
    batch = batches.batch(windows, np.random.default_rng(0))
    calls: list[tuple[Tensor, ...]] = []

    def note(*arguments: Tensor) -> Any:
        calls.append(arguments)
        return candidate_softmax(*arguments)

    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(loss_module, "candidate_softmax", note)
        Objective(case.model, train, torch.from_numpy(before.log_p)).eval()(batch)
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


def compare(case: Case, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asserts equal scores of all that is served, by both vectors.

    Args:
        ahead: sessions since the cut that the requests carry, being newer than the bundle.
    """
    before, known = case.pasts()
    users, sessions, requests = [], [], []
    for user, starts in enumerate(known.session_start):
        stored = len(before.session_start[user]) - 1
        session = stored + ahead
        if not stored or session >= len(starts) - 1:
            continue
        at = known.events(user).start + np.arange(starts[stored], starts[session])
        users.append(user)
        sessions.append(session)
        requests.append(
            Request(
                case.dataset.user_ids[user].decode(),
                case.dataset.item_ids[known.item[at]], known.type[at], known.time[at],
                None, 500, "next", "allow", None,
                int(case.dataset.event_time[known.events(user).start + starts[session]]), False,
            )
        )  # fmt: skip
    assert len(users) > 10
    repeats = 0
    recommender = Recommender.load(case.bundle)
    both = training_logits(case, users, sessions, monkeypatch)
    for strategy, logits in zip(("next", "general"), both, strict=True):
        replies = recommender.recommend([replace(r, strategy=strategy) for r in requests])
        for reply, expected in zip(replies, logits, strict=True):
            assert isinstance(reply, Reply)
            real = reply.item_ids >= 0
            items = np.searchsorted(case.dataset.item_ids, reply.item_ids[real])
            assert len(items) > 50
            np.testing.assert_allclose(
                reply.scores[real], [expected[item] for item in items.tolist()], atol=3e-4
            )
            repeats += int((reply.source[real] == 2).sum())
    assert repeats > 50


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_served_score_is_the_trained_logit(
    trained: Stars, dataset: Dataset, cuts: Cuts, tiny_config: Config, bundle: Path,
    monkeypatch: pytest.MonkeyPatch, ahead: int,
) -> None:  # fmt: skip
    compare(Case(trained, dataset, tiny_config, cuts.test, bundle), ahead, monkeypatch)


def test_so_it_is_where_events_have_an_order_but_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, config = tiny.tiny_shop(with_time=False), tiny.tiny_config()
    cut = tiny.cut_of(shop, 0.5)
    model = tiny.trained_like(build_model(config.model, shop, seed=0))
    export(model, shop, config, cut, tmp_path / "bundle", lambda_serve=0.2)
    compare(Case(model, shop, config, cut, tmp_path / "bundle"), 0, monkeypatch)
