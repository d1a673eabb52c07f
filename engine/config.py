"""Configuration of a model and its training: frozen, validated, unknown keys refused."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ConfigError

Preset = Literal["small", "paper", "next-item"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Frozen):
    """Shape of the network (STARS, §3). Dimensions count floats, `window` and `hop` events."""

    layers: int = Field(ge=1)
    d_model: int = Field(ge=1)
    heads: int = Field(ge=1)
    d_ff: int = Field(ge=1)
    d_serve: int = Field(ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    token_dropout: float = Field(0.0, ge=0, lt=1, description="of the tokens before any layer")
    window: int = Field(200, ge=1)
    hop: int = Field(50, ge=1)
    text_dim: int = Field(128, ge=1, description="principal components kept of the text embedding")
    attribute_dim: int = Field(64, ge=1)
    attribute_mlp: bool = Field(False, description="two layers instead of one for the tags")
    text: bool = Field(True, description="the items' text; without it a token is Δ and tags")
    tags: bool = Field(True, description="the items' tags")
    user: bool = Field(True, description="what is known of a user; without it [USER] is one vector")
    context: bool = Field(True, description="time and signals, in the tokens and in δ")
    promotions: bool = Field(True, description="strengths of a bought item's promotions")
    day_bias: bool = Field(True, description="attention bias by difference of days, per head")
    repeats: bool = Field(True, description="score bought items by the repeat network")
    repeat_hidden: int = Field(48, ge=1)
    pooling: Literal["causal", "cls"] = "causal"

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.d_model % self.heads:
            raise ValueError(
                f"heads: expected a divisor of d_model {self.d_model}, got {self.heads}"
            )
        # Training tiles a history window by window; only so does each start at a multiple of hop.
        if self.window % self.hop:
            raise ValueError(f"hop: expected a divisor of window {self.window}, got {self.hop}")
        return self


class TrainConfig(_Frozen):
    """Objective (engine/model/README.md) and optimiser. Times are epochs over the windows."""

    epochs: float = Field(gt=0)
    batch_size: int = Field(32, ge=1, description="windows a step and process")
    lr: float = Field(3e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    refit_epochs: float = Field(1.0, ge=0, description="after λ_serve is chosen, on all days")
    refit_lr_scale: float = Field(0.5, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    clip: float = Field(1.0, gt=0, description="largest gradient norm of a parameter group")
    delta_freeze: float = Field(1.0, ge=0, description="epochs before the residuals Δ move")
    delta_lr_scale: float = Field(0.1, ge=0, description="0 leaves Δ as it began")
    delta_start: Literal["zero", "cooccurrence"] = Field(
        "zero", description="cooccurrence: factors of what users buy near each other"
    )
    lambda_train: float = Field(0.0, ge=0)
    alpha: float = Field(1.0, gt=0, description="smoothing of the popularity prior")
    lambda_neg: float = Field(0.1, ge=0)
    lambda_aux: float = Field(0.1, ge=0)
    lambda_gen: float = Field(0.5, ge=0)
    lambda_rep: float = Field(0.0, ge=0, description="of the order among bought items alone")
    target_sessions: int = Field(1, ge=1, description="following sessions that L_next's span")
    target_decay: float = Field(
        1.0, gt=0, le=1, description="weight of each against the one before"
    )
    gen_sessions: int = Field(4, ge=1, description="following sessions that L_gen's targets span")
    shared_uniform: int = Field(1024, ge=1)
    shared_positive: int = Field(1024, ge=0)
    subclass_negatives: int = Field(16, ge=0)
    page_negatives: int = Field(16, ge=0)
    history_candidates: int = Field(256, ge=0, description="0, without repeats alone: none listed")
    target_candidates: int = Field(64, ge=1)
    positions: int = Field(16, ge=1, description="session ends a window that carry the loss")
    repeat_types: tuple[str, ...] = ("purchase",)
    seed: int = Field(0, ge=0)
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    checkpoint_steps: int = Field(200, ge=1)
    average: float = Field(
        0.0, ge=0, lt=1, description="decay of the mean over the steps' weights, which is kept"
    )
    length_batches: int = Field(
        1, ge=1, description="batches of a shuffled epoch that share their windows out by length"
    )


class Config(_Frozen):
    """What a run is made from; stored, resolved, in its folder."""

    model: ModelConfig
    train: TrainConfig

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.model.repeats and not self.train.history_candidates:
            raise ValueError(
                "train.history_candidates: expected at least 1 with model.repeats, got 0"
            )
        return self


_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "model": {
            "layers": 2,
            "d_model": 128,
            "heads": 2,
            "d_ff": 512,
            "d_serve": 64,
            "repeat_hidden": 96,
        },
        "train": {
            "epochs": 3.0,
            "lr": 2e-3,
            "delta_freeze": 0.0,
            "delta_lr_scale": 1.0,
            "delta_start": "cooccurrence",
            "lambda_rep": 1.0,
            "refit_epochs": 0.0,
        },
    },
    "paper": {
        "model": {
            "layers": 4,
            "d_model": 768,
            "heads": 8,
            "d_ff": 3072,
            "d_serve": 128,
            "text_dim": 384,
            "attribute_dim": 128,
        },
        "train": {"epochs": 10.0, "batch_size": 1600},
    },
    # Short histories in an order, without times, and never the same item twice.
    "next-item": {
        "model": {
            "layers": 1,
            "d_model": 128,
            "heads": 2,
            "d_ff": 256,
            "d_serve": 128,
            "dropout": 0.3,
            "token_dropout": 0.4,
            "window": 50,
            "hop": 10,
            "text_dim": 192,
            "day_bias": False,
            "repeats": False,
        },
        "train": {
            "epochs": 14.0,
            "batch_size": 128,
            "lr": 3e-3,
            "clip": 5.0,
            "delta_freeze": 0.0,
            "delta_lr_scale": 1.0,
            "delta_start": "cooccurrence",
            "refit_epochs": 5.0,
            "lambda_neg": 0.0,
            "lambda_aux": 0.0,
            "lambda_gen": 0.0,
            "gen_sessions": 1,
            "target_sessions": 3,
            "target_decay": 0.5,
            "shared_uniform": 2048,
            "shared_positive": 1024,
            "subclass_negatives": 0,
            "history_candidates": 0,
            "positions": 50,
            "average": 0.995,
            "length_batches": 16,
        },
    },
}


def load_config(preset: Preset = "small", file: Path | None = None) -> Config:
    """The preset, with the keys of a TOML file (`[model]`, `[train]`) laid over it.

    Raises:
        ConfigError: an unreadable file, an unknown key or a value out of range; names file and key.
    """
    if preset not in _PRESETS:
        raise ConfigError(f"preset: expected one of {sorted(_PRESETS)}, got {preset!r}")
    where = str(file) if file else f"preset {preset}"
    override: dict[str, Any] = {}
    if file:
        override = read_toml(file)
    merged: dict[str, Any] = {**override}
    for section, values in _PRESETS[preset].items():
        given = override.get(section, {})
        if not isinstance(given, dict):
            raise ConfigError(f"{where}: {section}: expected a table, got {given!r}")
        merged[section] = {**values, **given}
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "value_error":  # of `_check`, which names key and value itself
            name = ".".join(filter(None, (key, str(first["ctx"]["error"]))))
            raise ConfigError(f"{where}: {name}") from error
        raise ConfigError(f"{where}: {key}: {first['msg']}, got {first['input']!r}") from error


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file. Raises ConfigError where it is unreadable."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: expected a readable TOML file: {error}") from error
