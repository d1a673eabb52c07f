"""From a case's repeats to the verdict of a row, and from the rows' to the gate's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.errors import ConfigError

from .case import Statistics
from .gate_measure import Measured
from .gate_noise import LOOKS, interval
from .gate_rows import Gate

Word = Literal["pass", "breach", "wrong", "regression", "undecided", "not run"]
FAILED = ("breach", "wrong", "regression")


@dataclass(frozen=True)
class Verdict:
    """A row of verdict.json.

    Attributes:
        name, case, way, statistic, form, opponent, why: as of the row.
        sense, bound: `at most` or `at least`, and what.
        value, low, high: median over the repeats and its interval; None where nothing was measured.
        repeats: how many.
        verdict: `wrong` is a result that a check refused, `regression` worse than the last release.
        reason: of what is neither passed nor a plain breach.
        release: the last release's value, where it has one.
        goal: where the row is to get to, if that is further than the bound.
    """

    name: str
    case: str
    way: str
    statistic: str
    form: str
    opponent: str | None
    sense: str
    bound: float
    value: float | None
    low: float | None
    high: float | None
    repeats: int
    verdict: Word
    reason: str
    release: float | None
    goal: float | None
    why: str


def judge(gate: Gate, measured: Measured, release: Measured | None = None) -> Verdict:
    """The verdict of one row.

    Args:
        gate: the row.
        measured: its case's repeats.
        release: the same case's of the last release on this class of machine.
    Raises:
        ConfigError: the row names a way or a statistic that the case has not, or calls a case
            exact that is not.
    """
    if measured.not_run is not None:
        return _verdict(gate, "not run", measured.not_run)
    if measured.wrong is not None:
        return _verdict(gate, "wrong", measured.wrong)
    if not measured.repeats and measured.unfinished is not None:
        return _verdict(gate, "undecided", measured.unfinished)
    if gate.absolute == "exact" and not measured.exact:
        raise ConfigError(
            f"gate {gate.name!r}: absolute: expected an exact case, got {gate.case}, which is noisy"
        )
    values = [_number(gate, repeat) for repeat in measured.repeats]
    middle = float(np.median(values))
    if measured.exact:
        low, high = min(values), max(values)
    elif len(values) >= LOOKS[0]:
        middle, low, high = interval(values)
    else:
        low, high = -math.inf, math.inf
    found = _side(gate, gate.bound, low, high)
    before = _median(gate, release) if release else None
    reason = ""
    if found == "undecided":
        reason = measured.unfinished or "its interval holds the bound"
    if found == "pass" and before is not None:
        limit = _limit(gate, before)
        if _side(gate, limit, low, high) == "breach":
            found, reason = "regression", f"the last release had {before:.4g}, so {limit:.4g} is"
            reason += f" the {'most' if gate.at_least is None else 'least'}"
    return _verdict(gate, found, reason, (middle, low, high), len(values), before)


def settled(gate: Gate, measured: Measured, release: Measured | None) -> bool:
    """Whether more repeats could not change the verdict: the interval is clear of the bound, and
    of what the last release allows."""
    verdict = judge(gate, measured, release)
    if verdict.release is None or verdict.low is None or verdict.high is None:
        return verdict.verdict != "undecided"
    side = _side(gate, _limit(gate, verdict.release), verdict.low, verdict.high)
    return verdict.verdict in FAILED or "undecided" not in (verdict.verdict, side)


def overall(verdicts: Sequence[Verdict]) -> Literal["pass", "breach", "undecided"]:
    """A breach outweighs what is undecided; a gate of which nothing ran has decided nothing."""
    words = {verdict.verdict for verdict in verdicts}
    if words & set(FAILED):
        return "breach"
    return "undecided" if "undecided" in words or words <= {"not run"} else "pass"


def _number(gate: Gate, repeat: Statistics) -> float:
    """The row's number in one repeat."""
    own = _statistic(gate, repeat, gate.way, gate.statistic)
    if gate.form == "value":
        return own
    other = _statistic(gate, repeat, *gate.pair())
    if gate.form == "difference":
        return own - other
    if other == 0:
        raise ValueError(f"gate {gate.name!r}: {gate.against}: expected a number but 0, got 0")
    return own / other


def _statistic(gate: Gate, repeat: Statistics, way: str, statistic: str) -> float:
    if way not in repeat:
        raise ConfigError(
            f"gate {gate.name!r}: case {gate.case}: expected a way of {sorted(repeat)}, got {way!r}"
        )
    if statistic not in repeat[way]:
        raise ConfigError(
            f"gate {gate.name!r}: case {gate.case}, {way}: expected a statistic of "
            f"{sorted(repeat[way])}, got {statistic!r}"
        )
    value = repeat[way][statistic]
    if not math.isfinite(value):
        raise ValueError(f"gate {gate.name!r}: {way}: {statistic}: expected a number, got {value}")
    return value


def _median(gate: Gate, release: Measured) -> float | None:
    """The release's value; None where it did not measure this one."""
    ways = (gate.way, gate.pair()[0]) if gate.against else (gate.way,)
    names = (gate.statistic, gate.pair()[1]) if gate.against else (gate.statistic,)
    known = all(
        name in repeat.get(way, {})
        for repeat in release.repeats
        for way, name in zip(ways, names, strict=True)
    )
    if not release.repeats or not known:
        return None
    return float(np.median([_number(gate, repeat) for repeat in release.repeats]))


def _limit(gate: Gate, before: float) -> float:
    """What the last release allows; of a difference, which may be near 0, by its bound."""
    allowed = gate.tolerance * abs(gate.bound if gate.form == "difference" else before)
    return before + allowed if gate.at_least is None else before - allowed


def _side(gate: Gate, bound: float, low: float, high: float) -> Word:
    """On which side of a bound an interval lies."""
    if gate.at_least is None:
        return "pass" if high <= bound else "breach" if low > bound else "undecided"
    return "pass" if low >= bound else "breach" if high < bound else "undecided"


def _verdict(
    gate: Gate,
    word: Word,
    reason: str,
    found: tuple[float, float, float] | None = None,
    repeats: int = 0,
    release: float | None = None,
) -> Verdict:
    value, low, high = found or (None, None, None)
    finite = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    return Verdict(
        name=gate.name,
        case=gate.case,
        way=gate.way,
        statistic=gate.statistic,
        form=gate.form,
        opponent=gate.against,
        sense="at most" if gate.at_least is None else "at least",
        bound=gate.bound,
        value=value,
        low=low if finite else None,
        high=high if finite else None,
        repeats=repeats,
        verdict=word,
        reason=reason,
        release=release,
        goal=gate.goal,
        why=gate.why,
    )
