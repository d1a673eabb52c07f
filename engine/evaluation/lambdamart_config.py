"""Settings of LambdaMART, readable without LightGBM."""

from pydantic import BaseModel, ConfigDict, Field


class LambdaMartConfig(BaseModel):
    """Examples, candidates and trees.

    The defaults have the best NDCG@10, in the mean over the two cuts before the test, of
    benchmarks/results/lambdamart_tuning.jsonl.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_types: tuple[str, ...] = Field(default=("purchase",), min_length=1)
    example_cuts: int = Field(default=4, ge=1, description="earlier cuts that examples follow")
    step_days: int = Field(default=28, ge=1, description="from one of them to the one before")
    own: int = Field(default=100, ge=1, description="most of a user's own items")
    popular: int = Field(default=50, ge=1, description="most bought items of the last 28 days")
    subclasses: int = Field(default=10, ge=0, description="of a user whose best sellers are asked")
    per_subclass: int = Field(default=1, ge=1)
    rounds: int = Field(default=90, ge=1)
    learning_rate: float = Field(default=0.12, gt=0)
    num_leaves: int = Field(default=15, ge=2)
    min_data_in_leaf: int = Field(default=100, ge=1)
    feature_fraction: float = Field(default=0.4, gt=0, le=1)
    bagging_fraction: float = Field(default=1.0, gt=0, le=1, description="of requests, a tree")
    lambda_l2: float = Field(default=1.0, ge=0)
    truncation: int = Field(default=20, ge=1, description="ranks that pairs are made of")
    max_bin: int = Field(default=63, ge=2)
    seed: int = Field(default=0, ge=0)
