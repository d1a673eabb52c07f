"""A served term of counts: what users took near the items of a history.

    z_j = h · c_j + γ log1p(SCALE · n_j)      n = Σ_i RECENT^i N[h_i]      h_0 the last event

N is D^-.5 (C + BACK · Cᵀ) D^-.3, with C the counts of ordered pairs (`near_pairs`) and D the items'
counts. Few pairs repeat often: the softmax smooths over them, a count knows them exactly. γ is
chosen on the validation item, as λ_serve is, and 0 is among the choices.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from engine.training.history import Past
from engine.training.warm_start import near_pairs

WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)
BACK = 0.5  # weight of what came before an item against what came after
RECENT, LAST = 0.7, 10  # weight of each event further back, and how many of them count
SCALE = 20.0
_FROM, _TO = 0.5, 0.3  # powers of the popularity of either item that counts are divided by


@dataclass(frozen=True)
class Neighbours:
    """pairs: N [N, N] of the events that training read, and of no others."""

    pairs: csr_array

    @staticmethod
    def of(past: Past) -> "Neighbours":
        """Counts of a past."""
        counts = np.maximum(np.bincount(past.item, minlength=len(past.dataset.item_ids)), 1.0)
        pairs = diags_array(counts**-_FROM) @ near_pairs(past, BACK) @ diags_array(counts**-_TO)
        return Neighbours(csr_array(pairs))

    def term(self, histories: list[NDArray[np.int64]]) -> Tensor:
        """log1p(SCALE · n) [Q, N] float32 of histories, oldest event first."""
        recent = [items[-LAST:][::-1] for items in histories]
        lengths = [len(items) for items in recent]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        weight = np.concatenate([RECENT ** np.arange(length) for length in lengths])
        shape = (len(recent), self.pairs.shape[0])
        of_user = csr_array((weight, np.concatenate(recent), offsets), shape=shape)
        near = (of_user @ self.pairs).toarray().astype(np.float32)
        return torch.from_numpy(np.log1p(SCALE * near))
