"""Configuration of a shop's ranker: frozen, validated, unknown keys refused."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.config import read_toml
from engine.errors import ConfigError
from engine.ranking.config import FusionConfig
from engine.ranking.wesing.config import ExpertsConfig, GradientsConfig, RankerConfig


class ShopRankerConfig(BaseModel):
    """What ranks and fuses the candidates of a shop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: int = Field(
        default=4000, ge=3, description="asked, at most: every n-th of the last 28 days'"
    )
    candidates: int = Field(default=200, ge=2, description="retrieved for each request")
    embedding: int = Field(default=8, ge=1, description="dimensions of a category")
    ranker: RankerConfig = RankerConfig(experts=ExpertsConfig(hidden=48, width=24))
    gradients: GradientsConfig = GradientsConfig()
    epochs: int = Field(default=2, ge=1)
    batch_requests: int = Field(default=16, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    fusion: FusionConfig = FusionConfig(epochs=2)
    rank_share: float = Field(
        default=0.7, gt=0, lt=1, description="of the requests by time, to train the ranker on"
    )
    fuse_share: float = Field(
        default=0.15, gt=0, lt=1, description="of them, next in time, to train the fusion on"
    )
    seed: int = Field(default=0, ge=0)


def load_ranker_config(overlay: Path | None) -> ShopRankerConfig:
    """The defaults with a TOML file laid over them.

    Raises:
        ConfigError: names the file and the key.
    """
    if overlay is None:
        return ShopRankerConfig()
    given = read_toml(overlay)
    try:
        return ShopRankerConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{overlay}: {key}: {first['msg']}, got {first['input']!r}") from error
