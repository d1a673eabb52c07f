"""`stars gate` over cases made up here: verdicts, exit status, verdict.json, releases."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gate, gate_release
from benchmarks.case import Case, Opener, Read, Setting, Statistics, Timed
from benchmarks.gate_noise import LOOKS
from benchmarks.perf_analyzer import Unfinished
from engine.errors import BackendUnavailable, ConfigError
from tests.benchmarks.test_gate_rows import RATIO, VALUE, written

EXACT = VALUE | {"name": "bytes", "case": "bytes", "statistic": "ratio", "absolute": "exact"}


def opener(case: Case) -> Opener:
    @contextmanager
    def opened(setting: Setting) -> Iterator[Case]:
        assert setting.bundle.is_dir()
        yield case

    return opened


def reading(*ratios: float, exact: bool = False) -> Opener:
    """`stars` takes these times of what the null model takes, repeat by repeat, over and over."""
    found = itertools.cycle(ratios)

    def repeat() -> Statistics:
        return {"stars": {"p50_ms": 2.0 * next(found)}, "null": {"p50_ms": 2.0}}

    return opener(Read("c", {"n": 1}, repeat, exact))


def counted(ratio: float) -> Opener:
    return opener(Read("bytes", {}, lambda: {"stars": {"ratio": ratio}}, exact=True))


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "KEPT", tmp_path / "results.json")
    monkeypatch.setattr(gate_release, "RELEASES", tmp_path / "releases")


@pytest.fixture
def held(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs the gate: rows, cases, options -> exit status, verdict.json."""

    def run(
        rows: list[dict[str, Any]], cases: Mapping[str, Opener], *options: str
    ) -> tuple[int, dict[str, Any]]:
        file, out = written(tmp_path, *rows), tmp_path / "verdict.json"
        given = ["--gates", str(file), "--json", str(out), "--bundle", str(tmp_path), *options]
        status = gate.main(given, cases)
        return status, json.loads(out.read_text()) if out.exists() else {}

    return run


@pytest.mark.parametrize(
    ("ratios", "status", "verdict", "repeats"),
    [
        ((1.0, 1.1, 1.2), 0, "pass", LOOKS[0]),
        ((3.0, 3.1, 3.2), 1, "breach", LOOKS[0]),
        ((1.0, 1.1, 9.0, *[1.1] * 9), 0, "pass", LOOKS[3]),
        ((1.5, 2.5), 2, "undecided", LOOKS[-1]),
    ],
)
def test_a_noisy_row(
    held: Any, ratios: tuple[float, ...], status: int, verdict: str, repeats: int
) -> None:
    code, document = held([RATIO], {"c": reading(*ratios)})
    row = document["rows"][0]
    assert (code, document["verdict"], row["verdict"]) == (status, verdict, verdict)
    assert (row["case"], row["bound"], row["opponent"]) == ("c", 2.0, "null")
    assert row["repeats"] == repeats
    assert row["low"] <= row["value"] <= row["high"]
    assert {"machine", "versions", "commit", "command", "bundle"} <= document.keys()


@pytest.mark.parametrize(("ratio", "status"), [(2.0, 0), (2.1, 1)])
def test_an_exact_row_is_measured_once(held: Any, ratio: float, status: int) -> None:
    code, document = held([EXACT], {"bytes": counted(ratio)})
    assert (code, document["rows"][0]["repeats"], document["rows"][0]["value"]) == (
        status, 1, ratio,
    )  # fmt: skip


def test_a_bound_from_below_and_a_difference(held: Any) -> None:
    above = RATIO | {"at_most": None, "at_least": 0.4}
    apart = RATIO | {"name": "apart", "form": "difference", "at_most": 1.0}
    code, document = held([above, apart], {"c": reading(1.0, 1.01, 1.02)})
    assert code == 0
    assert [row["sense"] for row in document["rows"]] == ["at least", "at most"]
    assert document["rows"][1]["value"] == pytest.approx(0.02)
    assert held([above], {"c": reading(0.1, 0.11, 0.12)})[0] == 1
    assert held([apart], {"c": reading(2.0, 2.1, 2.2)})[0] == 1


def test_a_case_goes_on_until_its_last_row_is_clear(held: Any) -> None:
    near = RATIO | {"name": "near", "at_most": 1.25}
    code, document = held([RATIO, near], {"c": reading(1.0, 1.1, 1.2)})
    assert code == 0
    assert {row["repeats"] for row in document["rows"]} == {8}


def test_a_spent_budget_leaves_the_first_look(held: Any) -> None:
    code, document = held([RATIO], {"c": reading(1.5, 2.5)}, "--budget-s", "1e-9")
    assert (code, document["rows"][0]["repeats"]) == (2, LOOKS[0])


