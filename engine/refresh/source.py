"""A prepared dataset read in a bundle's terms, some users at a time.

The dataset may be newer than the bundle: other indices, codes and scales are translated by name;
items that the bundle does not know are left out of histories, values and users are taken as they
are. Arrays stay in their file until they are asked for.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from engine.catalogue.catalogue import Catalogue
from engine.data.clock import Clock
from engine.data.dataset import ARRAYS_FILE, META_FILE, Dataset, NumericFeature
from engine.errors import DataError
from engine.manifest import Manifest

from .records import UserEvents


class UserSource:
    """Users of a dataset with their events before a cut.

    Args:
        folder: of the prepared dataset.
        manifest: of the bundle in whose terms they are read.
        catalogue: the bundle's items as they are now.
        until: unix seconds (or order) at which the past ends; None takes everything.
    Raises:
        DataError: the folder holds no dataset, or one of another kind of shop than the bundle's.

    Attributes:
        cut: unix seconds (or order) at which the past ends.
        unknown_items: of the dataset's items, how many the bundle does not know.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, catalogue: Catalogue, until: int | None = None
    ) -> None:
        self.meta = meta = Dataset.read_meta(folder)
        for name in ("timezone", "has_time"):
            if getattr(meta, name) != getattr(manifest, name):
                raise DataError(
                    f"{folder / META_FILE}: {name}: expected {getattr(manifest, name)!r} as the "
                    f"bundle has it, got {getattr(meta, name)!r}"
                )
        self._file = safe_open(folder / ARRAYS_FILE, framework="numpy")
        self._types = _places(meta.event_types, manifest.event_types)
        if (self._types < 0).any():
            raise DataError(
                f"{folder / META_FILE}: event_types: expected some of {manifest.event_types}, "
                f"got {meta.event_types}"
            )
        self._items = catalogue.places(self._read("item_ids")).astype(np.int32)
        self.unknown_items = int((self._items < 0).sum())
        self._categories = [
            (list(meta.user_categorical).index(name), _codes(meta.user_categorical[name], values))
            if name in meta.user_categorical
            else None
            for name, values in manifest.user_categorical.items()
        ]
        self._numbers = [_scale(meta.user_numeric, feature) for feature in manifest.user_numeric]
        self._offsets = self._read("event_offsets")
        self.cut = self._end() if until is None else until
        self._counted_until = manifest.cut
        if self.cut < manifest.cut:
            raise DataError(
                f"--until: expected a time not before the bundle's cut {manifest.cut}, "
                f"got {self.cut}"
            )

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def read(self, start: int, stop: int) -> UserEvents:
        """Users from `start` to before `stop`, by ascending id."""
        low, high = int(self._offsets[start]), int(self._offsets[stop])
        time, item, kind, session = (
            self._read(f"event_{name}", low, high) for name in ("time", "item", "type", "session")
        )
        item = self._items[item]
        keep = (time < self.cut) & (item >= 0)
        user = np.repeat(np.arange(stop - start), np.diff(self._offsets[start : stop + 1]))
        names = self._read("user_ids", start, stop)
        kept = time[keep]
        counted = kept < self._counted_until
        return UserEvents(
            user_ids=names.view(f"S{names.shape[1]}")[:, 0],
            categorical=self._categorical(start, stop),
            numeric=self._numeric(start, stop),
            offsets=np.append(0, np.cumsum(np.bincount(user[keep], minlength=stop - start))),
            item=item[keep],
            # An order is no time: without one every gap is 0.
            time=kept if self.meta.has_time else np.zeros_like(kept),
            type=self._types[kind[keep]],
            session=session[keep],
            counted=None if self.cut == self._counted_until else counted,
        )

    def _categorical(self, start: int, stop: int) -> NDArray[np.int32]:
        given = self._read("user_categorical", start, stop)
        columns = np.zeros((stop - start, len(self._categories)), np.int32)
        for place, found in enumerate(self._categories):
            if found is not None:
                column, codes = found
                columns[:, place] = codes[given[:, column]]
        return columns

    def _numeric(self, start: int, stop: int) -> NDArray[np.float32]:
        given = self._read("user_numeric", start, stop)
        columns = np.full((stop - start, len(self._numbers)), np.nan, np.float32)
        for place, found in enumerate(self._numbers):
            if found is not None:
                column, factor, offset = found
                columns[:, place] = given[:, column] * np.float32(factor) + np.float32(offset)
        return columns

    def _end(self) -> int:
        """The end of the local day of the last event; one past the last where there is no time."""
        last = int(self._read("event_time").max(initial=0))
        if not self.meta.has_time:
            return last + 1
        clock = Clock(self.meta.timezone)
        return clock.start_of_day(int(clock.day(np.array([last]))[0]) + 1)

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        array = self._file.get_slice(name)  # type: ignore[no-untyped-call]
        found: NDArray[Any] = array[slice(start, stop)]
        return found


def _places(names: list[str], known: list[str]) -> NDArray[np.int32]:
    """Place of each name among the known ones, -1 for none."""
    return np.array([known.index(n) if n in known else -1 for n in names], np.int32)


def _codes(values: list[str], known: list[str]) -> NDArray[np.int32]:
    """The bundle's code of each of the dataset's codes; 0, unknown, stays 0."""
    return np.append(np.zeros(1, np.int32), _places(values, known) + 1).astype(np.int32)


def _scale(given: list[NumericFeature], wanted: NumericFeature) -> tuple[int, float, float] | None:
    """Column, factor and offset from the dataset's standardised numbers to the bundle's."""
    for column, feature in enumerate(given):
        if feature.name == wanted.name:
            if feature == wanted:
                return column, 1.0, 0.0  # the same bits
            return column, feature.std / wanted.std, (feature.mean - wanted.mean) / wanted.std
    return None
