"""Configuration of the fusion of objectives: frozen, validated, unknown keys refused."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LossName = Literal["harmonrank", "pairwise", "bce"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EnsembleConfig(_Frozen):
    """Shape of the network that fuses the objectives' probabilities into one score."""

    objectives: int = Field(ge=1)
    user_dim: int = Field(ge=1)
    d_model: int = Field(16, ge=1)
    heads: int = Field(2, ge=1)
    hidden: int = Field(32, ge=1)

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
    per_request: bool = Field(True, description="rank within requests (GAUC), or over the batch")
    c: float = Field(2.5, gt=0, description="ε = c std(s)/n of the soft ranks")
    tau: float = Field(1.0, gt=0, description="temperature of the pairwise sigmoid, in logits")
    epochs: int = Field(8, ge=1)
    batch_requests: int = Field(64, ge=1)
    lr: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    seed: int = Field(0, ge=0)
