"""A prepared dataset: flat arrays that training, evaluation and export read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from engine.errors import DataError
from engine.promotions import Promotions

if TYPE_CHECKING:
    import polars as pl

META_FILE, ARRAYS_FILE, ITEMS_FILE = "meta.json", "arrays.safetensors", "items.parquet"
ALWAYS = int(np.iinfo(np.int64).min)  # item_from of an item without a first day


class NumericFeature(BaseModel):
    """A number that is stored standardised: (raw - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mean: float
    std: float


class DatasetMeta(BaseModel):
    """Names and scales of what the arrays hold.

    Attributes:
        outcomes: what may come of an event, known only afterwards.
        user_categorical: feature -> its values; the value at place i has code i + 1, 0 is unknown.
        first_day: day (days since 1970-01-01, local) of the first row of `signals`.
        promotions: kinds of promotion.
        fingerprint: sha256 of the source files and of the settings of the preparation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    timezone: str
    has_time: bool
    event_types: list[str]
    outcomes: list[str]
    tags: list[str]
    subclasses: list[str]
    user_categorical: dict[str, list[str]]
    user_numeric: list[NumericFeature]
    signals: list[NumericFeature]
    first_day: int
    promotions: list[str]
    text_model: str
    fingerprint: str


@dataclass(frozen=True)
class Dataset:
    """Arrays of one shop. An item's index is the rank of its id, a user's the rank of its name.

    Events of user u are `event_*[event_offsets[u]:event_offsets[u + 1]]`, oldest first; inside
    equal times their order is a seeded shuffle, so that it carries nothing. A session is a
    user-day in the shop's time zone, or a single event where the data has no time; a session holds
    an (item, event type) once. Where the data has no time, `event_time` is the order.

    Attributes:
        item_ids: [N] int64, ascending.
        item_text: [N] int32, row of `text_rows`.
        text_rows: [T, d] float32 of unit length, one for each distinct text.
        item_subclass: [N] int32, place in `meta.subclasses`.
        tag_offsets: [N + 1] int64. tag_ids: [nnz] int32, places in `meta.tags`, ascending per item.
        item_from: [N] int64 unix seconds (or order) from which the item exists, else ALWAYS.
        user_ids: [U] bytes 'S', ascending, UTF-8.
        user_categorical: [U, C] int32. user_numeric: [U, M] float32 standardised, NaN unknown.
        event_offsets: [U + 1] int64. event_item, event_type, event_session: [E] int32.
        event_time: [E] int64 unix seconds.
        event_outcome: [E, L] bool, by `meta.outcomes`: labels of a ranker, never an input.
        signals: [days, S] float32 standardised, one row a local day from `meta.first_day`.
        promotion_offsets, promotion_first_day, promotion_last_day, promotion_strength: the fields
            of `engine.promotions.Promotions`, kinds by `meta.promotions`.
        impression_user: [P] int32. impression_time: [P] int64. impression_offsets: [P + 1] int64.
        impression_item: [R] int32. impression_clicked: [R] bool; one entry for each item shown.
        folder: where the dataset lies; None before it was saved.
    """

    meta: DatasetMeta
    item_ids: NDArray[np.int64]
    item_text: NDArray[np.int32]
    text_rows: NDArray[np.float32]
    item_subclass: NDArray[np.int32]
    tag_offsets: NDArray[np.int64]
    tag_ids: NDArray[np.int32]
    item_from: NDArray[np.int64]
    user_ids: NDArray[np.bytes_]
    user_categorical: NDArray[np.int32]
    user_numeric: NDArray[np.float32]
    event_offsets: NDArray[np.int64]
    event_item: NDArray[np.int32]
    event_time: NDArray[np.int64]
    event_type: NDArray[np.int32]
    event_session: NDArray[np.int32]
    event_outcome: NDArray[np.bool_]
    signals: NDArray[np.float32]
    promotion_offsets: NDArray[np.int64]
    promotion_first_day: NDArray[np.int32]
    promotion_last_day: NDArray[np.int32]
    promotion_strength: NDArray[np.float32]
    impression_user: NDArray[np.int32]
    impression_time: NDArray[np.int64]
    impression_offsets: NDArray[np.int64]
    impression_item: NDArray[np.int32]
    impression_clicked: NDArray[np.bool_]
    folder: Path | None = None

    @property
    def promotions(self) -> Promotions:
        """What is announced, by item and day."""
        return Promotions(
            self.promotion_offsets,
            self.promotion_first_day,
            self.promotion_last_day,
            self.promotion_strength,
        )

    def save(self, folder: Path, items: pl.DataFrame) -> Dataset:
        """Writes the dataset; `meta.json` comes last, so that a folder with it is complete.

        Args:
            items: N rows aligned with `item_ids`: name, text, subclass and filterable columns.
        Returns:
            The same dataset, with `folder` set.
        Raises:
            DataError: `items` is not aligned with `item_ids`.
        """
        if items["item_id"].to_list() != self.item_ids.tolist():
            raise DataError(f"{folder / ITEMS_FILE}: expected one row per item id, ascending")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / META_FILE).unlink(missing_ok=True)
        items.write_parquet(folder / ITEMS_FILE)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        # safetensors has no byte strings: [U] 'S' travels as [U, width] uint8.
        arrays["user_ids"] = _as_uint8(self.user_ids)
        save_file(arrays, folder / ARRAYS_FILE)
        (folder / META_FILE).write_text(self.meta.model_dump_json(indent=2), encoding="utf-8")
        return replace(self, folder=folder)

    @staticmethod
    def load(folder: Path) -> Dataset:
        """Reads a folder that `save` wrote.

        Raises:
            DataError: a file is missing or unreadable, or does not hold what a dataset holds.
        """
        meta = Dataset.read_meta(folder)
        try:
            arrays: dict[str, Any] = load_file(folder / ARRAYS_FILE)
        except SafetensorError as error:
            raise DataError(f"{folder / ARRAYS_FILE}: unreadable: {error}") from error
        if set(arrays) != set(ARRAYS):
            raise DataError(
                f"{folder / ARRAYS_FILE}: expected the arrays {sorted(ARRAYS)}, "
                f"got {sorted(arrays)}"
            )
        names = arrays["user_ids"]
        arrays["user_ids"] = names.view(f"S{names.shape[1]}")[:, 0]
        return Dataset(meta=meta, folder=folder, **arrays)

    @staticmethod
    def read_meta(folder: Path) -> DatasetMeta:
        """What the arrays of a dataset are. Raises DataError where a file is missing or broken."""
        for name in (META_FILE, ARRAYS_FILE, ITEMS_FILE):
            if not (folder / name).is_file():
                raise DataError(
                    f"{folder}: expected a prepared dataset ({META_FILE}, {ARRAYS_FILE}, "
                    f"{ITEMS_FILE}), got no {name}"
                )
        try:
            return DatasetMeta.model_validate_json((folder / META_FILE).read_bytes())
        except ValidationError as error:
            raise DataError(f"{folder / META_FILE}: {error}") from error

    def items_frame(self) -> pl.DataFrame:
        """items.parquet: item_id (as `item_ids`), name, text, subclass and the filterable columns.

        Raises:
            DataError: the dataset was never saved.
        """
        import polars as pl

        if self.folder is None:
            raise DataError(f"{ITEMS_FILE}: expected a saved dataset, got one without a folder")
        return pl.read_parquet(self.folder / ITEMS_FILE)


ARRAYS = tuple(field.name for field in fields(Dataset) if field.name not in ("meta", "folder"))


def _as_uint8(names: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    """[U] bytes of width w as [U, w] uint8; w is at least 1, since numpy has no 'S0' rows."""
    width = max(1, names.dtype.itemsize)
    return names.astype(f"S{width}").view(np.uint8).reshape(len(names), width)
