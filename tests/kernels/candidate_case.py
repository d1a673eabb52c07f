"""Inputs of the candidate softmax for its tests, and its formulas candidate by candidate."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.backend import Backend
from kernels.candidate_softmax import CandidateLoss, candidate_softmax


@dataclass(frozen=True)
class Case:
    hidden: Tensor
    items: Tensor
    bias: Tensor
    shared: Tensor
    shared_log_pi: Tensor
    candidates: Tensor
    log_pi: Tensor
    offset: Tensor
    weight: Tensor
    negative: Tensor

    def arguments(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def loss(self, backend: Backend = "auto") -> CandidateLoss:
        return candidate_softmax(**self.arguments(), backend=backend)

    def rows(self, rows: slice) -> "Case":
        """The same with some of the positions."""
        names = ("hidden", "candidates", "log_pi", "offset", "weight", "negative")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def to(self, *args: Any) -> "Case":
        """Hidden and items in another dtype, or everything on another device."""
        names = ("hidden", "items") if isinstance(args[0], torch.dtype) else self.arguments()
        return replace(self, **{name: getattr(self, name).to(*args) for name in names})

    def wide(self) -> "Case":
        """Every real number in fp64."""
        changed = {n: v.double() for n, v in self.arguments().items() if v.is_floating_point()}
        return replace(self, **changed)


def case(p: int, c: int, s: int, n: int, seed: int, wide: bool = False, d: int = 4) -> Case:
    """Random positions; pads stand anywhere, targets and negatives only on real candidates."""
    rng = np.random.default_rng(seed)
    real = torch.float64 if wide else torch.float32

    def normal(*shape: int) -> Tensor:
        return torch.as_tensor(rng.standard_normal(shape)).to(real)

    candidates = np.full((p, c), -1)
    for row in candidates:
        filled = rng.integers(0, min(c, n) + 1)
        row[rng.choice(c, filled, replace=False)] = rng.choice(n, filled, replace=False)
    own = torch.as_tensor(candidates >= 0)
    weight = torch.as_tensor(rng.random((p, c)) * (rng.random((p, c)) < 0.4)).to(real) * own
    return Case(
        hidden=normal(p, d) * (4 / d) ** 0.5,
        items=normal(n, d),
        bias=normal(n),
        shared=torch.as_tensor(rng.choice(n, min(s, n), replace=False)),
        shared_log_pi=-normal(min(s, n)).abs(),
        candidates=torch.as_tensor(candidates),
        log_pi=-normal(p, c).abs(),
        offset=normal(p, c),
        weight=weight,
        negative=torch.as_tensor(rng.random((p, c)) < 0.5) & own & (weight == 0),
    )


def naive(x: Case) -> CandidateLoss:
    """The formulas of the objective, candidate by candidate, in fp64."""
    hidden, items, bias, offset, log_pi, weight = (
        getattr(x, name).double().numpy()
        for name in ("hidden", "items", "bias", "offset", "log_pi", "weight")
    )
    rows: list[list[float]] = [[], [], []]
    for p, own in enumerate(x.candidates.tolist()):
        corrected, negatives = {}, []
        for slot, item in enumerate(own):
            if item >= 0:
                z = hidden[p] @ items[item] + bias[item] + offset[p, slot]
                corrected[item] = z - log_pi[p, slot]
                if x.negative[p, slot]:
                    negatives.append(np.log1p(np.exp(z)))  # -log σ(-z)
        for item, chance in zip(x.shared.tolist(), x.shared_log_pi.tolist(), strict=True):
            if item not in own:
                corrected[item] = hidden[p] @ items[item] + bias[item] - chance
        total = np.log(np.exp(list(corrected.values())).sum()) if corrected else -np.inf
        rows[0].append(
            sum(weight[p, s] * (total - corrected[i]) for s, i in enumerate(own) if i >= 0)
        )
        rows[1].append(float(np.mean(negatives)) if negatives else 0.0)
        rows[2].append(total)
    return CandidateLoss(*(torch.tensor(row, dtype=torch.float64) for row in rows))
