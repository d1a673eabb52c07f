"""The ranker as ONNX graphs, with SARM and without, for any number of candidates."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.compile.onnx import save, trace

from .model import Given, Sarm, UserSequence


def export_rank(model: Sarm, path: Path) -> None:
    """Writes the graph of one request's candidates, to `logits` [N, M].

    Inputs are `numbers` [N, F], `categories` [N, C] and, as far as the model has them, `bank`
    [A, P], the projected bank, with `rows` [N], its row of each candidate, and `user` [1, P].

    Args:
        model: trained, on the CPU.
        path: the .onnx file.
    """
    fields, wide = model.ranker.fields, sum(model.ranker.widths)
    n, a = torch.export.Dim("candidates"), torch.export.Dim("authors")
    example: dict[str, Tensor] = {
        "numbers": torch.ones(3, sum(len(part) for part in fields.parts)),
        "categories": torch.zeros(3, len(fields.tables), dtype=torch.int64),
    }
    shapes: dict[str, object] = {"numbers": {0: n}, "categories": {0: n}}
    if model.ranker.content is not None:
        example |= {"bank": torch.ones(4, wide), "rows": torch.zeros(3, dtype=torch.int64)}
        shapes |= {"bank": {0: a}, "rows": {0: n}}
    if model.sequence is not None:
        example["user"], shapes["user"] = torch.ones(1, wide), {}
    _export(_Rank(model, tuple(example)), example, shapes, "logits", path)


def export_user(model: Sarm, path: Path) -> None:
    """Writes the graph of a user: `vectors` [A, D] of the bank and the rows `history` [m] of the
    authors last clicked, to `user` [1, P].

    Raises:
        ValueError: a model without a user sequence.
    """
    if model.sequence is None or model.ranker.user is None:
        raise ValueError("export_user: model: expected a user sequence, got none")
    m, a = torch.export.Dim("history"), torch.export.Dim("authors")
    example = {
        "vectors": torch.ones(5, model.config.encoder.dim),
        "history": torch.zeros(3, dtype=torch.int64),
    }
    shapes: dict[str, object] = {"vectors": {0: a}, "history": {0: m}}
    _export(_User(model.sequence, model.ranker.user), example, shapes, "user", path)


def projection(model: Sarm) -> NDArray[np.float32]:
    """[D or 2 D, P] from a bank row to what it adds to the ranker; ValueError without content."""
    if model.ranker.content is None:
        raise ValueError("projection: model: expected one with content of authors, got none")
    found: NDArray[np.float32] = model.ranker.content.weight.detach().numpy().T.copy()
    return found


def _export(
    module: nn.Module,
    example: dict[str, Tensor],
    shapes: dict[str, object],
    output: str,
    path: Path,
) -> None:
    given, dynamic = tuple(example.values()), (tuple(shapes.values()),)
    save(trace(module, given, dynamic, tuple(example), (output,)), path)


class _Rank(nn.Module):
    """The ranker over bank rows, its parts as arguments."""

    def __init__(self, model: Sarm, names: tuple[str, ...]) -> None:
        super().__init__()
        self.ranker, self.names = model.ranker, names

    def forward(self, *parts: Tensor) -> Tensor:
        given = dict(zip(self.names, parts, strict=True))
        content = F.embedding(given["rows"], given["bank"]) if "bank" in given else None
        found: Tensor = self.ranker(
            Given(given["numbers"], given["categories"], content, given.get("user"))
        )
        return found


class _User(nn.Module):
    """`UserSequence` of one history without padding, projected."""

    def __init__(self, sequence: UserSequence, project: nn.Linear) -> None:
        super().__init__()
        self.sequence, self.project = sequence, project

    def forward(self, *parts: Tensor) -> Tensor:
        part, (vectors, history) = self.sequence, parts
        place = len(part.position) - history.shape[0]
        read = F.embedding(history, vectors) + part.position[place:]
        h = torch.cat([part.start[None], read])
        q, k, v = part.project(part.before(h)).chunk(3, -1)
        weight = torch.softmax(q @ k.T * q.shape[-1] ** -0.5, -1)
        h = h + part.out(weight @ v)
        h = h + part.down(F.gelu(part.up(part.between(h))))
        found: Tensor = self.project(h.mean(0, keepdim=True))
        return found
