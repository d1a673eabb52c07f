"""The embedded store: versions of memory-mapped files in a folder, for one machine.

    published.json      what is served; replaced by a rename
    versions/ID/        the files of MemoryMappedUserStore
    staging/ID/         a refresh at work: version.json, and a folder for each part that is complete
    lock, refresh.lock  held while published.json is replaced, and while a refresh works

Readers look at published.json once a batch, and never into another version's folder. Files that a
reader has mapped stay readable to it after they were freed.
"""

import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from engine.errors import BundleError, StoreDown, StoreError

from .codec import Shape
from .mmap import FILES, IDS, OFFSETS, RECORDS, MemoryMappedUserStore, Part, as_part, write_parts
from .users import ERRORS, UserRecord
from .versions import Published, Version, served_version

POINTER, VERSIONS, STAGING, VERSION_FILE = "published.json", "versions", "staging", "version.json"


class FolderUserStore:
    """UserStore over what a folder publishes; follows it from batch to batch.

    Args:
        folder: of the store.
        model: `Bundle.model_id`; versions of another model are never read.
        shape: what the model expects of each record.
    Raises:
        StoreError: nothing is published, or users of another model, or not readable.
    """

    def __init__(self, folder: Path, model: str, shape: Shape) -> None:
        self.version: Version | None = None
        self.errors: Counter[str] = Counter(dict.fromkeys(ERRORS, 0))
        self._folder, self._model, self._shape = folder, model, shape
        self._pointer = str(folder / POINTER)
        self._raw: bytes | None = None
        raw = self._read_pointer()
        try:
            self._users = self._open(raw)
        except StoreError:
            if self._read_pointer() == raw:
                raise
            self._users = self._open(self._read_pointer())  # it was replaced, and its version freed

    def __len__(self) -> int:
        return len(self._users)

    def get_many(self, user_ids: Sequence[str]) -> list[UserRecord | None]:
        """Records in the order of `user_ids`, all of one version; None for an unknown user."""
        try:
            raw = self._read_pointer()
            if raw != self._raw:
                self._users = self._open(raw)
        except StoreError:
            self.errors["version"] += 1  # what is open stays as it was, and right
        if has_expired(self.version):
            self.errors["expired"] += len(user_ids)
            return [None] * len(user_ids)
        return self._users.get_many(user_ids)

    def _read_pointer(self) -> bytes | None:
        try:  # a third of the time of Path.read_bytes, once a batch
            file = os.open(self._pointer, os.O_RDONLY)
            try:
                return os.read(file, 1 << 20)
            finally:
                os.close(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreDown(f"users {self._folder}: expected {POINTER}, got {error}") from error

    def _open(self, raw: bytes | None) -> MemoryMappedUserStore:
        version = served_version(raw, self._model, str(self._folder))
        try:
            users = MemoryMappedUserStore(
                self._folder / VERSIONS / version.id, version, self._shape
            )
        except BundleError as error:
            raise StoreError(f"users {self._folder}: {error}") from error
        users.errors = self.errors
        self.version, self._raw = version, raw
        return users


class FolderPublisher:
    """UserPublisher of a folder; see the module for its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self.name = self.url = str(self._folder)
        self._refresh_lock: IO[bytes] | None = None

    def published(self) -> Published:
        """What is served, nothing in a new folder. Raises StoreError where it is unreadable."""
        try:
            return Published.parse((self._folder / POINTER).read_bytes(), self.name)
        except FileNotFoundError:
            return Published()

    def begin(self, version: Version) -> Version:
        """Takes up an unfinished version of the same key, or begins this one; drops any other.

        Raises:
            StoreError: another refresh of the folder is at work.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = (self._folder / "refresh.lock").open("wb")  # held as long as this object lives
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"users {self.name}: expected no other refresh at work") from None
        self._refresh_lock = lock
        found = None
        for path in sorted((self._folder / STAGING).glob("*")):
            try:
                unfinished = Version.model_validate_json((path / VERSION_FILE).read_bytes())
            except (OSError, ValueError):  # it had not begun
                unfinished = None
            if unfinished is not None and unfinished.key == version.key:
                found = unfinished
            else:
                shutil.rmtree(path)
        known = {v.id for v in (*self.published().versions, *self.published().retired)}
        for path in (self._folder / VERSIONS).glob("*"):
            if path.name not in known and (found is None or path.name != found.id):
                shutil.rmtree(path)  # of a refresh that was dropped after it was finished
        if found is not None:
            return found
        folder = self._folder / STAGING / version.id
        folder.mkdir(parents=True)
        _write(folder / VERSION_FILE, version.model_dump_json().encode())
        return version

    def parts(self, version: Version) -> set[int]:
        """Parts that are complete."""
        return {
            int(path.name)
            for path in (self._folder / STAGING / version.id).iterdir()
            if path.name.isdigit()
        }

    def write(self, version: Version, part: int, records: list[tuple[bytes, bytes]]) -> None:
        """Stores one part; it appears by one rename."""
        target = self._folder / STAGING / version.id / f"{part:06d}"
        made = target.with_name(f"making-{part}-{os.getpid()}")
        shutil.rmtree(made, ignore_errors=True)
        write_parts(made, [as_part(records)])
        _sync(made)
        try:
            made.rename(target)
        except OSError:
            # A worker that outlived its refresh for a moment was first, with the same bytes.
            if not target.is_dir():
                raise
            shutil.rmtree(made)

    def finish(self, version: Version) -> None:
        """Joins the parts to the version's files. Raises StoreError where one is missing."""
        staged, target = self._folder / STAGING / version.id, self._folder / VERSIONS / version.id
        if target.exists():
            return
        missing = set(range(version.parts)) - self.parts(version)
        if missing:
            raise StoreError(
                f"users {self.name}: expected {version.parts} parts of {version.id}, "
                f"got none of {min(missing)}"
            )
        whole = staged / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        write_parts(whole, map(_read_part, (staged / f"{p:06d}" for p in range(version.parts))))
        _sync(whole)
        target.parent.mkdir(exist_ok=True)
        whole.rename(target)
        _sync_folder(target.parent)

    def swap(self, before: Published, after: Published) -> None:
        """Replaces published.json by a rename; StoreError where it is not `before`."""
        with self._locked():
            if self.published() != before:
                raise StoreError(f"users {self.name}: expected nobody else to publish meanwhile")
            _write(self._folder / POINTER, after.to_json())

    def clean(self, published: Published) -> None:
        """Deletes retired versions, and the parts of those that are published."""
        for version in published.retired:
            shutil.rmtree(self._folder / VERSIONS / version.id, ignore_errors=True)
        for version in published.versions:
            shutil.rmtree(self._folder / STAGING / version.id, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def has_expired(version: Version | None) -> bool:
    """Whether the version is past its time-to-live."""
    return version is not None and version.expires is not None and time.time() >= version.expires


def _read_part(folder: Path) -> Part:
    return (
        np.load(folder / IDS, allow_pickle=False),
        np.load(folder / OFFSETS, allow_pickle=False),
        (folder / RECORDS).read_bytes(),
    )


def _write(path: Path, content: bytes) -> None:
    """Replaces a file so that a reader, or a crash, sees the old content or the new."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    with made.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    made.rename(path)
    _sync_folder(path.parent)


def _sync(folder: Path) -> None:
    """Makes the files of a version durable before they count."""
    for name in FILES:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
