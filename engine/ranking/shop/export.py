"""A shop's trained ranker and fusion as graphs, in the folder that a bundle takes in."""

from pathlib import Path

import torch
from torch import Tensor

from engine.compile.onnx import save, trace
from engine.ranking.ensemble import Ensemble

from .config import ShopRankerConfig
from .inputs import FEATURES, PROFILE, Inputs
from .network import ProbabilityGraph, Shape, ShopRanker
from .sidecar import FUSE_FILE, RANK_FILE, SIDECAR_FILE, Sidecar
from .train import Trained

_OF_REQUEST = {"vectors", "codes", "profile"}


def export_ranker(
    trained: Trained, config: ShopRankerConfig, objectives: tuple[str, ...], folder: Path
) -> None:
    """Writes both graphs and, last, their sidecar; any number of requests and of candidates."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SIDECAR_FILE).unlink(missing_ok=True)
    export_network(trained.network, folder / RANK_FILE)
    _export_fusion(trained.fusion, folder / FUSE_FILE)
    sidecar = Sidecar(
        objectives=objectives,
        candidates=config.candidates,
        features=FEATURES,
        profile=PROFILE,
        metrics=trained.metrics,
        config=config.model_dump(),
    )
    (folder / SIDECAR_FILE).write_text(sidecar.model_dump_json(indent=2), encoding="utf-8")


def export_network(network: ShopRanker, path: Path) -> None:
    """Writes the graph of `Inputs`, by name, to `probability` [B, N, M]."""
    batch, candidates = torch.export.Dim("batch"), torch.export.Dim("candidates")
    example = example_inputs(network.shape, 2, 3)
    shapes = tuple(
        {0: batch} if name in _OF_REQUEST else {0: batch, 1: candidates} for name in Inputs._fields
    )
    module = ProbabilityGraph(network)
    save(trace(module, example, (shapes,), Inputs._fields, ("probability",)), path)


def example_inputs(shape: Shape, batch: int, candidates: int) -> tuple[Tensor, ...]:
    """Tensors of the network's arguments, of zeros and ones."""
    return (
        torch.ones(batch, 2, shape.dim),
        torch.ones(batch, len(shape.codes), dtype=torch.int64),
        torch.ones(batch, shape.profile),
        torch.ones(batch, candidates, shape.dim),
        torch.zeros(batch, candidates, dtype=torch.int64),
        torch.ones(batch, candidates, len(FEATURES)),
    )


def _export_fusion(fusion: Ensemble, path: Path) -> None:
    config = fusion.config
    rows = torch.export.Dim("rows")
    example = (
        torch.full((3, config.objectives), 0.5),
        torch.full((3, config.objectives), 0.5),
        torch.ones(3, config.user_dim),
    )
    shapes = ({0: rows},) * 3
    save(trace(fusion, example, shapes, ("probability", "rank", "user"), ("fused",)), path)
