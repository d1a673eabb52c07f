"""The fine ranker as an ONNX graph with any number of requests and candidates."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.compile.onnx import save, trace

from .ranker import Ranker


def export_ranker(ranker: Ranker, path: Path, of_request: Sequence[bool]) -> None:
    """Writes a graph of inputs `field_0`, `field_1`, ... float32 and the output `logits` [B, N, M].

    Args:
        ranker: trained, on the CPU.
        path: the .onnx file.
        of_request: of each field, whether it is the request's, [B, 1, d], or the candidates',
            [B, N, d].
    Raises:
        ValueError: another number of fields than the ranker has, or none of the candidates'.
    """
    if len(of_request) != len(ranker.dims) or all(of_request):
        raise ValueError(
            f"export_ranker: of_request: expected {len(ranker.dims)} fields, one of the"
            f" candidates' at least, got {list(of_request)}"
        )
    batch, candidates = torch.export.Dim("batch"), torch.export.Dim("candidates")
    sides = list(zip(ranker.dims, of_request, strict=True))
    example = tuple(torch.ones(2, 1 if request else 3, d) for d, request in sides)
    shapes = tuple({0: batch} if request else {0: batch, 1: candidates} for _, request in sides)
    names = tuple(f"field_{k}" for k in range(len(example)))
    save(trace(_Graph(ranker), example, (shapes,), names, ("logits",)), path)


class _Graph(nn.Module):
    """The ranker with its fields as arguments."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, *fields: Tensor) -> Tensor:
        logits: Tensor = self.ranker(fields)
        return logits
