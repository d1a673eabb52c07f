"""The READMEs' tables are those of the stored results."""

from pathlib import Path

import pytest

from benchmarks import experiment_tables, rank_tables, readme
from benchmarks.readme import TABLES, rendered


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
def test_the_tables_are_made_from_the_stored_results(path: Path) -> None:
    assert path.read_text() == rendered(path)


@pytest.mark.parametrize(
    ("path", "start"),
    [
        (readme.README, "| personal recency |"),
        (readme.README, "| stored user, no server |"),
        (readme.KERNELS_README, "| token_assembly | folded"),
        (experiment_tables.NOTES, "| Beauty, strict"),
        (rank_tables.README, "| HarmonRank | Soft ranks"),
        (readme.COMPILE_README, "| trained | openvino | int8"),
    ],
)
def test_another_figure_is_seen(
    path: Path, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = path.read_text()
    row = next(line for line in text.splitlines() if line.startswith(start))
    other = tmp_path / "README.md"
    other.write_text(text.replace(row, row.replace("0", "9")))
    monkeypatch.setitem(TABLES, other, TABLES[path])
    assert rendered(other) == text
