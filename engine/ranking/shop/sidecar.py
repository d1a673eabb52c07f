"""What a ranker of a shop says of itself, beside its graphs."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import BundleError

RANK_FILE, FUSE_FILE, SIDECAR_FILE = "rank.onnx", "fuse.onnx", "ranking.json"


class Sidecar(BaseModel):
    """`ranking.json`.

    Attributes:
        objectives: names, in the order of the graph's probabilities.
        candidates: how many are retrieved to be ranked, at least.
        features, profile: names of the graph's inputs, in order.
        metrics: on the last days before the cut, which neither graph was trained on.
        config: of the training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objectives: tuple[str, ...] = Field(min_length=1)
    candidates: int = Field(ge=1)
    features: tuple[str, ...]
    profile: tuple[str, ...]
    metrics: dict[str, Any]
    config: dict[str, Any]


def read_sidecar(folder: Path) -> Sidecar:
    """Of the ranker in `folder`. Raises BundleError where it is none, or of another version."""
    path = folder / SIDECAR_FILE
    try:
        return Sidecar.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BundleError(f"{path}: {error}") from error
