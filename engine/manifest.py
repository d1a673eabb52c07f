"""A bundle's manifest: what it was made of, and the size and hash of each of its files."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .data.dataset import NumericFeature
from .errors import BundleError

FORMAT_VERSION = 4
MANIFEST_FILE = "manifest.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Source(_Frozen):
    """The prepared dataset: its name and the fingerprint of its files and settings."""

    name: str
    fingerprint: str


class FileEntry(_Frozen):
    """One file as it was written."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Description(_Frozen):
    """What whoever makes a bundle says of it.

    Attributes:
        commit: of the source tree, "" where there is none.
        event_types: names, a type's code is its place. `default_event_type` is what an event of a
            request has that names none, `repeat_types` are what makes an item a repeat.
        signals: context signals in the order of a request's `context`.
        user_categorical: feature -> its values, code 0 is unknown, value i has code i + 1.
        cut: unix seconds up to which events were seen (the order, where there is no time).
        model: the resolved model configuration.
        lambda_serve: weight of the popularity prior in the scores.
    """

    commit: str
    dataset: Source
    timezone: str
    has_time: bool
    event_types: list[str]
    default_event_type: str
    repeat_types: list[str]
    signals: list[NumericFeature]
    user_categorical: dict[str, list[str]]
    user_numeric: list[NumericFeature]
    cut: int
    model: dict[str, Any]
    lambda_serve: float

    @model_validator(mode="after")
    def _known_types(self) -> "Description":
        unknown = {self.default_event_type, *self.repeat_types} - set(self.event_types)
        if unknown:
            raise ValueError(f"expected event types of {self.event_types}, got {sorted(unknown)}")
        return self

    @property
    def default_event_code(self) -> int:
        """Code of `default_event_type`."""
        return self.event_types.index(self.default_event_type)

    @property
    def repeat_codes(self) -> tuple[int, ...]:
        """Codes of `repeat_types`."""
        return tuple(self.event_types.index(name) for name in self.repeat_types)


class Manifest(Description):
    """The description and what the writer adds: versions, time (ISO 8601, UTC) and the files by
    their path relative to the bundle, with forward slashes."""

    format_version: int
    engine_version: str
    created: str
    versions: dict[str, str]
    files: dict[str, FileEntry]


def source_commit() -> str:
    """Commit of the source tree, "" where the code does not lie in one."""
    answer = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`.

    Raises:
        BundleError: it is missing, unreadable, of another format version, or lists a path that
            leaves the folder.
    """
    path = folder / MANIFEST_FILE
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: expected the manifest of a bundle, got {error}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected JSON, got {error}") from error
    # Before the schema: another version's manifest may well have other fields.
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version: expected {FORMAT_VERSION}, got {version!r}; "
            "export the bundle again with this version"
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "manifest"
        raise BundleError(
            f"{path}: {place}: {first['msg']}, got {str(first['input'])[:80]!r}"
        ) from error
    for name in manifest.files:
        if not _stays_inside(name):
            raise BundleError(f"{path}: files: expected paths inside the bundle, got {name!r}")
    return manifest


def list_files(folder: Path) -> list[str]:
    """Relative paths of all files below `folder` but the manifest, ascending.

    Raises:
        BundleError: something is neither a plain file nor a folder, for instance a link.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent) / name
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BundleError(f"{path}: expected plain files and folders, got something else")
            if path.is_file():
                found.append(path.relative_to(folder).as_posix())
    return sorted(name for name in found if name != MANIFEST_FILE)


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Sizes and hashes of what `list_files` finds."""
    return {
        name: FileEntry(sha256=_sha256(folder / name), bytes=(folder / name).stat().st_size)
        for name in list_files(folder)
    }


def check_files(folder: Path, files: Mapping[str, FileEntry], *, verify: bool) -> None:
    """Holds the folder against the manifest's `files`.

    Args:
        verify: also reads every file for its hash; sizes and presence are always checked.
    Raises:
        BundleError: a file is missing, too many, or of another size or hash.
    """
    present = list_files(folder)
    for name in files:
        if name not in present:
            raise BundleError(f"{folder / name}: expected a file of the bundle, got none")
    for name in present:
        if name not in files:
            raise BundleError(f"{folder / name}: expected only files of the manifest, got this one")
    for name, entry in files.items():
        size = (folder / name).stat().st_size
        if size != entry.bytes:
            raise BundleError(f"{folder / name}: expected {entry.bytes} bytes, got {size}")
    if not verify:
        return
    for name, entry in files.items():
        digest = _sha256(folder / name)
        if digest != entry.sha256:
            raise BundleError(f"{folder / name}: expected sha256 {entry.sha256}, got {digest}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stays_inside(name: str) -> bool:
    """Whether `name` is a plain relative path, written in the one way there is to write it."""
    path = PurePosixPath(name)
    return (
        bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
        and "\0" not in name
        and path.as_posix() == name
    )
