"""Configuration of SARM: frozen, validated, unknown keys refused."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from ..wesing.config import ExpertsConfig

Content = Literal["none", "tags", "frozen", "encoder"]
Gate = Literal["none", "sum", "gate"]
CONTENTS: tuple[Content, ...] = get_args(Content)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderConfig(_Frozen):
    """Shape of the anchor encoder."""

    dim: int = Field(default=64, ge=2, multiple_of=2, description="of tokens and of both outputs")
    layers: int = Field(default=4, ge=1)
    hidden: int = Field(default=128, ge=1, description="of the feed-forward parts")
    max_tokens: int = Field(default=48, ge=7, description="[CLS] included")
    units: int = Field(default=2000, ge=2, description="domain tokens")
    gate: Gate = Field(default="gate", description="none: no domain tokens; sum: α = 1")
    pretrained: bool = Field(default=True, description="token vectors start from MiniLM's")


class RankerConfig(_Frozen):
    """Shape of the ranker, and which parts of SARM it has."""

    content: Content = Field(default="encoder", description="what is known of a candidate's author")
    identity: bool = Field(default=True, description="h_TAR beside h_CLS")
    sequence: bool = Field(default=True, description="h_UIN")
    auxiliary: float = Field(default=0.1, ge=0, description="λ of the author-only head on click")
    history: int = Field(default=30, ge=1, description="m, authors last clicked")
    field_dim: int = Field(default=16, ge=1)
    hidden: int = Field(default=64, ge=1)
    cross: int = Field(default=32, ge=1, description="products of two projections")
    experts: ExpertsConfig = ExpertsConfig(hidden=32, width=16)


class OnlineConfig(_Frozen):
    """The stream's batches and optimiser."""

    batch: int = Field(default=512, ge=1, description="impressions")
    passes: int = Field(
        default=1, ge=1, description="over the first part, before the last is asked"
    )
    lr: float = Field(default=3e-3, gt=0)
    encoder_lr: float = Field(default=1e-4, gt=0, description="of the encoder's other weights")
    table_lr: float = Field(default=1e-2, gt=0, description="of tables of vectors")
    token_lr: float = Field(default=3e-2, gt=0, description="of the base tokens' vectors")
    weight_decay: float = Field(default=0.1, ge=0)
    sweep_s: int = Field(default=86400, ge=1, description="authors not written for so long")


class SarmConfig(_Frozen):
    """A model and its training."""

    encoder: EncoderConfig = EncoderConfig()
    ranker: RankerConfig = RankerConfig()
    online: OnlineConfig = OnlineConfig()


class SarmStudyConfig(_Frozen):
    """The comparison: what every rung has in common."""

    base: SarmConfig = SarmConfig(
        encoder=EncoderConfig(dim=32, hidden=64, max_tokens=40, units=1000)
    )
    seeds: int = Field(default=3, ge=2)
    train_share: float = Field(default=2 / 3, gt=0, lt=1, description="of the rows, by time")
    since: float = Field(default=0.25, ge=0, lt=1, description="share of the rows left out first")
    until: float = Field(default=1.0, gt=0, le=1, description="share of the rows read or left out")
    resamples: int = Field(default=300, ge=20)
    exposures: tuple[int, ...] = Field(
        default=(0, 10, 50, 200), min_length=1, description="bounds of buckets of authors"
    )