def test_a_breach_outweighs_what_is_undecided(held: Any) -> None:
    cases = {"c": reading(1.5, 2.5), "bytes": counted(3.0)}
    code, document = held([RATIO, EXACT], cases)
    assert (code, document["verdict"]) == (1, "breach")
    # What is exact goes first.
    assert [row["verdict"] for row in document["rows"]] == ["breach", "undecided"]


def test_a_wrong_result_is_a_breach_and_is_not_timed(held: Any) -> None:
    def check(way: str) -> None:
        assert way != "stars", "7 of 10 items\ndiffer"

    calls: list[int] = []
    ways = {"stars": lambda: calls.append(1), "null": lambda: None}
    case = Timed("c", {}, ways, check, rounds=2, nbytes=0, flops=0)
    code, document = held([RATIO], {"c": opener(case)})
    assert (code, document["rows"][0]["verdict"]) == (1, "wrong")
    assert document["rows"][0]["reason"].startswith("7 of 10 items differ")
    assert calls == []


def test_a_timed_case_is_judged_by_its_own_opponent(held: Any) -> None:
    ways = {"stars": lambda: sum(range(20_000)), "null": lambda: sum(range(400_000))}
    case = Timed("c", {}, ways, lambda way: None, rounds=30, nbytes=0, flops=0)
    code, document = held([RATIO | {"at_most": 1.0}], {"c": opener(case)})
    assert (code, document["verdict"]) == (0, "pass")


