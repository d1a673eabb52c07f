"""The fine ranker as an ONNX graph with any number of requests and candidates."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.compile.onnx import OPSET, name_nodes, save

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
    with torch.no_grad(), warnings.catch_warnings():
        # Said of every input that shares a dimension, and of torch's own calls.
        warnings.filterwarnings("ignore", message=".*axis name.*will not be used")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
        program = torch.onnx.export(
            _Graph(ranker).eval(),
            example,
            dynamo=True,
            dynamic_shapes=(shapes,),
            input_names=[f"field_{k}" for k in range(len(example))],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    name_nodes(graph)
    save(graph, path)


class _Graph(nn.Module):
    """The ranker with its fields as arguments."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, *fields: Tensor) -> Tensor:
        logits: Tensor = self.ranker(fields)
        return logits
