"""The rows of gates.toml: what a build is held to, and which bounds may be absolute."""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import ConfigError

from .case import ENGINE

GATES = Path(__file__).with_name("gates.toml")
# Whose times and sizes the requirements name in their own units.
SERVER_OBJECTIVES = ("live_grpc", "paper_live_grpc", "cold_start")
_EXACT_TOLERANCE, _NOISY_TOLERANCE = 0.02, 0.25


class Gate(BaseModel):
    """One bound of one number.

    Attributes:
        name: of the row.
        case, statistic: what is measured, `way`'s.
        form: `value`, or the `ratio` or `difference` to `against` in the same repeat.
        way: the engine's, where a case has several of its own.
        against: a way of the case, or `way.statistic` where it is another statistic.
        at_most, at_least: the bound; one of the two.
        goal: what is asked for, where it is not reached yet: the bound is what holds, so that it is
            not lost, and the goal is shown beside it.
        absolute: why a `value` may be bounded: the case is `exact`, the bound is a server's
            `objective`, or the number is a fitted `exponent`. Times of a machine have no bound.
        tolerance: how much worse than the last release the row may be, as a share of the
            release's value (of the bound, for a difference).
        quick: also measured by `stars gate --quick`.
        why: in one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    case: str
    statistic: str
    form: Literal["value", "ratio", "difference"]
    way: str = ENGINE
    against: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    goal: float | None = None
    absolute: Literal["exact", "objective", "exponent"] | None = None
    tolerance: float = Field(_NOISY_TOLERANCE, ge=0)
    quick: bool = False
    why: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _exact_tolerance(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("absolute") == "exact":
            return {"tolerance": _EXACT_TOLERANCE, **given}
        return given

    @model_validator(mode="after")
    def _check(self) -> "Gate":
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("at_most: expected it or at_least, got both or neither")
        if self.goal is not None and (self.goal > self.bound) != (self.at_least is not None):
            raise ValueError(f"goal: expected one beyond the bound {self.bound}, got {self.goal}")
        if (self.form == "value") != (self.against is None):
            raise ValueError(f"against: expected for ratio and difference alone, got {self.form}")
        if (self.form == "value") != (self.absolute is not None):
            raise ValueError(
                "absolute: expected for form value alone, where the case is exact, the bound a "
                f"server's objective or the number an exponent, got {self.absolute}"
            )
        if self.absolute == "objective" and self.case not in SERVER_OBJECTIVES:
            raise ValueError(f"absolute: expected an objective of {SERVER_OBJECTIVES}, got it here")
        if self.absolute == "exponent" and self.statistic != "exponent":
            raise ValueError(f"absolute: expected the statistic exponent, got {self.statistic}")
        return self

    @property
    def bound(self) -> float:
        """The number at most or at least."""
        return self.at_least if self.at_most is None else self.at_most  # type: ignore[return-value]

    def pair(self) -> tuple[str, str]:
        """Way and statistic that `against` names."""
        way, _, statistic = (self.against or "").partition(".")
        return way, statistic or self.statistic


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: list[Gate]


def load_gates(path: Path = GATES) -> list[Gate]:
    """The rows of a file of `[[gate]]` tables.

    Raises:
        ConfigError: an unreadable file, an unknown key, a bound that may not be; names file and
            key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected a readable TOML file: {error}") from error
    try:
        gates = _File.model_validate(raw).gate
    except ValidationError as error:
        first = error.errors()[0]
        place = _place(raw, first["loc"])
        text = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        got = "" if first["type"] == "value_error" else f", got {str(first['input'])[:80]!r}"
        raise ConfigError(f"{path}: {place}: {text}{got}") from error
    names = [gate.name for gate in gates]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{path}: gate {twice!r}: name: expected each once, got it twice")
    return gates


def _place(raw: dict[str, object], loc: tuple[int | str, ...]) -> str:
    """`gate 'its name': key`, as far as the file says."""
    rows = raw.get("gate")
    if len(loc) < 2 or not isinstance(rows, list) or not isinstance(loc[1], int):
        return ".".join(map(str, loc))
    row = rows[loc[1]]
    name = row.get("name", loc[1]) if isinstance(row, dict) else loc[1]
    return ": ".join([f"gate {name!r}", *map(str, loc[2:])])
