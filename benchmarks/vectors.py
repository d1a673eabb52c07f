"""Item vectors to search in: MiniLM's vectors of real texts, varied where texts run out."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
EMBEDDINGS = ROOT / "artifacts" / "demo" / "embeddings"  # of `make demo`: its products' texts
NEIGHBOURS, NOISE = 20, 0.2


def text_vectors(n: int, seed: int = 0) -> NDArray[np.float32]:
    """[n, 384] float32 of unit length.

    The vectors of the demo's distinct product texts, shuffled; past their number each is a mixture
    of a random text and one of its 20 nearest, the first weighing one half to one, plus Gaussian
    noise of length 0.2, brought back to unit length: as close to each other as variants of one
    product.

    Raises:
        FileNotFoundError: `make demo` has not embedded its texts yet.
    """
    texts = _texts()
    rng = np.random.default_rng(seed)
    vectors = np.empty((n, texts.shape[1]), np.float32)
    real = min(n, len(texts))
    vectors[:real] = texts[rng.permutation(len(texts))[:real]]
    nearest = _nearest(texts)
    for start in range(real, n, 2**15):
        part = vectors[start : start + 2**15]
        part[:] = _varied(rng, texts, nearest, len(part))
    return vectors


def queries_like(n: int, seed: int = 1) -> NDArray[np.float32]:
    """[n, 384] variants as those of `text_vectors`, in no catalogue of another seed."""
    texts = _texts()
    return _varied(np.random.default_rng(seed), texts, _nearest(texts), n)


def gaussian_vectors(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """[n, dim] float32 without any structure: the hardest case for an approximate index."""
    return np.random.default_rng(seed).standard_normal((n, dim), np.float32)


def _texts() -> NDArray[np.float32]:
    shards = sorted(EMBEDDINGS.glob("*MiniLM*/*.safetensors"))
    if not shards:
        raise FileNotFoundError(f"{EMBEDDINGS}: expected MiniLM's vectors, run `make demo` first")
    return np.concatenate([load_file(shard)["vectors"] for shard in shards])


def _nearest(texts: NDArray[np.float32]) -> NDArray[np.int64]:
    """[n, 20] the nearest other texts of each."""
    found = [
        np.argpartition(-(texts[start : start + 1024] @ texts.T), NEIGHBOURS + 1, axis=1)
        for start in range(0, len(texts), 1024)
    ]
    return np.concatenate(found)[:, 1 : NEIGHBOURS + 1]


def _varied(
    rng: np.random.Generator, texts: NDArray[np.float32], nearest: NDArray[np.int64], n: int
) -> NDArray[np.float32]:
    first = rng.integers(0, len(texts), n)
    second = nearest[first, rng.integers(0, NEIGHBOURS, n)]
    weight = rng.uniform(0.5, 1, (n, 1)).astype(np.float32)
    noise = rng.standard_normal((n, texts.shape[1]), np.float32)
    noise *= NOISE / np.sqrt(texts.shape[1], dtype=np.float32)
    mixed = weight * texts[first] + (1 - weight) * texts[second] + noise
    unit: NDArray[np.float32] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit
