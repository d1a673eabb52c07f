"""Configuration of the recall, coarse and fine rankers: frozen, validated, unknown keys refused."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.ranking.features import FeatureConfig

Correction = Literal["none", "counted", "streaming"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
ExpertsName = Literal["shared_bottom", "mmoe", "cgc", "ple"]
GradientsName = Literal["sum", "gradnorm", "pcgrad"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExpertsConfig(_Frozen):
    """What tasks share. A shared bottom is one expert without gates, MMoE has no task's own, CGC is
    one level of both, PLE `levels` of them."""

    kind: ExpertsName = "cgc"
    shared: int = Field(default=2, ge=1, description="experts that all tasks read")
    specific: int = Field(default=1, ge=1, description="experts of each task alone, of CGC and PLE")
    levels: int = Field(default=2, ge=2, description="of PLE")
    hidden: int = Field(default=32, ge=1, description="an expert's first layer")
    width: int = Field(default=32, ge=1, description="an expert's second layer")


class RankerConfig(_Frozen):
    """Shape of the fine ranker."""

    interaction: Literal["none", "fm", "kfm"] = "kfm"
    crosses: Literal["pairs", "sum"] = Field(
        default="pairs", description="each pair's cross is an input, or their sum is one"
    )
    experts: ExpertsConfig = ExpertsConfig()
    tower: int = Field(default=16, ge=1, description="hidden layer of each task")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="of what experts read, in training")
    parents: dict[str, str] = Field(
        default={}, description="objective to the one that it cannot happen without"
    )


class GradientsConfig(_Frozen):
    """How the tasks' gradients become one. `alpha` and `lr` are GradNorm's."""

    method: GradientsName = "sum"
    alpha: float = Field(default=1.5, ge=0, description="how far slow tasks are pulled up")
    lr: float = Field(default=0.025, gt=0, description="of the weights' own steps")


class TrainConfig(_Frozen):
    """The fine ranker on a log: what it reads, its shape, its optimiser."""

    features: FeatureConfig = FeatureConfig(min_count=20)
    dim: int = Field(default=8, ge=1, description="of a field, at most")
    join: int = Field(default=16, ge=0, description="values of categories that share a field")
    equal_fields: bool = Field(default=False, description="each field has `dim` dimensions")
    ranker: RankerConfig = RankerConfig()
    gradients: GradientsConfig = GradientsConfig()
    epochs: int = Field(default=3, ge=1)
    batch: int = Field(default=512, ge=1, description="impressions a step")
    lr: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.ranker.interaction == "fm" and not self.equal_fields:
            raise ValueError("interaction fm: expected equal_fields, got fields of any length")
        return self


class DssmConfig(_Frozen):
    """Two towers, trained on the positives of one objective with each other as negatives."""

    features: FeatureConfig = FeatureConfig()
    context: tuple[str, ...] = Field(
        default=(), description="columns of the request that the user's tower reads beside the user"
    )
    objective: str = "click"
    correction: Correction = "streaming"
    pace: float = Field(default=0.05, gt=0, le=1, description="of the streaming estimate's steps")
    dim: int = Field(default=16, ge=1, description="of a field, at most")
    hidden: int = Field(default=64, ge=1)
    width: int = Field(default=32, ge=1, description="of the vectors")
    gamma: float = Field(default=10.0, gt=0, description="inverse temperature of the cosines")
    epochs: int = Field(default=4, ge=1)
    batch: int = Field(default=512, ge=2, description="positives a step")
    lr: float = Field(default=5e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    seed: int = Field(default=0, ge=0)


class CoarseConfig(_Frozen):
    """What a request keeps of the rooms recalled."""

    keep: int = Field(default=200, ge=1, description="rooms, at most")
    private: int = Field(default=20, ge=0, description="places of followed rooms, at least")
    share: float = Field(default=0.5, gt=0, le=1, description="of `keep`, a category's at most")

    @model_validator(mode="after")
    def _check(self) -> "CoarseConfig":
        if self.private > self.keep:
            raise ValueError(f"private: expected at most keep {self.keep}, got {self.private}")
        return self


class StudyConfig(_Frozen):
    """The comparison of crosses, of experts and of gradients on a log.

    `train` is what all rankers have in common; each takes the rate of `rates` that does best on the
    validation part, by the mean of AUC and GAUC.
    """

    train: TrainConfig = TrainConfig(
        # What a room is known by has ended with it; its streamer stays.
        features=FeatureConfig(min_count=20, leave_out=("item_id",)),
        epochs=2,
    )
    click: str = Field(
        default="click", description="parent of the objectives that never happen without it"
    )
    rates: tuple[float, ...] = Field(default=(5e-3, 1e-2), min_length=1)
    seeds: int = Field(default=5, ge=2)
    resamples: int = Field(default=200, ge=1, description="of users and seeds")


class RecallStudyConfig(_Frozen):
    """The comparison of corrections of the in-batch negatives on a log."""

    dssm: DssmConfig = DssmConfig(
        features=FeatureConfig(min_count=20, leave_out=("item_id", "room_age_s"))
    )
    k: int = Field(default=100, ge=1, description="items recalled")
    seeds: int = Field(default=5, ge=2)
    resamples: int = Field(default=500, ge=1, description="of users and seeds")
