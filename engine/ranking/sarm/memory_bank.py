"""M[author] = (h_CLS, h_TAR): what the ranker reads of authors. NumPy only, so nothing read from it
has a gradient, and serving needs no encoder."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from engine.errors import BundleError

F32 = NDArray[np.float32]
Ids = NDArray[np.int64]
_FORMAT = "stars-sarm-bank-1"
_NEVER = -1


class Read(NamedTuple):
    """Two vectors an author."""

    cls: F32  # [..., D]
    tar: F32  # [..., D]


class MemoryBank:
    """Rows of the known authors in order of their ids, and one last row for whoever has none.

    The last row is the learned null vector. An author without a row, or whose row was never
    written, reads it.
    """

    def __init__(self, authors: Ids, dim: int) -> None:
        """Raises ValueError for authors that are not ascending and distinct, or a dim below 1."""
        if not (np.diff(authors) > 0).all():
            raise ValueError("memory bank: authors: expected ascending distinct ids")
        if dim < 1:
            raise ValueError(f"memory bank: dim: expected at least 1, got {dim}")
        self.authors = authors.astype(np.int64)
        self._cls = np.zeros((len(authors) + 1, dim), np.float32)
        self._tar = np.zeros_like(self._cls)
        self.version = np.full(len(authors), _NEVER, np.int64)  # of the encoder that wrote
        self.time = np.full(len(authors), _NEVER, np.int64)  # unix seconds of the write

    def __len__(self) -> int:
        return len(self.authors)

    @property
    def dim(self) -> int:
        return self._cls.shape[1]

    def rows(self, authors: Ids) -> Ids:
        """Row of each author, [...]; `len(self)` where there is none."""
        place = np.searchsorted(self.authors, authors)
        if not len(self):
            return np.zeros_like(place)
        known = self.authors[np.minimum(place, len(self) - 1)] == authors
        return np.where(known, place, len(self))

    def add(self, authors: Ids) -> None:
        """Rows, never written, for authors that have none; rows of others move, values stay."""
        merged = np.union1d(self.authors, authors)
        grown = MemoryBank(merged, self.dim)
        place = np.r_[np.searchsorted(merged, self.authors), len(merged)]
        grown._cls[place], grown._tar[place] = self._cls, self._tar
        grown.version[place[:-1]], grown.time[place[:-1]] = self.version, self.time
        self.__dict__.update(grown.__dict__)

    def write(self, rows: Ids, cls: F32, tar: F32, *, version: int, time: int) -> None:
        """Replaces the vectors of distinct rows [n] by [n, D].

        Raises:
            ValueError: a row that there is not or twice, another shape, a value not finite.
        """
        shape = (len(rows), self.dim)
        if cls.shape != shape or tar.shape != shape:
            raise ValueError(
                f"memory bank: vectors: expected shape {shape}, got {cls.shape} and {tar.shape}"
            )
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise ValueError(f"memory bank: rows: expected 0 to {len(self) - 1}, got others")
        if len(np.unique(rows)) < len(rows):
            raise ValueError("memory bank: rows: expected each once")
        if not (np.isfinite(cls).all() and np.isfinite(tar).all()):
            raise ValueError("memory bank: vectors: expected finite values, got others")
        self._cls[rows], self._tar[rows] = cls, tar
        self.version[rows], self.time[rows] = version, time

    def write_null(self, cls: F32, tar: F32) -> None:
        """Replaces the null vector: [D] each."""
        self._cls[-1], self._tar[-1] = cls, tar

    def read(self, rows: Ids) -> Read:
        """Copies of the vectors of rows [...], the null vector where none was written."""
        at = self._readable(rows)
        return Read(self._cls[at], self._tar[at])

    def all(self) -> Read:
        """Vectors of all rows, the null vector last, [A + 1, D]: what serving gathers from."""
        return self.read(np.arange(len(self) + 1))

    def stale(self, before: int) -> Ids:
        """Rows last written before that time, those never written among them."""
        return np.flatnonzero(self.time < before)

    def save(self, path: Path) -> None:
        """Writes one safetensors file."""
        tensors: dict[str, NDArray[Any]] = {
            "authors": self.authors, "cls": self._cls, "tar": self._tar,
            "version": self.version, "time": self.time,
        }  # fmt: skip
        save_file(tensors, path, metadata={"format": _FORMAT})

    @classmethod
    def load(cls, path: Path) -> "MemoryBank":
        """What `save` wrote. Raises BundleError for a file that is none."""
        try:
            with safe_open(path, "np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                found = (file.metadata() or {}).get("format")
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{path}: expected a memory bank: {error}") from error
        if found != _FORMAT:
            raise BundleError(f"{path}: expected format {_FORMAT}, got {found}")
        bank = cls(tensors["authors"], tensors["cls"].shape[1])
        bank._cls, bank._tar = tensors["cls"], tensors["tar"]
        bank.version, bank.time = tensors["version"], tensors["time"]
        return bank

    def _readable(self, rows: Ids) -> Ids:
        written = np.r_[self.version >= 0, True]
        found: Ids = np.where(written[rows], rows, len(self))
        return found
