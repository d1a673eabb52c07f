"""A tiny platform: what a user clicks hangs on the words of a streamer's anchor."""

import numpy as np
import polars as pl
import torch

from engine.ranking.data.impressions import Impressions
from engine.ranking.features import FeatureConfig, Features, fit
from engine.ranking.sarm.anchors import FIELDS, checked_anchors
from engine.ranking.sarm.config import SarmConfig
from engine.ranking.sarm.content import Contents
from engine.ranking.sarm.model import Sarm
from engine.ranking.sarm.online import Online
from engine.ranking.sarm.stream import Stream, stream
from engine.ranking.wesing.config import ExpertsConfig

THEMES = ("folk songs", "street food", "chess games", "city walks")
CHANGE_S = 100_000  # after the first impression streamer 0 has another anchor
CONFIG = SarmConfig.model_validate(
    {
        "encoder": {"dim": 8, "hidden": 8, "max_tokens": 16, "units": 60, "pretrained": False},
        "ranker": {
            "history": 4, "field_dim": 4, "hidden": 8, "cross": 4,
            "experts": ExpertsConfig(hidden=8, width=4),
        },
        "online": {"batch": 64, "lr": 5e-3, "table_lr": 2e-2},
    }
)  # fmt: skip


class Letters:
    """Counts of letters: an embedder that needs no model."""

    name = "letters"

    def embed(self, texts: list[str]) -> np.ndarray:
        found = np.array([[text.count(c) for c in "abcdefghilmnoprst "] for text in texts], float)
        return (found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)).astype(np.float32)


def platform(n: int = 600, seed: int = 0) -> tuple[Impressions, pl.DataFrame]:
    """n impressions over four days, and the anchors of the streamers; the last has none."""
    rng = np.random.default_rng(seed)
    users, streamers = 12, 20
    theme = rng.integers(0, len(THEMES), streamers)
    likes = rng.integers(0, len(THEMES), users)
    user = np.repeat(rng.integers(0, users, n // 5 + 1), 5)[:n]
    who = rng.integers(0, streamers, n)
    time = 86_400 * 100 + np.arange(n) * (4 * 86_400 // n)
    click = rng.random(n) < np.where(likes[user] == theme[who], 0.8, 0.2)
    log = pl.DataFrame(
        {
            "request_id": np.arange(n) // 5, "user_id": user, "item_id": 1000 + who,
            "time": time, "streamer_id": who, "age": rng.integers(0, 4, n).astype(float),
            "label_click": click, "label_gift": click & (rng.random(n) < 0.4),
        }
    )  # fmt: skip
    anchors = pl.DataFrame(
        {"author_id": np.arange(streamers - 1), "time": np.zeros(streamers - 1, np.int64)}
        | {name: [""] * (streamers - 1) for name in FIELDS}
        | {"theme": [THEMES[t] for t in theme[:-1]], "format": ["live show"] * (streamers - 1)}
    )
    change = {"time": int(time[0]) + CHANGE_S, "scene": "kitchen"}
    later = anchors[:1].with_columns(*(pl.lit(v).alias(k) for k, v in change.items()))
    anchors = pl.concat([anchors, later.cast(anchors.schema)])
    return Impressions.of(log, "tiny"), checked_anchors(anchors, "tiny")


def contents(flow: Stream, config: SarmConfig) -> Contents:
    return Contents.of(
        flow.anchors, flow.anchors, len(flow.authors), config.encoder, Letters()
    )  # fmt: skip


def made(config: SarmConfig = CONFIG, n: int = 600, seed: int = 0) -> tuple[Online, Features]:
    """An untrained model over the platform, with its bank."""
    log, anchors = platform(n)
    features = fit(log, FeatureConfig(leave_out=("item_id",)))
    flow = stream(log, anchors, features, config.ranker.history)
    torch.manual_seed(seed)
    author = features.categories.index("streamer_id")
    rates = flow.labels.mean(0)
    model = Sarm(config, features, contents(flow, config), author, rates)
    return Online(config, flow, model), features
