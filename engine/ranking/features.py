"""From logged impressions to tensors: standardised numbers and numbered categories."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from engine.errors import DataError

from .auc import F64
from .data.impressions import Impressions

IDS = ("user_id", "item_id")
OF_USER = ("user_", "past_user_")
_ID = "_id"
_SPREAD = 0.05  # of new embeddings: what is seldom seen says little


class FeatureConfig(BaseModel):
    """Which columns are categories, and which of their values are known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_count: int = Field(default=5, ge=1, description="rows of a category that is known")
    codes: int = Field(default=32, ge=0, description="values of an integer that is a category")
    leave_out: tuple[str, ...] = Field(default=(), description="columns that no model reads")


class Inputs(NamedTuple):
    """What a model reads of n impressions."""

    numbers: Tensor  # [n, F] float32
    categories: Tensor  # [n, C] int64, 0 = unknown or rare

    def at(self, rows: Tensor) -> "Inputs":
        """Those impressions alone."""
        return Inputs(self.numbers[rows], self.categories[rows])


@dataclass(frozen=True)
class Features:
    """Columns of a log as a model reads them: their kinds, vocabularies, means and deviations.

    Categories are user and item, strings, bools, integers named `*_id` and integers of few values.
    Any other number x is sign(x) log(1 + |x|), standardised; unknown is 0, with a column that flags
    it where the fit had unknown values.
    """

    objectives: tuple[str, ...]
    numbers: tuple[str, ...]
    mean: tuple[float, ...]  # one a number
    deviation: tuple[float, ...]  # > 0
    flagged: tuple[str, ...]  # numbers that may be unknown
    categories: tuple[str, ...]
    vocabularies: tuple[tuple[str, ...], ...]  # values as text, number 1 first, one a category

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `Inputs.numbers`."""
        return self.numbers + tuple(f"{name} is unknown" for name in self.flagged)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers that each category may have, 0 included."""
        return tuple(len(values) + 1 for values in self.vocabularies)

    def read(self, log: Impressions) -> Inputs:
        """The inputs of a log's rows.

        Raises:
            DataError: a column that is missing, of another kind or infinite.
        """
        raw = _numbers(log, self.numbers)
        unknown = np.isnan(raw)
        scaled = np.where(unknown, 0.0, (raw - np.array(self.mean)) / np.array(self.deviation))
        flags = unknown[:, [self.numbers.index(name) for name in self.flagged]]
        codes = [
            _text(log, name).replace_strict(list(values), range(1, len(values) + 1), default=0)
            for name, values in zip(self.categories, self.vocabularies, strict=True)
        ]
        return Inputs(
            torch.from_numpy(np.hstack([scaled, flags]).astype(np.float32)),
            torch.from_numpy(np.stack([code.to_numpy() for code in codes], 1).astype(np.int64)),
        )

    def labels(self, log: Impressions) -> Tensor:
        """[n, M] float32 of 0 and 1. Raises DataError where the log has other objectives."""
        if log.objectives != self.objectives:
            raise DataError(
                f"features: objectives: expected {list(self.objectives)},"
                f" got {list(log.objectives)}"
            )
        return torch.from_numpy(log.labels.astype(np.float32))

    def state(self) -> dict[str, Any]:
        """As JSON holds it; `Features.of` reads it."""
        return {name: _lists(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Features":
        """From `state`. Raises TypeError for a key missing or unknown."""
        return cls(**{name: _tuples(value) for name, value in state.items()})


def fit(log: Impressions, config: FeatureConfig | None = None) -> Features:
    """The features of a log and the statistics of its rows.

    Raises:
        DataError: a column that is no string, number or bool; a column left out that is not there.
        ValueError: no rows.
    """
    config = config or FeatureConfig()
    if not len(log):
        raise ValueError("features: expected impressions to fit on, got none")
    names = (*IDS, *log.features)
    if missing := set(config.leave_out) - set(names):
        raise DataError(f"features: leave_out: expected columns of the log, got {sorted(missing)}")
    read = [name for name in names if name not in config.leave_out]
    categories = tuple(name for name in read if _is_category(log.frame[name], config.codes))
    numbers = tuple(name for name in read if name not in categories)
    raw = _numbers(log, numbers)
    unknown = np.isnan(raw)
    known = np.maximum((~unknown).sum(0), 1)
    mean = np.where(unknown, 0.0, raw).sum(0) / known
    deviation = np.sqrt(np.where(unknown, 0.0, (raw - mean) ** 2).sum(0) / known)
    # Of equal values the deviation is 0 but for rounding.
    varies = np.where(unknown, -np.inf, raw).max(0) > np.where(unknown, np.inf, raw).min(0)
    return Features(
        log.objectives,
        numbers,
        tuple(mean.tolist()),
        tuple(np.where(varies, deviation, 1.0).tolist()),
        tuple(name for name, some in zip(numbers, unknown.any(0), strict=True) if some),
        categories,
        tuple(_vocabulary(_text(log, name), config.min_count) for name in categories),
    )


class FieldEmbedding(nn.Module):
    """Inputs as a list of fields [..., d_f]: one a category, the user's numbers, other numbers.

    A category of V values has min(dim, V) dimensions and numbers keep theirs. Categories of at most
    `join` values share a field, the user's one and the others' one. With `equal` every field has
    `dim` dimensions, as FM needs: numbers and shared fields then pass a linear layer.
    """

    def __init__(self, features: Features, dim: int, *, join: int = 0, equal: bool = False) -> None:
        """Raises ValueError for a dim below 1."""
        super().__init__()
        if dim < 1:
            raise ValueError(f"FieldEmbedding: dim: expected at least 1, got {dim}")
        sizes = dict(enumerate(features.sizes))
        small = [c for c, size in sizes.items() if size <= join]
        self.alone = [c for c in sizes if c not in small]
        self.together = _by_side(features.categories, small)
        self.parts = _by_side(features.columns, range(len(features.columns)))
        widths = [dim if equal and c in self.alone else min(dim, size) for c, size in sizes.items()]
        self.tables = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(features.sizes, widths, strict=True)
        )
        for table in self.tables:
            nn.init.normal_(table.weight, std=_SPREAD)  # type: ignore[arg-type]
        lengths = [sum(widths[c] for c in part) for part in self.together]
        lengths += [len(part) for part in self.parts]
        self.read = nn.ModuleList(
            nn.Linear(length, dim) if equal else nn.Identity() for length in lengths
        )
        self.dims = (
            *(widths[c] for c in self.alone),
            *(dim if equal else length for length in lengths),
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> list[Tensor]:
        """Fields [..., d_f] of numbers [..., F] and categories [..., C]."""
        embedded = [table(categories[..., c]) for c, table in enumerate(self.tables)]
        shared = [torch.cat([embedded[c] for c in part], -1) for part in self.together]
        shared += [numbers[..., part] for part in self.parts]
        return [embedded[c] for c in self.alone] + [
            read(x) for read, x in zip(self.read, shared, strict=True)
        ]


def _by_side(names: Sequence[str], places: Sequence[int]) -> list[list[int]]:
    """Those places whose names are the user's, then the others; a side without any is left out."""
    users = [k for k in places if names[k].startswith(OF_USER)]
    return [side for side in (users, [k for k in places if k not in users]) if side]


def concatenated(fields: Sequence[Tensor]) -> Tensor:
    """[..., Σ d_f] of fields whose leading dimensions broadcast."""
    first = [field[..., 0] for field in fields]
    leading = torch.broadcast_tensors(*first)[0].shape  # type: ignore[no-untyped-call]
    return torch.cat([field.expand(*leading, field.shape[-1]) for field in fields], -1)


def _is_category(column: pl.Series, codes: int) -> bool:
    if column.name in IDS or column.dtype in (pl.String, pl.Boolean):
        return True
    if column.dtype.is_integer():
        return column.name.endswith(_ID) or column.n_unique() <= codes
    if not column.dtype.is_numeric():
        raise DataError(
            f"features: column {column.name}: expected strings, numbers or bools,"
            f" got {column.dtype}"
        )
    return False


def _column(log: Impressions, name: str) -> pl.Series:
    if name not in log.frame.columns:
        raise DataError(f"features: expected a column {name}, got none")
    return log.frame[name]


def _text(log: Impressions, name: str) -> pl.Series:
    column = _column(log, name)
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Boolean)):
        raise DataError(f"features: column {name}: expected categories, got {column.dtype}")
    return column.cast(pl.String)


def _vocabulary(text: pl.Series, min_count: int) -> tuple[str, ...]:
    counted = text.drop_nulls().value_counts(name="rows").filter(pl.col("rows") >= min_count)
    return tuple(counted[text.name].sort())


def _numbers(log: Impressions, names: tuple[str, ...]) -> F64:
    """[n, F] of sign(x) log(1 + |x|), NaN for the unknown."""
    found = np.empty((len(log), len(names)))
    for place, name in enumerate(names):
        column = _column(log, name)
        if not column.dtype.is_numeric():
            raise DataError(f"features: column {name}: expected numbers, got {column.dtype}")
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        if np.isinf(values).any():
            raise DataError(f"features: column {name}: expected finite numbers, got infinity")
        found[:, place] = np.sign(values) * np.log1p(np.abs(values))
    return found


def _lists(value: Any) -> Any:
    return [_lists(one) for one in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
