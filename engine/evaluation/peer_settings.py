"""Settings of the peers: frozen, validated, unknown keys refused.

Where they come from:

- SASRec and BERT4Rec: eSASRec's modules (arXiv 2508.06450, by RecTools' authors): LiGR layers and a
  sampled softmax at a constant rate of 1e-3; sizes from their table, Beauty's for reviews, and for
  groceries those of MovieLens-1M, the nearest in users and in events a user.
- Shorter histories (20 of 50, 100 of 200), fewer negatives (64 of 256) and, for groceries, batches
  of 32 of 128 than in that table: RecTools computes every padded place and gathers negatives for
  each, and with the table's values ten minutes of two threads hold only a few passes.
- UPCF: the best of 400 trials on Dunnhumby's data, by Recall@10 (github.com/sergunya17/master-
  thesis-Time-dependent-NBR): 25 baskets, the similarity to the power of 5, asymmetry 0.75 and 100
  neighbours, which is what Cornac reads.

UP-CF and not TIFU-KNN stands for the next-basket models: Cornac 3.0.1 takes the mean of all numbers
in the neighbours' vectors, so that its TIFU-KNN's neighbours change no order.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Name = Literal["sasrec", "bert4rec", "upcf"]
NAMES: tuple[Name, ...] = get_args(Name)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TransformerSettings(_Frozen):
    """RecTools' SASRec and BERT4Rec; the names are the library's."""

    layers: Literal["ligr", "own"] = Field(
        default="ligr", description="LiGR: SASRec is then eSASRec"
    )
    n_factors: int = Field(default=64, ge=1)
    n_blocks: int = Field(default=1, ge=1)
    n_heads: int = Field(default=1, ge=1)
    dropout_rate: float = Field(default=0.2, ge=0, lt=1)
    session_max_len: int = Field(
        default=50, ge=2, description="events that are read, the last of each"
    )
    loss: Literal["sampled_softmax", "softmax", "gBCE", "BCE"] = "sampled_softmax"
    n_negatives: int = Field(default=256, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=128, ge=1)
    max_epochs: int = Field(default=200, ge=1)
    patience: int = Field(default=50, ge=1, description="epochs without a lower validation loss")


class NearestSettings(_Frozen):
    """Cornac's UPCF; the names are the library's. It reads the 100 nearest users."""

    recency: int = Field(default=25, ge=0, description="last baskets that count, 0 is all")
    locality: int = Field(default=5, ge=1, description="power of the similarity")
    asymmetry: float = Field(default=0.75, ge=0, le=1)


Settings = TransformerSettings | NearestSettings

_GROCERIES = TransformerSettings(
    n_blocks=2, dropout_rate=0.1, session_max_len=100, n_negatives=64, batch_size=32, max_epochs=100
)
_REVIEWS = TransformerSettings(session_max_len=20, n_negatives=64)
GROCERIES: Mapping[Name, Settings] = {
    "sasrec": _GROCERIES, "bert4rec": _GROCERIES, "upcf": NearestSettings(),
}  # fmt: skip
REVIEWS: Mapping[Name, Settings] = {
    "sasrec": _REVIEWS, "bert4rec": _REVIEWS, "upcf": NearestSettings(),
}  # fmt: skip
