"""A bundle: everything that serving needs, in one immutable, hashed folder.

manifest.json            what it is made of, sizes and hashes; written last
encode.onnx              the encoder of whole windows; encode.int8.onnx in int8
append.onnx              the encoder of new events over kept ones, unless the model is
                         bidirectional; append.int8.onnx in int8
items.safetensors        arrays with one row an item
request.safetensors      small weights of the request path
content.safetensors      text components, Δ, tags and projections: what an item's row is made of
tags.json                names of the tags, and of the text model
columns.safetensors/json item columns for filters and explanations
promotions.safetensors   what is promoted when, where the shop announces it
ranking/                 what ranks candidates (engine/ranking/shop), where it was trained
users/                   vectors, history and repeat items of every user (engine/store/mmap.py)
"""

import hashlib
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .errors import BundleError
from .manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    Description,
    Manifest,
    check_files,
    hash_files,
    read_manifest,
)
from .promotions import Promotions
from .ranking.shop.sidecar import SIDECAR_FILE
from .retrieval.columns import ARRAYS_FILE, NAMES_FILE, Columns
from .store.codec import Shape
from .store.mmap import FILES, MemoryMappedUserStore, write_users
from .store.users import UserRecord, UserStore

CONTENT_FILE, TAGS_FILE = "content.safetensors", "tags.json"
ENCODE_FILE, APPEND_FILE = "encode.onnx", "append.onnx"
ENCODE_INT8_FILE, APPEND_INT8_FILE = "encode.int8.onnx", "append.int8.onnx"
ITEMS_FILE, REQUEST_FILE = "items.safetensors", "request.safetensors"
PROMOTIONS_FILE = "promotions.safetensors"
USERS_FOLDER, RANKER_FOLDER = "users", "ranking"
REQUIRED = (
    ENCODE_FILE,
    ENCODE_INT8_FILE,
    ITEMS_FILE,
    REQUEST_FILE,
    CONTENT_FILE,
    TAGS_FILE,
    ARRAYS_FILE,
    NAMES_FILE,
    *(f"{USERS_FOLDER}/{name}" for name in FILES),
)
ITEM_ARRAYS: dict[str, tuple[type, int]] = {
    "item_ids": (np.int64, 1),
    "rows": (np.float32, 2),
    "candidates": (np.float32, 2),
    "log_p": (np.float32, 1),
    "active": (np.bool_, 1),
    "sold": (np.float32, 2),
    "count": (np.float32, 1),
    "buyers": (np.float32, 1),
    "again": (np.float32, 1),
    "span_days": (np.float32, 1),
    "subclass": (np.int32, 1),
}
PACKAGES = ("numpy", "onnxruntime", "faiss-cpu", "safetensors", "torch")
Arrays = Mapping[str, NDArray[Any]]


class Graphs(NamedTuple):
    """Files of one precision; no `append` where the model is bidirectional."""

    encode: Path
    append: Path | None


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        items: item_ids [N] int64 ascending, rows [N, d_model] and candidates [N, D] float32,
            log_p [N] float32, active [N] bool (may be answered), sold
            [N, N_WINDOWS] of `Sales.recent` as of the cut, and the arrays of RepeatItemStatistics.
        request_weights: arrays by name.
        columns: item columns, aligned with item_ids.
        users: as they were exported.
        promotions: of the days from the cut on; None where the shop announces none.
    """

    folder: Path
    manifest: Manifest
    items: Arrays
    request_weights: Arrays
    columns: Columns
    users: UserStore
    promotions: Promotions | None

    @classmethod
    def open(cls, folder: Path, verify: bool = True) -> "Bundle":
        """Opens a bundle, or says why not.

        Args:
            verify: compare hashes too; sizes, presence and how the parts fit are always checked.
        Raises:
            BundleError: the bundle is incomplete, altered, of another version, or its parts do not
                fit together; names the file and the reason.
        """
        manifest = read_manifest(folder)
        for name in REQUIRED:
            if name not in manifest.files:
                raise BundleError(f"{folder / MANIFEST_FILE}: files: expected {name}, got none")
        check_files(folder, manifest.files, verify=verify)
        items = _load(folder / ITEMS_FILE)
        _check_items(folder / ITEMS_FILE, items)
        columns = Columns.load(folder)
        if columns.n_items != len(items["item_ids"]):
            raise BundleError(
                f"{folder / ARRAYS_FILE}: expected {len(items['item_ids'])} items, "
                f"got {columns.n_items}"
            )
        users = MemoryMappedUserStore(folder / USERS_FOLDER, shape=user_shape(items, manifest))
        return cls(
            folder=folder,
            manifest=manifest,
            items=items,
            request_weights=_load(folder / REQUEST_FILE),
            columns=columns,
            users=users,
            promotions=_promotions(folder / PROMOTIONS_FILE, manifest, len(items["item_ids"])),
        )

    @cached_property
    def model_id(self) -> str:
        """Identity of model and items: what is computed with them holds for no other.

        sha256 over the hashes of the files that decide an item's row and a user's vectors.
        """
        names = (ENCODE_FILE, ITEMS_FILE, CONTENT_FILE)
        hashes = "\n".join(self.manifest.files[name].sha256 for name in names)
        return hashlib.sha256(hashes.encode()).hexdigest()

    @property
    def ranker(self) -> Path | None:
        """Folder of the ranker, None where there is none."""
        folder = self.folder / RANKER_FOLDER
        return folder if f"{RANKER_FOLDER}/{SIDECAR_FILE}" in self.manifest.files else None

    def graphs(self, precision: Literal["fp32", "int8"]) -> Graphs:
        """The encoder's graphs in one precision."""
        encode, append = {
            "fp32": (ENCODE_FILE, APPEND_FILE), "int8": (ENCODE_INT8_FILE, APPEND_INT8_FILE),
        }[precision]  # fmt: skip
        kept = self.folder / append if append in self.manifest.files else None
        return Graphs(self.folder / encode, kept)


