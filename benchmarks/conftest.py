"""Options of `pytest benchmarks`, and the table of all ways under pytest-benchmark's own."""

from pathlib import Path

import pytest

from .suite import Turns, table

ROWS = pytest.StashKey[list[Turns]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("suite")
    group.addoption("--bundle", type=Path, help="served bundle; without one the demo's, or random")
    group.addoption("--threads", type=int, default=1, help="of the engine and of each opponent")
    group.addoption("--store", action="store_true", help="write benchmarks/results/suite.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    measured = terminalreporter.config.stash[ROWS]
    if measured:
        terminalreporter.section("every way, in turns")
        terminalreporter.write_line(table(measured))
