from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.data.dataset import Dataset
from engine.errors import BundleError, RequestError, StarsError
from engine.evaluation.evaluate import Evaluation, evaluate, recommended
from engine.evaluation.metrics import per_request, summary
from engine.evaluation.protocol import Cuts, Task, next_session
from engine.serving.recommender import Recommender
from engine.training.history import past

METHODS = [
    "next", "general", "round_robin", "rank", "page", "popularity", "personal_frequency",
    "personal_recency",
]  # fmt: skip


@pytest.fixture(scope="module")
def task(dataset: Dataset, cuts: Cuts) -> Task:
    return next_session(dataset, cuts.test, cuts.end)


@pytest.fixture(scope="module")
def evaluation(bundle: Path, dataset: Dataset, cuts: Cuts) -> Evaluation:
    return evaluate(Bundle.open(bundle), dataset, cuts.end)


def test_every_method_is_measured_over_the_same_requests(
    evaluation: Evaluation, dataset: Dataset, cuts: Cuts, task: Task
) -> None:
    assert list(evaluation.metrics) == METHODS
    n_catalogue = len(past(dataset, cuts.test, 1.0, ("purchase",)).catalogue)
    for name, rows in evaluation.lists.items():
        assert rows.shape == (len(task.users), 10)
        assert all(len(set(row)) == 10 for row in rows.tolist())
        values = per_request(rows, task.targets)
        assert evaluation.metrics[name] == pytest.approx(summary(values, rows, n_catalogue))


def test_the_comparison_is_paired_with_recency(evaluation: Evaluation) -> None:
    for ours in ("next", "round_robin"):
        for name in ("recall@10", "ndcg@10"):
            interval = evaluation.comparison()[f"{ours}_minus_personal_recency"][name]
            means = [evaluation.metrics[m][name] for m in (ours, "personal_recency")]
            assert interval["mean"] == pytest.approx(means[0] - means[1])
            assert interval["low"] <= interval["mean"] <= interval["high"]


def test_the_lists_are_the_request_paths(
    evaluation: Evaluation, dataset: Dataset, task: Task, bundle: Path
) -> None:
    recommender = Recommender.load(bundle)
    few = replace(task, users=task.users[3:5], times=task.times[3:5], targets=task.targets[3:5])
    alone = recommended(recommender, dataset, few, "next")
    np.testing.assert_array_equal(alone, evaluation.lists["next"][3:5])
    later = replace(few, times=few.times + 3600 * 24 * 200)
    assert not np.array_equal(recommended(recommender, dataset, later, "next"), alone)


def test_a_later_event_changes_no_list(
    evaluation: Evaluation, dataset: Dataset, cuts: Cuts, bundle: Path
) -> None:
    """Everyone buys one same thing from the cut on: the answers change, no list does."""
    later = dataset.event_time >= cuts.test
    item = np.where(later, 5, dataset.event_item).astype(np.int32)
    planted = evaluate(Bundle.open(bundle), replace(dataset, event_item=item), cuts.end)
    for name in METHODS:
        np.testing.assert_array_equal(planted.lists[name], evaluation.lists[name])
        assert planted.metrics[name]["recall@10"] != evaluation.metrics[name]["recall@10"]


def test_a_bundle_of_another_dataset_is_refused(bundle: Path, dataset: Dataset, cuts: Cuts) -> None:
    meta = dataset.meta.model_copy(update={"fingerprint": "f" * 64})
    with pytest.raises(
        BundleError, match=r"bundle: expected a bundle of dataset ffffffffffff, got one of \w{12}$"
    ):
        evaluate(Bundle.open(bundle), replace(dataset, meta=meta), cuts.end)


def test_a_window_without_sessions_is_refused(bundle: Path, dataset: Dataset, cuts: Cuts) -> None:
    with pytest.raises(StarsError, match=r"^evaluation: expected a user with a session in \["):
        evaluate(Bundle.open(bundle), dataset, cuts.test)


def test_an_error_in_place_of_an_answer_is_not_skipped(
    bundle: Path, dataset: Dataset, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = Recommender.load(bundle)
    monkeypatch.setattr(recommender, "recommend", lambda requests: [RequestError("no")])
    with pytest.raises(StarsError, match=r"^evaluation: expected an answer to every request: no$"):
        recommended(recommender, dataset, task, "next")
