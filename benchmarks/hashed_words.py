"""Texts as vectors without a model."""

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray


class HashedWords:
    """One fixed random direction a word, summed: texts that share words are near."""

    def __init__(self, width: int = 16) -> None:
        self.name, self._width = f"words-{width}", width

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, width] float32 of unit length."""
        word = cache(self._word)
        rows = np.array([sum(word(part) for part in text.split()) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def _word(self, word: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).standard_normal(self._width)
