"""Configuration of the fusion of objectives: frozen, validated, unknown keys refused."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

LossName = Literal["harmonrank", "pairwise", "bce"]
LOSSES: tuple[LossName, ...] = get_args(LossName)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EnsembleConfig(_Frozen):
    """Shape of the network that fuses the objectives' probabilities into one score."""

    objectives: int = Field(ge=1)
    user_dim: int = Field(ge=1)
    d_model: int = Field(default=16, ge=1)
    heads: int = Field(default=2, ge=1)
    hidden: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "EnsembleConfig":
        if self.d_model % self.heads:
            raise ValueError(
                f"heads: expected a divisor of d_model {self.d_model}, got {self.heads}"
            )
        return self


class FusionConfig(_Frozen):
    """Loss and optimiser. `c` and `tau` each belong to one loss."""

    loss: LossName = "harmonrank"
    per_request: bool = Field(default=True, description="ranks within requests, or of the batch")
    c: float = Field(default=2.5, gt=0, description="ε = c std(s)/n of the soft ranks")
    tau: float = Field(default=1.0, gt=0, description="temperature of the pairwise loss, in logits")
    epochs: int = Field(default=6, ge=1)
    batch_requests: int = Field(default=64, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    seed: int = Field(default=0, ge=0)


class SimulationConfig(_Frozen):
    """Requests with several correlated, unevenly rare answers, and a ranker that errs on them."""

    requests: int = Field(default=1500, ge=1)
    candidates: int = Field(default=20, ge=2, description="a request")
    objectives: int = Field(default=4, ge=1)
    user_dim: int = Field(default=6, ge=1)
    top_rate: float = Field(default=0.4, gt=0, lt=1, description="of the most frequent objective")
    skew: float = Field(default=20.0, ge=1, description="the most frequent rate over the rarest")
    correlation: float = Field(
        default=0.3, ge=0, le=1, description="of the objectives' true logits"
    )
    spread: float = Field(default=1.5, gt=0, description="deviation of true logits in a request")
    error: float = Field(default=1.0, ge=0, description="median deviation of the ranker's logits")
    uneven: float = Field(default=0.7, ge=0, description="deviation over users of that log error")


class LiveConfig(_Frozen):
    """A live platform by KuaiLive's ratios, scaled down in users, streamers and days."""

    users: int = Field(default=550, ge=2)
    streamers: int = Field(default=1500, ge=2)
    days: int = Field(default=10, ge=2)
    start_s: int = Field(default=1_746_403_200, ge=86_400, description="UTC midnight")
    clicks_per_user_day: float = Field(default=9.83, gt=0)
    rooms_per_streamer_day: float = Field(default=1.22, gt=0)
    click_rate: float = Field(default=0.35, gt=0, lt=1, description="of what is shown; assumed")
    watch_rate: float = Field(default=0.4, gt=0, lt=1, description="of clicks; assumed")
    comment_rate: float = Field(default=0.040, gt=0, lt=1, description="of clicks, as the next two")
    like_rate: float = Field(default=0.037, gt=0, lt=1)
    gift_rate: float = Field(default=0.015, gt=0, lt=1)
    watch_s: int = Field(default=60, ge=1, le=600, description="an effective watch, at least")
    session_length: float = Field(default=9.0, ge=1, description="mean impressions asked for")
    candidates: int = Field(default=8, ge=1, description="rooms on air that one is shown of")
    personalisation: float = Field(default=0.8, ge=0, description="of what is shown, in logits")
    tail: float = Field(default=1.0, ge=0, description="log popularity's deviation over streamers")
    new_streamers: float = Field(default=0.2, ge=0, le=1, description="share that debut meanwhile")
    drift: float = Field(default=0.3, ge=0, le=1, description="of streams change their content")
    told: float = Field(default=0.7, ge=0, le=1, description="of content's variance, by the text")
    affinity: float = Field(default=0.8, ge=0, description="scale of user times content")


class ComparisonConfig(_Frozen):
    """A comparison of losses, each at every skew and seed; c and τ at the first skew."""

    fusion: FusionConfig = FusionConfig()
    skews: tuple[float, ...] = Field(default=(20.0, 1.0, 100.0), min_length=1)
    cs: tuple[float, ...] = (0.02, 0.5, 1.0, 2.5, 5.0, 20.0, 200.0)
    taus: tuple[float, ...] = (0.1, 0.3, 3.0, 10.0)
    seeds: int = Field(default=8, ge=2, description="of data and of weights together")


class StudyConfig(ComparisonConfig):
    """The comparison on requests of `simulate`."""

    simulation: SimulationConfig = SimulationConfig()


class LiveStudyConfig(ComparisonConfig):
    """The comparison on the live platform; a skew is that of clicks over gifts."""

    live: LiveConfig = LiveConfig()
    fusion: FusionConfig = FusionConfig(per_request=False)
    skews: tuple[float, ...] = Field(default=(200 / 3, 5.0), min_length=1)
    cs: tuple[float, ...] = (0.02, 0.5, 2.5, 20.0, 200.0)
    taus: tuple[float, ...] = (0.3,)
    seeds: int = Field(default=4, ge=2, description="of platform, log and weights together")


class CurveConfig(_Frozen):
    """Pages of rooms on air at each diversity."""

    live: LiveConfig = LiveConfig()
    fusion: FusionConfig = FusionConfig(per_request=False)
    requests: int = Field(default=300, ge=2)
    candidates: int = Field(default=60, ge=2, description="rooms on air a request")
    size: int = Field(default=10, ge=2, description="of a page")
    diversities: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    seed: int = Field(default=0, ge=0)
