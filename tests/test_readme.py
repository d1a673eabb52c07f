"""The README's tables are those of the stored results."""

from benchmarks.readme import README, rendered


def test_the_tables_are_made_from_the_stored_results() -> None:
    assert README.read_text() == rendered(README.read_text())


def test_another_figure_changes_the_table() -> None:
    text = README.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| personal recency |"))
    assert rendered(text.replace(row, row.replace("0.", "1."))) == text
