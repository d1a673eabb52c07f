"""gates.toml: what a row may say, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.case import ENGINE
from benchmarks.cases import CASES
from benchmarks.gate_rows import SERVER_OBJECTIVES, load_gates
from engine.errors import ConfigError

RATIO: dict[str, Any] = {
    "name": "a row", "case": "c", "statistic": "p50_ms", "form": "ratio", "against": "null",
    "at_most": 2.0, "why": "because",
}  # fmt: skip
VALUE = {**RATIO, "form": "value", "against": None}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    """A file of these rows; None leaves a key out."""
    lines = []
    for row in rows:
        lines.append("[[gate]]")
        for key, value in row.items():
            if value is not None:
                text = str(value).lower() if isinstance(value, bool) else repr(value)
                lines.append(f"{key} = {text}")
    path = folder / "gates.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_row_says_what_is_held_to_what(tmp_path: Path) -> None:
    other = {**RATIO, "name": "b", "against": "null.p99_ms", "at_most": None, "at_least": 0.4}
    first, second = load_gates(written(tmp_path, RATIO, other))
    assert (first.way, first.bound, first.pair()) == (ENGINE, 2.0, ("null", "p50_ms"))
    assert (second.bound, second.pair()) == (0.4, ("null", "p99_ms"))
    assert first.tolerance == 0.25


def test_an_exact_row_is_held_closer_to_the_release(tmp_path: Path) -> None:
    exact = {**VALUE, "statistic": "spill_bytes", "absolute": "exact"}
    stated = {**exact, "name": "b", "tolerance": 0.1}
    assert [row.tolerance for row in load_gates(written(tmp_path, exact, stated))] == [0.02, 0.1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (RATIO | {"at_mots": 1.0}, "gate 'a row': at_mots: Extra inputs are not permitted"),
        (RATIO | {"at_least": 1.0}, "at_most: expected it or at_least, got both or neither"),
        (RATIO | {"at_most": None}, "at_most: expected it or at_least, got both or neither"),
        (RATIO | {"goal": 9.0}, "goal: expected one beyond the bound 2.0, got 9.0"),
        (RATIO | {"against": None}, "against: expected for ratio and difference alone, got ratio"),
        (VALUE | {"against": "null"}, "against: expected for ratio and difference alone, got val"),
        (VALUE, "absolute: expected for form value alone, where the case is exact"),
        (RATIO | {"absolute": "objective"}, "absolute: expected for form value alone"),
        (VALUE | {"absolute": "objective"}, "absolute: expected an objective of"),
        (VALUE | {"absolute": "exponent"}, "expected the statistic exponent, got p50_ms"),
        (RATIO | {"form": "quotient"}, "gate 'a row': form: Input should be 'value', 'ratio'"),
        (RATIO | {"at_most": float("nan")}, "at_most: Input should be a finite number"),
        (RATIO | {"why": ""}, "why: String should have at least 1 character"),
        (RATIO | {"name": None}, "gate 0: name: Field required"),
    ],
)
def test_what_a_row_may_not_say(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_gates(written(tmp_path, row))
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'gates.toml'}: ")


@pytest.mark.parametrize("case", SERVER_OBJECTIVES)
def test_a_server_has_objectives_in_milliseconds(tmp_path: Path, case: str) -> None:
    row = VALUE | {"case": case, "absolute": "objective", "at_most": 15.0}
    assert load_gates(written(tmp_path, row))[0].bound == 15.0


def test_a_name_stands_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gate 'a row': name: expected each once, got it twice"):
        load_gates(written(tmp_path, RATIO, RATIO))


@pytest.mark.parametrize("text", ["[[gate", "gates = 1", "gate = 1"])
def test_a_file_that_holds_no_rows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"gates\.toml: "):
        load_gates(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a readable TOML file"):
        load_gates(tmp_path / "none.toml")


def test_the_rows_name_cases_that_there_are() -> None:
    rows = load_gates()
    assert {row.case for row in rows} <= set(CASES)
    # CI has the request path, the search, the server, and what is exact and takes seconds.
    assert {"stored_grpc", "live_request_in_process", "search_filtered", "kernel_results"} <= {
        row.case for row in rows if row.quick
    }
