"""Adds, updates and removes items of a bundle: what an item's row is made of, without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from engine.bundle import CONTENT_FILE, TAGS_FILE, Bundle
from engine.config import ModelConfig
from engine.data.tags import known_tags
from engine.data.text import Embedder, check_vectors
from engine.errors import DataError
from engine.model.items import ItemEncoder
from engine.ops import pack_tags

from .catalogue import Catalogue
from .changes import ChangeLog, ItemChange

_NO_COLUMN = ("item_id", "available_from", "tags")


class ItemEditor:
    """Writes changes of a bundle's items; a running server takes them up with its next batch.

    Args:
        bundle: opened; it stays as it is.
        log: where its changes lie.
        embedder: of the model that embedded the bundle's texts; needed for texts alone.
    """

    def __init__(self, bundle: Bundle, log: ChangeLog, embedder: Embedder | None = None) -> None:
        self._bundle, self._log, self._embedder = bundle, log, embedder
        names = json.loads((bundle.folder / TAGS_FILE).read_bytes())
        self._text_model, self._tags = names["text_model"], names["tags"]
        columns = {name.partition("=")[0] for name in self._tags}
        self._taxonomy = columns if columns <= {*bundle.columns} else set()

    def add(self, items: pl.DataFrame) -> int:
        """Adds items; one that was removed comes back as it is given. Returns how many.

        Args:
            items: item_id, text and any columns of the bundle; `tags`, or the taxonomy's columns.
        Raises:
            DataError: an item may be answered already or stands there twice, a column is missing or
                unknown, or a value is of another kind.
        """
        self._check(items, required=("item_id", "text"))
        with self._log.write() as changes:
            known = self._known(changes)
            places = known.places(items["item_id"].to_numpy())
            there = (places >= 0) & known.active[places]
            if there.any():
                item_id = items["item_id"][int(np.argmax(there))]
                raise DataError(f"items: expected a new item, got {item_id}: update it")
            encoded = self._encoded(items, places)
            for values in items.iter_rows(named=True):
                item_id = values["item_id"]
                row, candidate = encoded[item_id]
                changes[item_id] = ItemChange(True, row, candidate, _values(values))
            self._known(changes)  # refuses values that do not fit
        return len(items)

    def update(self, items: pl.DataFrame) -> int:
        """Changes items that are there: the columns given, and the row where they speak of it.

        A new text, tag or value of the taxonomy makes a new row; the item keeps what training
        learned of it beside its description (Δ). An item that was removed stays so.

        Args:
            items: item_id and what changes.
        Returns:
            How many.
        Raises:
            DataError: an item is not there or twice, a column is unknown, or a value is of another
                kind.
        """
        self._check(items, required=("item_id",))
        with self._log.write() as changes:
            known = self._known(changes)
            places = self._places(known, items["item_id"].to_list())
            encoded: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
            if self._describes(items):
                whole = pl.DataFrame(
                    {"item_id": items["item_id"]}
                    | {name: known.columns[name].take(places) for name in known.columns}
                )
                given = [name for name in items.columns if name in whole.columns]
                whole = whole.with_columns(items.select(given))
                if "tags" in items.columns:
                    whole = whole.with_columns(items["tags"])
                encoded = self._encoded(whole, places)
            for values, place in zip(items.iter_rows(named=True), places.tolist(), strict=True):
                item_id = values["item_id"]
                change = changes.setdefault(item_id, ItemChange(bool(known.active[place])))
                change.row, change.candidate = encoded.get(item_id, (change.row, change.candidate))
                change.columns |= _values(values)
            self._known(changes)
        return len(items)

    def remove(self, item_ids: Sequence[int]) -> int:
        """Takes items out of all answers; they stay valid history. Returns how many.

        Raises:
            DataError: an item is not there.
        """
        with self._log.write() as changes:
            self._places(self._known(changes), item_ids)
            for item_id in item_ids:
                changes.setdefault(item_id, ItemChange()).active = False
        return len(item_ids)

    def _known(self, changes: Mapping[int, ItemChange]) -> Catalogue:
        return Catalogue.of(self._bundle).changed(changes)

    def _places(self, known: Catalogue, item_ids: Sequence[int]) -> NDArray[np.int64]:
        places = known.places(np.array(item_ids, np.int64))
        if (places < 0).any():
            item_id = item_ids[int(np.argmax(places < 0))]
            raise DataError(f"items: expected an item of the catalogue, got {item_id}: add it")
        return places

    def _check(self, items: pl.DataFrame, required: Sequence[str]) -> None:
        known = {*self._bundle.columns, *_NO_COLUMN}
        for name in required:
            if name not in items.columns:
                raise DataError(f"items: expected a column {name}, got {', '.join(items.columns)}")
        if items.schema["item_id"] != pl.Int64 or items["item_id"].null_count():
            raise DataError("items: item_id: expected 64-bit integers, all known")
        if odd := sorted(set(items.columns) - known):
            raise DataError(
                f"items: expected columns of {', '.join(sorted(known))}, got {odd[0]!r}"
            )
        twice = items["item_id"].filter(items["item_id"].is_duplicated())
        if len(twice):
            raise DataError(f"items: expected each item once, got {twice[0]} twice")

    def _describes(self, items: pl.DataFrame) -> bool:
        """Whether a change speaks of what a row is made of."""
        return bool(set(items.columns) & {"text", "tags", *self._taxonomy})

    def _encoded(
        self, items: pl.DataFrame, places: NDArray[np.int64]
    ) -> dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Row and candidate by item id; `places` in the catalogue, -1 for new ones."""
        if self._embedder is None or self._embedder.name != self._text_model:
            got = "none" if self._embedder is None else self._embedder.name
            raise DataError(f"items: text: expected embeddings of {self._text_model}, got {got}")
        texts = items["text"].to_list()
        if None in texts:
            raise DataError(f"items: row {texts.index(None)}: text: expected a text, got null")
        vectors = self._embedder.embed(texts)
        check_vectors(vectors, len(texts), self._embedder.name)
        weights = load_file(self._bundle.folder / CONTENT_FILE)
        encoder = ItemEncoder.stored(ModelConfig(**self._bundle.manifest.model), weights)
        # What training learned of an item beside its description; of a new one nothing.
        trained = torch.from_numpy((places >= 0) & (places < len(weights["delta"])))
        delta = torch.zeros(len(items), weights["delta"].shape[1])
        delta[trained] = weights["delta"][torch.from_numpy(places)[trained]]
        with torch.inference_mode():
            tags = pack_tags(*self._tag_lists(items, places, weights), len(self._tags))
            rows = encoder.project_rows(encoder.reduce(torch.from_numpy(vectors)), delta, tags)
            both = zip(rows.numpy(), encoder.candidates(rows).numpy(), strict=True)
            return dict(zip(items["item_id"].to_list(), both, strict=True))

    def _tag_lists(
        self, items: pl.DataFrame, places: NDArray[np.int64], weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Tags of each item, [nnz] and [n + 1]: given, the taxonomy's, or the trained ones."""
        if "tags" in items.columns or self._taxonomy:
            found = known_tags(items, self._tags)
            return torch.from_numpy(found.ids.astype(np.int64)), torch.from_numpy(found.offsets)
        offsets, ids = weights["tag_offsets"], weights["tag_ids"].long()
        trained = [
            ids[offsets[place] : offsets[place + 1]] if 0 <= place < len(offsets) - 1 else ids[:0]
            for place in places.tolist()
        ]
        sizes = torch.tensor([0, *map(len, trained)])
        return torch.cat([ids[:0], *trained]), sizes.cumsum(0)


def _values(row: dict[str, Any]) -> dict[str, Any]:
    """What an item's columns hold."""
    return {name: value for name, value in row.items() if name not in _NO_COLUMN}


def read_items(path: Path) -> pl.DataFrame:
    """A table of items. Raises DataError for a file that is no Parquet table."""
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: expected a Parquet table of items, got {error}") from error
