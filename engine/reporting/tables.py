"""What a report's page is made of: sections of claims, charts and tables of intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .charts import Bar

Row = Mapping[str, Any]


class Minus(NamedTuple):
    """A difference and its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Row) -> "Minus":
        """Of a stored difference, whose point is `mean` or `value`."""
        return cls(row["mean"] if "mean" in row else row["value"], row["low"], row["high"])

    @property
    def clear(self) -> bool:
        """Whether zero is outside the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class Cell:
    """Text of a table; `clear` is bold."""

    text: str
    clear: bool = False


@dataclass(frozen=True)
class Table:
    """`names` columns from the left hold words."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what was found of it."""

    text: str
    found: str
    verdict: str  # holds, does not hold, not clear


@dataclass(frozen=True)
class Section:
    """A part of the page; `missing` names what the report lacks for it."""

    title: str
    asked: str
    claims: Sequence[Claim] = ()
    charts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    missing: str = ""
    anchor: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchor", self.title.lower().replace(" ", "-"))


def claim(text: str, minus: Minus, where: str) -> Claim:
    """A claim of a gain, by its difference: it holds where the interval lies above zero."""
    verdict = "holds" if minus.low > 0 else "does not hold" if minus.high < 0 else "not clear"
    return Claim(text, f"{where}: {minus}", verdict)


def difference(minus: Minus) -> Cell:
    """Bold where its interval is clear of zero, else it says that it is not."""
    if minus.low == minus.high == 0:
        return Cell("the same")
    return Cell(str(minus) + ("" if minus.clear else ", not clear"), minus.clear)


def area(mean: float, interval: Sequence[float]) -> Cell:
    """A mean and its interval."""
    return Cell(f"{mean:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]")


def bar(name: str, minus: Minus) -> Bar:
    """A difference as a chart has it."""
    return Bar(name, *minus)


def plain(name: str) -> str:
    """A method's name in words."""
    names = {
        "bce": "summed cross-entropies", "pairwise": "pairwise surrogate", "fm": "FM", "kfm": "KFM",
        "kfm_equal": "KFM, equal lengths", "mmoe": "MMoE", "cgc": "CGC", "gradnorm": "GradNorm",
        "pcgrad": "PCGrad", "sum": "plain sum",
    }  # fmt: skip
    return names.get(name, name.replace("_", " "))


def by_dataset(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of each dataset, in order of first appearance."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        yield dataset, [row for row in rows if row["dataset"] == dataset]
