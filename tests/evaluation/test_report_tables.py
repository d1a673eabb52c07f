"""The quality report's tables, by hand on small lists."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.evaluation.candidate_sets import CandidateSets
from engine.evaluation.metrics import ACCURACY, coverage, interval
from engine.evaluation.protocol import Task
from engine.evaluation.report import slices, tables
from engine.evaluation.report.config import ReportConfig
from engine.evaluation.report.measures import gini, mean_popularity_rank
from engine.evaluation.report.study import Study

PAD = [-1] * 9
RIGHT, WRONG = [7, *PAD], [8, *PAD]
STRATEGIES = ("next", "general", "round_robin")


def task(targets: list[list[int]], users: list[int] | None = None) -> Task:
    n = len(targets)
    return Task(
        100, np.array(users or range(n), np.int64), np.full(n, 100),
        [np.array(target, np.int32) for target in targets],
    )  # fmt: skip


def history(**more: Any) -> Any:
    """Ten items, of which item 9 is in no catalogue; item i was bought in 10 - i sessions."""
    counts = (10 - np.arange(10)).astype(np.float32)
    return SimpleNamespace(catalogue=np.arange(9), counts=counts, **more)


def study(lists: dict[str, list[list[int]]], asked: Task, cut: int = 100, **past: Any) -> Study:
    """A cut whose methods answered `lists`."""
    found = Study(None, cut, cut + 1, {})  # type: ignore[arg-type]
    arrays = {name: np.array(rows, np.int64) for name, rows in lists.items()}
    found.__dict__.update(task=asked, history=history(**past), lists=arrays)
    return found


def ours(rows: list[list[int]]) -> dict[str, list[list[int]]]:
    return dict.fromkeys(STRATEGIES, rows)


def test_coverage_is_of_the_catalogue_and_pads_are_not_items() -> None:
    assert coverage(np.array([[1, 2, -1], [2, 3, -1]]), 9) == pytest.approx(3 / 9)
    eleven = np.arange(11)[None]
    assert coverage(eleven, 11) == pytest.approx(10 / 11)  # the first ten count


def test_gini_is_0_where_all_are_shown_alike_and_near_1_where_one_is() -> None:
    past = history()
    assert gini(np.arange(9)[None], past) == pytest.approx(0.0)
    assert gini(np.zeros((5, 1), np.int64), past) == pytest.approx(1 - 1 / 9)
    # Shares 1/4 and 3/4 of a catalogue of two: 3/4 - 1/2.
    two = SimpleNamespace(catalogue=np.array([0, 1]), counts=np.ones(2))
    assert gini(np.array([[0], [1], [1], [1]]), two) == pytest.approx(0.25)  # type: ignore[arg-type]
    assert gini(np.full((2, 10), -1), past) == 0.0


def test_the_mean_popularity_rank_starts_at_the_most_bought() -> None:
    past = history()
    assert mean_popularity_rank(np.array([[0, -1]]), past) == 1.0
    assert mean_popularity_rank(np.array([[0, 8], [2, -1]]), past) == pytest.approx((1 + 9 + 3) / 3)


def test_the_table_has_every_method_with_its_interval() -> None:
    found = tables.table(study(ours([RIGHT, WRONG]) | {"popularity": [WRONG] * 2}, task([[7]] * 2)))
    assert found["next"]["recall@10"] == 0.5
    assert found["next"]["recall@10_ci"] == [0.0, 1.0]
    assert found["next"]["coverage@10"] == pytest.approx(2 / 9)
    assert found["popularity"]["ndcg@10"] == 0.0
    assert found["popularity"].keys() == {
        *ACCURACY, *(f"{name}_ci" for name in ACCURACY), "coverage@10",
    }  # fmt: skip


def test_differences_are_paired_over_all_cuts_and_skip_absent_rivals() -> None:
    rival = {"personal_recency": [RIGHT, WRONG]}
    cuts = [
        study(ours([RIGHT, RIGHT]) | rival, task([[7]] * 2)),
        study(ours([RIGHT, WRONG]) | rival | {"lambdamart": [WRONG] * 2}, task([[7]] * 2)),
    ]
    found = tables.differences(cuts)
    assert found.keys() == {"next", "round_robin"}
    assert found["next"].keys() == {"personal_recency"}
    assert found["next"]["personal_recency"]["recall@10"]["mean"] == 0.25
    alone = tables.differences(cuts[1:])["round_robin"]
    assert alone["personal_recency"]["hit@5"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert alone["lambdamart"]["hit@5"]["mean"] == 0.5
    assert [row["table"]["next"]["recall@10"] for row in tables.cuts(cuts)] == [1.0, 0.5]


def test_one_households_requests_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    of_household = rng.normal(size=40)
    values = np.repeat(of_household, 5)
    apart = interval(values, np.arange(200))
    together = interval(values, np.repeat(np.arange(40), 5))
    assert together["mean"] == apart["mean"]
    ratio = (together["high"] - together["low"]) / (apart["high"] - apart["low"])
    assert 1.8 < ratio < 2.7  # √5 = 2.24
    # The mean stays the requests': a household of three weighs three times.
    uneven = interval(np.array([1.0, 1.0, 1.0, 0.0]), np.array([4, 4, 4, 9]))
    assert uneven == {"mean": 0.75, "low": 0.0, "high": 1.0}


def result(rows: list[list[int]], **more: list[list[int]]) -> dict[str, Any]:
    return {"lists": {**dict.fromkeys(STRATEGIES, rows), **more}}


def test_an_ablation_is_its_own_lists_minus_the_full_models() -> None:
    asked = study(ours([RIGHT, RIGHT]), task([[7]] * 2))
    served = {f"prior_served_{name}": [WRONG, WRONG] for name in STRATEGIES}
    results = {
        "full": result([RIGHT, RIGHT], **served),
        "no_text": result([RIGHT, WRONG]),
        "prior_trained": result([RIGHT, RIGHT]),
    }
    found = tables.ablation(asked, results)
    assert list(found) == ["full", "no_text", "prior_trained_and_served", "prior_served"]
    assert found["no_text"]["next"]["minus_full"]["recall@10"]["mean"] == -0.5
    assert found["full"]["next"]["minus_full"]["recall@10"]["low"] == 0.0
    assert found["prior_served"]["round_robin"]["minus_full"]["hit@5"]["mean"] == -1.0
    assert found["prior_served"]["next"]["coverage@10"] == pytest.approx(1 / 9)


def test_seeds_have_a_mean_and_a_deviation() -> None:
    asked = study(ours([RIGHT, RIGHT]), task([[7]] * 2))
    found = tables.seeds(asked, [result([RIGHT, RIGHT]), result([RIGHT, WRONG])])
    assert [run["hit@5"] for run in found["next"]["runs"]] == [1.0, 0.5]
    assert found["next"]["mean"]["hit@5"] == 0.75
    assert found["next"]["std"]["hit@5"] == pytest.approx(0.5 / 2**0.5)
    assert tables.seeds(asked, [result([RIGHT, RIGHT])])["next"]["std"] is None


def test_the_prior_is_swept_for_each_training() -> None:
    asked = study(ours([RIGHT]), task([[7]]))
    lists = {"lambda_0": [RIGHT], "lambda_0.3": [[0, *PAD]]}
    found = tables.prior(asked, {"full": {"lists": lists}}, ReportConfig(lambdas=(0.0, 0.3)))
    assert list(found) == ["0"]
    assert [row["recall@10"] for row in found["0"]] == [1.0, 0.0]
    assert [row["popularity_rank"] for row in found["0"]] == [8.0, 1.0]


def with_history(bought: list[list[int]], lists: dict[str, Any], asked: Task) -> Study:
    """A cut whose users bought `bought` before."""
    found = study({}, asked)
    ends = np.cumsum([0, *map(len, bought)])
    found.history.item = np.concatenate(bought).astype(np.int32)
    found.history.events = lambda user: slice(int(ends[user]), int(ends[user + 1]))
    found.__dict__["parts"] = lists
    return found


def test_discovery_asks_only_for_what_was_never_bought() -> None:
    full = {f"discovery_{name}": [RIGHT, RIGHT, WRONG] for name in STRATEGIES}
    trees = {"lists": [WRONG] * 3, "discovery": [WRONG, RIGHT, RIGHT]}
    one = with_history(
        [[7], [1, 2], [0]],
        {"full": {"lists": full}, "lambdamart": {"lists": trees}},
        task([[7], [7, 1], [8]]),
    )
    places, new = one.new_targets
    assert places.tolist() == [1, 2]  # the first bought nothing new
    assert [target.tolist() for target in new] == [[7], [8]]
    assert one.discovery["popularity"].tolist()[0][:3] == [0, 3, 4]
    assert one.discovery["popularity"].tolist()[1][:3] == [1, 2, 3]
    found = tables.discovery([one])
    assert found["requests"] == 2
    assert found["table"]["next"]["recall@10"] == 1.0
    assert found["table"]["lambdamart"]["recall@10"] == 0.5
    assert found["minus"]["next"]["lambdamart"]["recall@10"]["mean"] == 0.5
    # Both of popularity's lists have the item: ours minus twice that.
    assert found["twice_popularity"]["next"]["final"]["mean"] == -1.0


def test_hits_of_candidate_sets_are_of_the_first_five_and_of_the_one_bought_item() -> None:
    asked = study(ours([RIGHT] * 2), task([[7]] * 2))
    bought = SimpleNamespace(item=np.array([8]), last_time=np.array([90]))
    none = SimpleNamespace(item=np.zeros(0, np.int64), last_time=np.zeros(0, np.int64))
    asked.history.repeats = [bought, none]
    sets = CandidateSets(
        np.array([0, 1]), [np.array([2, 7, 8]), np.array([0, 1, 2, 3, 4, 7])], np.array([8, 7])
    )
    late = [0, 1, 2, 3, 4, 7, *[-1] * 4]
    ranked = {"stars": {"candidates_x": [[8, *PAD], late]},
              "lambdamart": {"candidates_x": [[7, 8, *PAD[1:]], RIGHT]}}  # fmt: skip
    found = slices.by_candidates(asked, {"x": sets, "none": CandidateSets(
        np.zeros(0, np.int64), [], np.zeros(0, np.int64))}, ranked)  # fmt: skip
    assert list(found) == ["x"]
    hits = {name: of["mean"] for name, of in found["x"]["hit@5"].items()}
    # Popularity has the 7 sixth, and 8 third of three; the household's own 8 is first.
    assert hits == {"stars": 0.5, "lambdamart": 1.0, "popularity": 0.5, "personal_recency": 0.5}
    assert found["x"]["gain"] == -0.5
    assert found["x"]["mean_size"] == 4.5
    first = slices._counted(asked, sets)["personal_recency"][0]
    assert first[:3].tolist() == [8, 2, 7]


def test_households_fall_into_thirds_by_their_sessions() -> None:
    sessions = [1, 2, 5, 6, 20, 30]
    starts = [np.arange(n + 1) for n in sessions]
    rows = [RIGHT, WRONG, RIGHT, RIGHT, WRONG, WRONG]
    one = study(ours(rows) | {"personal_recency": [WRONG] * 6}, task([[7]] * 6),
                session_start=starts)  # fmt: skip
    found = slices.by_history(one)
    assert [(row["households"], row["sessions"], row["requests"]) for row in found] == [
        ("light", [1, 2], 2), ("medium", [5, 6], 2), ("heavy", [20, 30], 2),
    ]  # fmt: skip
    assert [row["table"]["round_robin"]["hit@5"] for row in found] == [0.5, 1.0, 0.0]
    assert found[1]["minus"]["personal_recency"]["recall@10"]["low"] == 1.0
    assert "lambdamart" not in found[0]["table"]


def test_categories_are_counted_by_bought_item(monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    monkeypatch.setattr(slices, "_LEAST", 2)
    monkeypatch.setattr(slices, "_SHOWN", 1)
    kinds = ["milk"] * 5 + ["bread"] * 4 + ["rare"]
    one = study(ours([[0, 1, 5, *PAD[2:]], [0, *PAD]]), task([[0, 1, 5], [6, 9]]))
    object.__setattr__(one, "dataset", SimpleNamespace(
        items_frame=lambda: pl.DataFrame({"category": kinds})))  # fmt: skip
    found = slices.by_category(one, "category")
    assert found["best"] == [{"category": "milk", "targets": 2, "round_robin": 1.0}]
    assert found["worst"] == [{"category": "bread", "targets": 2, "round_robin": 0.5}]


def test_cold_items_are_held_against_three_times_the_model_without_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = study({}, task([[7], [8], [7]]))
    bought = {0: np.array([7], np.int32), 2: np.array([7], np.int32)}
    monkeypatch.setattr(slices, "cold_items", lambda *_: (np.array([7, 8]), bought))
    lists = {"full": [RIGHT, RIGHT], "no_text_no_tags": [RIGHT, WRONG]}
    found = slices.cold(one, {name: {"lists": {"cold": rows}} for name, rows in lists.items()})
    assert found["recall@10"]["full"] == {"mean": 1.0, "ci": [1.0, 1.0]}
    assert found["full_minus_three_times"]["mean"] == -0.5
    assert found["ratio"] == 2.0
    assert (found["items"], found["requests"], found["bought"], found["chance"]) == (2, 2, 2, 1.0)
    monkeypatch.setattr(slices, "cold_items", lambda *_: (np.array([7, 8]), {}))
    assert slices.cold(one, {})["recall@10"] == {}
