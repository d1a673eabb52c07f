"""What the report of recommendation quality trains and asks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.config import Config, load_config, read_toml
from engine.errors import ConfigError
from engine.evaluation.lambdamart_config import LambdaMartConfig

FULL, PRIOR = "full", "prior_trained"
PRIOR_LAMBDA = 0.3
# Each ablation as changes of the configuration; `prior_served` is the full model with another λ.
VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    FULL: {},
    "no_text": {"model": {"text": False}},
    "no_tags": {"model": {"tags": False}},
    "no_text_no_tags": {"model": {"text": False, "tags": False}},
    "no_context": {"model": {"context": False}},
    "no_user": {"model": {"user": False}},
    "no_repeats": {"model": {"repeats": False}},
    "no_promotions": {"model": {"promotions": False}},
    PRIOR: {"train": {"lambda_train": PRIOR_LAMBDA}},
    "no_subclass_negatives": {"train": {"subclass_negatives": 0}},
    "no_delta": {"train": {"delta_lr_scale": 0.0, "delta_start": "zero"}},
    "cls_pooling": {"model": {"pooling": "cls"}},
}


class ReportConfig(BaseModel):
    """Models, their budgets, and the cuts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stars: Config = Field(default_factory=lambda: load_config("small"))
    next_item: Config = Field(default_factory=lambda: load_config("next-item"))
    lambdamart: LambdaMartConfig = LambdaMartConfig()
    cuts: int = Field(default=5, ge=2, description="of 28 days each, the final one among them")
    seeds: int = Field(default=3, ge=1, description="of the full model on the final cut")
    peer_minutes: float = Field(default=10.0, gt=0, description="most minutes of a peer's training")
    amazon_minutes: float = Field(default=5.0, gt=0, description="the same on Amazon's reviews")
    lambdas: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)
    known_sessions: tuple[int, ...] = (1, 2, 5, 10)
    drift_weeks: int = Field(default=16, ge=1)
    drift_users: int = Field(default=500, ge=1)
    candidates_seed: int = Field(default=0, ge=0)

    def variant(self, name: str, seed: int) -> Config:
        """The model's configuration with the changes of one of `VARIANTS`."""
        base, changes = self.stars, VARIANTS[name]
        model = base.model.model_copy(update=dict(changes.get("model", {})))
        train = {"seed": seed, **changes.get("train", {})}
        return Config(model=model, train=base.train.model_copy(update=train))


def load_report_config(file: Path | None = None) -> ReportConfig:
    """The defaults, with the keys of a TOML file laid over them.

    Raises:
        ConfigError: an unreadable file, an unknown key or a value out of range.
    """
    if file is None:
        return ReportConfig()
    given, base = read_toml(file), ReportConfig().model_dump(mode="json")
    try:
        return ReportConfig.model_validate(_laid_over(base, given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{file}: {key}: {first['msg']}, got {first['input']!r}") from error


def _laid_over(base: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` on `base`, table by table."""
    merged = dict(base)
    for key, value in given.items():
        under = base.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            value = _laid_over(under, value)
        merged[key] = value
    return merged