def test_what_cannot_run_here_is_said_and_fails_nothing(
    held: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def absent(setting: Setting) -> Iterator[Case]:
        raise BackendUnavailable("no CUDA device")
        yield

    code, document = held([RATIO, EXACT], {"c": absent, "bytes": counted(1.0)})
    assert (code, document["rows"][1]["verdict"]) == (0, "not run")
    assert document["rows"][1]["reason"] == "no CUDA device"
    assert "NOT RUN: a row: no CUDA device" in capsys.readouterr().out
    assert held([RATIO], {"c": absent})[0] == 2  # nothing at all was measured


@pytest.mark.parametrize(("before", "verdict"), [(0, "undecided"), (2, "undecided"), (3, "pass")])
def test_a_load_that_does_not_end_leaves_what_was_before(
    held: Any, before: int, verdict: str
) -> None:
    ratios = iter([1.5, 2.5, 1.0][:before] if before < 3 else [1.0, 1.1, 1.2])

    def repeat() -> Statistics:
        for ratio in ratios:
            return {"stars": {"p50_ms": ratio}, "null": {"p50_ms": 1.0}}
        raise Unfinished("perf_analyzer: expected an end in 15 s, got none")

    code, document = held([RATIO], {"c": opener(Read("c", {}, repeat))})
    (row,) = document["rows"]
    assert (code, row["verdict"], row["repeats"]) == (2 if before < 3 else 0, verdict, before)
    assert ("got none" in row["reason"]) == (before < 3)


def test_a_goal_is_shown_and_not_judged(held: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = held([RATIO | {"goal": 0.5}], {"c": reading(1.0, 1.1, 1.2)})
    assert (code, document["rows"][0]["goal"]) == (0, 0.5)
    assert "goal 0.5" in capsys.readouterr().out


def test_an_unexpected_error_is_not_caught(held: Any) -> None:
    def repeat() -> Statistics:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        held([RATIO], {"c": opener(Read("c", {}, repeat))})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (RATIO | {"case": "d"}, "gate 'a row': case: expected one of ['c'], got 'd'"),
        (RATIO | {"statistic": "p5_ms"}, "case c, stars: expected a statistic of ['p50_ms'], got"),
        (RATIO | {"against": "faiss"}, "case c: expected a way of ['null', 'stars'], got 'faiss'"),
        (EXACT | {"case": "c", "statistic": "p50_ms"}, "absolute: expected an exact case, got c"),
    ],
)
def test_a_row_of_something_else_is_refused(
    held: Any, capsys: pytest.CaptureFixture[str], row: dict[str, Any], message: str
) -> None:
    assert held([row], {"c": reading(1.0, 1.1)})[0] == gate.REFUSED
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quik"], "unrecognized arguments: --quik"),
        (["--store", "--quick"], "--store: expected a whole run"),
        (["--quick"], "expected rows to judge, got none"),
        (["--only", "d"], "--only: expected cases of the rows, got ['d']"),
        (["--bundle", "nowhere"], "--bundle: expected a folder of a bundle, got nowhere"),
        (["--results", "nowhere"], "nowhere: expected stored repeats"),
    ],
)
def test_an_option_that_cannot_be_is_no_verdict(
    held: Any, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert held([RATIO], {"c": reading(1.0)}, *options)[0] == gate.REFUSED == 3
    assert message in capsys.readouterr().err


def test_quick_and_only_leave_rows_out(held: Any) -> None:
    cases = {"c": reading(1.0, 1.1), "bytes": counted(1.0)}
    rows = [RATIO, EXACT | {"quick": True}]
    assert [r["name"] for r in held(rows, cases, "--quick")[1]["rows"]] == ["bytes"]
    assert [r["name"] for r in held(rows, cases, "--only", "c")[1]["rows"]] == ["a row"]


def test_stored_repeats_are_judged_again(held: Any, tmp_path: Path) -> None:
    held([RATIO], {"c": reading(1.0, 1.1, 1.2)})
    kept = str(tmp_path / "results.json")
    again = held([RATIO | {"at_most": 0.4}], {"c": reading(7.0)}, "--results", kept)
    assert (again[0], again[1]["rows"][0]["value"]) == (1, 1.1)
    missing = held([RATIO, EXACT], {"c": reading(7.0), "bytes": counted(1.0)}, "--results", kept)
    assert missing[0] == gate.REFUSED


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Stores what the last run measured as a release."""

    def store(version: str) -> Path:
        monkeypatch.setattr(gate_release.engine, "__version__", version)
        monkeypatch.setattr(gate_release, "_refuse_changes", lambda: None)
        lines = gate_release.read_rows(tmp_path / "results.json")
        return gate_release.store_release(lines)

    return store


def test_worse_than_the_last_release_is_a_regression(held: Any, released: Any) -> None:
    held([RATIO], {"c": reading(1.0, 1.001)})
    released("0.9.0")
    for ratio, status, verdict in [(1.1, 0, "pass"), (1.6, 1, "regression"), (0.5, 0, "pass")]:
        code, document = held([RATIO], {"c": reading(ratio, ratio + 0.001)})
        row = document["rows"][0]
        assert (code, row["verdict"], row["release"]) == (status, verdict, pytest.approx(1.0, 0.01))
    stricter = RATIO | {"tolerance": 0.05}
    assert held([stricter], {"c": reading(1.1, 1.101)})[0] == 1


def test_a_quick_run_is_held_to_no_release(held: Any, released: Any) -> None:
    row = RATIO | {"quick": True}
    held([row], {"c": reading(1.0, 1.001)})
    released("0.9.0")
    assert held([row], {"c": reading(1.6, 1.601)}, "--quick")[0] == 0


def test_the_last_release_of_this_machine_is_the_one(held: Any, released: Any) -> None:
    held([RATIO], {"c": reading(1.6, 1.601)})
    released("0.9.0")
    held([RATIO], {"c": reading(1.0, 1.001)})
    newest = released("0.10.0")
    assert held([RATIO], {"c": reading(1.6, 1.601)})[0] == 1
    other = json.loads(newest.read_text()) | {"machine": "64 x something else"}
    newest.write_text(json.dumps(other) + "\n")
    assert held([RATIO], {"c": reading(1.6, 1.601)})[0] == 0
    asked = held([RATIO], {"c": reading(1.6, 1.601)}, "--against", str(newest))
    assert (asked[0], asked[1]["rows"][0]["release"]) == (0, None)


def test_another_question_is_not_compared(held: Any, released: Any, tmp_path: Path) -> None:
    held([RATIO], {"c": reading(1.0, 1.001)})
    line = json.loads((tmp_path / "results.json").read_text()) | {"parameters": {"n": 2}}
    (tmp_path / "results.json").write_text(json.dumps(line) + "\n")
    released("0.9.0")
    code, document = held([RATIO], {"c": reading(1.6, 1.601)})
    assert (code, document["rows"][0]["release"]) == (0, None)


def test_a_release_is_stored_from_a_clean_tree_after_a_pass(
    held: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate_release, "_refuse_changes", lambda: None)
    held([RATIO], {"c": reading(3.0, 3.1)}, "--store")
    assert "stored: nothing: expected a pass, got breach" in capsys.readouterr().out
    assert not gate_release.RELEASES.exists()
    assert held([RATIO], {"c": reading(1.0, 1.1)}, "--store")[0] == 0
    kept = next(gate_release.RELEASES.iterdir())
    assert json.loads(kept.read_text())["case"] == "c"


def test_a_changed_tree_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_release, "_changed", lambda: ["engine/features.py"])
    with pytest.raises(ConfigError, match=r"--store: .*clean tree, got engine/features.py changed"):
        gate_release.store_release([])
