"""Repeats of a case until every row that names it is settled, stored as one JSON line a case."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engine.errors import BackendUnavailable, ConfigError

from .case import Case, Opener, Parameters, Setting, Statistics, Timed
from .gate_noise import LOOKS
from .perf_analyzer import Unfinished

SURROUNDINGS = ("machine", "accelerator", "weights")  # what makes two lines comparable


@dataclass(frozen=True)
class Measured:
    """What a case gave.

    Attributes:
        case, parameters, exact: as of the case; an exact one is repeated once.
        repeats: statistics of every way.
        wrong: what its check found; its times then mean nothing and are not taken.
        not_run: what this machine lacks for it.
        unfinished: what did not end; the repeats before it count.
    """

    case: str
    parameters: Parameters
    exact: bool
    repeats: list[Statistics]
    wrong: str | None = None
    not_run: str | None = None
    unfinished: str | None = None


Settled = Callable[[Measured], bool]


def measure(
    name: str, opener: Opener, setting: Setting, settled: Settled, seconds: float
) -> Measured:
    """Opens a case once and repeats it.

    Args:
        settled: whether the repeats so far are enough; asked at each of LOOKS.
        seconds: no look is begun that would end after these, but for the first.
    """
    case: Case | None = None
    repeats: list[Statistics] = []
    unfinished = None
    begin = time.monotonic()
    try:
        with opener(setting) as case:
            if isinstance(case, Timed):
                for way in case.ways:
                    case.check(way)
            try:
                _repeat(case, repeats, settled, begin + seconds)
            except Unfinished as error:
                unfinished = _one_line(error)
    except BackendUnavailable as error:
        return Measured(name, {}, False, [], not_run=_one_line(error))
    except AssertionError as error:
        known = case.parameters if case else {}
        return Measured(name, known, False, [], wrong=_one_line(error) or "an assertion failed")
    return Measured(name, case.parameters, is_exact(case), repeats, unfinished=unfinished)


def is_exact(case: Case) -> bool:
    """Whether one repeat is as good as many."""
    return not isinstance(case, Timed) and case.exact


def _repeat(case: Case, repeats: list[Statistics], settled: Settled, until: float) -> None:
    begin, exact = time.monotonic(), is_exact(case)
    for look in (1,) if exact else LOOKS:
        now, done = time.monotonic(), len(repeats)
        if done and now + (now - begin) / done * (look - done) > until:
            return  # a look in between would be one that the noise model does not know
        while len(repeats) < look:
            repeats.append(case.repeat())
        if settled(Measured(case.name, case.parameters, exact, repeats)):
            return


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def to_row(measured: Measured, around: dict[str, Any]) -> dict[str, Any]:
    """A stored line: the measurement and what it was measured on."""
    return asdict(measured) | around


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Stored lines.

    Raises:
        ConfigError: an unreadable file, or a line that is no measurement; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected stored repeats: {error}") from error
    known, rows = {f.name for f in fields(Measured)} | set(SURROUNDINGS), []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: expected a JSON line, got {error}") from error
        if not isinstance(row, dict) or not known <= row.keys():
            raise ConfigError(f"{path}:{number}: expected stored repeats, got {line[:80]!r}")
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path}: expected stored repeats, got an empty file")
    return rows


def from_row(row: dict[str, Any]) -> Measured:
    """The measurement of a stored line."""
    return Measured(**{f.name: row[f.name] for f in fields(Measured)})