class BundleWriter:
    """Writes a bundle beside its place and moves it there when it is complete.

        with BundleWriter(folder, description) as writer:
            export_graphs(writer.folder)
            writer.write_items(...)      # and request, columns, users

    Leaving the block hashes every file, writes the manifest, opens the result as a reader would,
    and renames it to `folder`; a bundle that stood there is replaced. Between the two renames of a
    replacement there is no bundle for an instant. After an exception nothing is left behind.
    """

    def __init__(self, folder: Path, description: Description) -> None:
        self._target = folder.resolve()
        self._description = description
        self.folder = self._target.with_name(f".{self._target.name}.{secrets.token_hex(4)}")

    def __enter__(self) -> "BundleWriter":
        """Raises BundleError where `folder` holds something that is not a bundle."""
        target = self._target
        if target.exists() and not (target / MANIFEST_FILE).is_file() and _is_filled(target):
            raise BundleError(f"{target}: expected a bundle or nothing to replace, got other files")
        self.folder.mkdir(parents=True)
        return self

    def write_items(self, arrays: Arrays) -> None:
        """items.safetensors; see Bundle.items. Raises BundleError where arrays do not fit."""
        _check_items(self.folder / ITEMS_FILE, arrays)
        _save(arrays, self.folder / ITEMS_FILE)

    def write_request(self, arrays: Arrays) -> None:
        """request.safetensors: the request path's small weights."""
        _save(arrays, self.folder / REQUEST_FILE)

    def write_promotions(self, promotions: Promotions) -> None:
        """promotions.safetensors; nothing where there are no kinds."""
        if promotions.kinds:
            _save(vars(promotions), self.folder / PROMOTIONS_FILE)

    def write_columns(self, columns: Columns) -> None:
        """columns.safetensors and columns.json."""
        columns.save(self.folder)

    def write_users(self, users: Iterable[UserRecord]) -> None:
        """The users by ascending id. Raises ValueError as `engine.store.mmap.write_users` does."""
        write_users(self.folder / USERS_FOLDER, users)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises BundleError, and publishes nothing, where Bundle.open would refuse the result."""
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _finish(self) -> None:
        manifest = Manifest(
            **dict(self._description),
            format_version=FORMAT_VERSION,
            engine_version=version("stars-engine"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: version(name) for name in PACKAGES},
            files=hash_files(self.folder),
        )
        (self.folder / MANIFEST_FILE).write_text(
            manifest.model_dump_json(indent=2), encoding="utf-8"
        )
        Bundle.open(self.folder, verify=False)
        if not self._target.exists():
            self.folder.rename(self._target)
            return
        old = self.folder.with_name(f"{self.folder.name}.old")
        self._target.rename(old)
        try:
            self.folder.rename(self._target)
        except OSError:
            old.rename(self._target)
            raise
        shutil.rmtree(old)


def _is_filled(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())


def _save(arrays: Arrays, path: Path) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: expected safetensors, got {error}") from error


def _promotions(path: Path, manifest: Manifest, n_items: int) -> Promotions | None:
    """The bundle's, None where it has none. Raises BundleError where they do not fit."""
    if path.name not in manifest.files:
        return None
    arrays = _load(path)
    names = {field.name for field in fields(Promotions)}
    if set(arrays) != names:
        raise BundleError(f"{path}: expected {sorted(names)}, got {sorted(arrays)}")
    if len(arrays["offsets"]) != n_items + 1:
        raise BundleError(f"{path}: expected {n_items} items, got {len(arrays['offsets']) - 1}")
    return Promotions(**arrays)


def _check_items(path: Path, arrays: Arrays) -> None:
    for name, (dtype, n_dim) in ITEM_ARRAYS.items():
        if name not in arrays:
            raise BundleError(f"{path}: expected {name}, got {', '.join(sorted(arrays)) or 'none'}")
        if arrays[name].dtype != dtype or arrays[name].ndim != n_dim:
            raise BundleError(
                f"{path}: {name}: expected {n_dim} dimensions of {np.dtype(dtype)}, "
                f"got {list(arrays[name].shape)} {arrays[name].dtype}"
            )
    ids = arrays["item_ids"]
    if not (ids[:-1] < ids[1:]).all():
        raise BundleError(f"{path}: item_ids: expected ascending and unique ids")
    for name, array in arrays.items():
        if array.shape[:1] != ids.shape:
            raise BundleError(
                f"{path}: {name}: expected {len(ids)} rows as item_ids, got {list(array.shape)}"
            )


def user_shape(items: Arrays, manifest: Manifest) -> Shape:
    """What a user's record must be to fit the bundle's items and features."""
    return Shape(
        items["candidates"].shape[1], len(manifest.user_categorical), len(manifest.user_numeric)
    )
