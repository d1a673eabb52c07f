"""What has changed of a bundle's items since its export: new ones, updates, removals.

A bundle never changes, so changes lie beside it, in a folder of their own:

    current                 name of the version that counts
    000012.safetensors      item_ids [m] int64, active [m] bool, has_row [m] bool,
                            rows [m, d_model] and candidates [m, D] float32
    000012.json             the bundle they belong to; column values by item

A version holds every change since the export, in the order in which items first came: the place of
a new item never changes, so that what a server keeps of users stays right. Versions are written
whole and appear by one rename; writers take turns by a lock.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from engine.bundle import Bundle
from engine.errors import BundleError
from engine.retrieval.columns import Scalar

CURRENT, LOCK = "current", "lock"
_KEPT = 3  # versions: a reader may just have read the pointer


@dataclass
class ItemChange:
    """One item that is new or differs from the bundle's.

    Attributes:
        active: whether it may be answered.
        row, candidate: [d_model] and [D] float32; None where they are the bundle's.
        columns: values by column; of a new item all that it has, else those that differ.
    """

    active: bool = True
    row: NDArray[np.float32] | None = None
    candidate: NDArray[np.float32] | None = None
    columns: dict[str, Scalar] = field(default_factory=dict)


def changes_folder(bundle: Path) -> Path:
    """Where a bundle's changes lie unless told otherwise: beside it."""
    path = bundle.resolve()
    return path.with_name(f"{path.name}.items")


class ChangeLog:
    """The changes of one bundle in a folder.

    Args:
        folder: of the changes; it need not exist.
        bundle: identity of the bundle; changes of another are refused.
    """

    def __init__(self, folder: Path, bundle: str) -> None:
        self.folder, self._bundle = folder, bundle
        self._current = str(folder / CURRENT)  # asked for before every batch

    @classmethod
    def of(cls, bundle: Bundle) -> "ChangeLog":
        """The changes that lie beside a bundle."""
        return cls(changes_folder(bundle.folder), bundle.model_id)

    def version(self) -> str | None:
        """Name of the version that counts; None where nothing has changed."""
        try:
            return (self.folder / CURRENT).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def stamp(self) -> tuple[int, int] | None:
        """Differs whenever the version does; costs one system call."""
        try:
            status = os.stat(self._current)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def read(self) -> dict[int, ItemChange]:
        """The changes by item id, in the order in which the items came.

        Raises:
            BundleError: they are unreadable, or of another bundle.
        """
        version = self.version()
        if version is None:
            return {}
        described = self.folder / f"{version}.json"
        try:
            document = json.loads(described.read_bytes())
            arrays = load_file(self.folder / f"{version}.safetensors")
            if document["bundle"] != self._bundle:
                raise BundleError(
                    f"{described}: expected changes of bundle {self._bundle[:12]}, got of "
                    f"{document['bundle'][:12]}: add the items to the new bundle, or remove "
                    f"{self.folder}"
                )
            return {
                int(item_id): ItemChange(
                    bool(arrays["active"][i]),
                    arrays["rows"][i] if arrays["has_row"][i] else None,
                    arrays["candidates"][i] if arrays["has_row"][i] else None,
                    document["columns"][i],
                )
                for i, item_id in enumerate(arrays["item_ids"])
            }
        except (OSError, ValueError, KeyError, IndexError, TypeError, SafetensorError) as error:
            raise BundleError(f"{described}: expected item changes, got {error}") from error

    @contextmanager
    def write(self) -> Iterator[dict[int, ItemChange]]:
        """Gives the changes to be changed, and publishes them at the end of the block.

            with log.write() as changes:
                changes[17] = ItemChange(active=False)

        An exception leaves everything as it was. Raises BundleError as `read` does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = self.version()
            changes = self.read()
            yield changes
            version = f"{int(before or 0) + 1:06d}"
            self._save(version, changes)
            pointer = self.folder / f"{version}.pointer"
            pointer.write_text(version, encoding="utf-8")
            pointer.rename(self.folder / CURRENT)
            for old in sorted(self.folder.glob("*.json"))[:-_KEPT]:
                old.unlink()
                old.with_suffix(".safetensors").unlink()

    def _save(self, version: str, changes: Mapping[int, ItemChange]) -> None:
        given = [change for change in changes.values() if change.row is not None]
        width = len(given[0].row) if given and given[0].row is not None else 0
        dim = len(given[0].candidate) if given and given[0].candidate is not None else 0
        rows = np.zeros((len(changes), width), np.float32)
        candidates = np.zeros((len(changes), dim), np.float32)
        for i, change in enumerate(changes.values()):
            if change.row is not None and change.candidate is not None:
                rows[i], candidates[i] = change.row, change.candidate
        arrays = {
            "item_ids": np.array([*changes], np.int64),
            "active": np.array([change.active for change in changes.values()], np.bool_),
            "has_row": np.array([change.row is not None for change in changes.values()], np.bool_),
            "rows": rows,
            "candidates": candidates,
        }
        save_file(arrays, self.folder / f"{version}.safetensors")
        document = {
            "bundle": self._bundle,
            "columns": [change.columns for change in changes.values()],
        }
        (self.folder / f"{version}.json").write_text(
            json.dumps(document, ensure_ascii=False), encoding="utf-8"
        )
