"""Random batches in the shape of a model's inputs: for random weights and for timing."""

import numpy as np
from torch import nn

from engine.model.stars import Stars
from engine.runtime.inputs import Batch

_DAYS = 300  # the span of the made-up histories


def random_batch(model: Stars, batch: int, length: int, seed: int, full: bool = True) -> Batch:
    """What `engine.features.encode_inputs` could have made for such a model.

    Args:
        full: every history fills the window; else lengths are random, 0 and `length` among them.
    """
    rng = np.random.default_rng(seed)
    shape = (batch, length)
    lengths = np.full(batch, length)
    if not full:
        lengths = rng.integers(0, length + 1, batch)
        lengths[:2] = [length, 0][:batch]
    known = rng.integers(0, 2, (batch, model.n_user_numeric))
    tables = [t.num_embeddings for t in model.user.tables if isinstance(t, nn.Embedding)]
    fields = ("event_type", "hour", "weekday", "week", "recency")
    floats = {
        "rows": rng.standard_normal((*shape, model.config.d_model)),
        "signals": rng.standard_normal((*shape, model.signal.shape[0])),
        "user_numeric": rng.standard_normal(known.shape) * known,
        "user_known": known,
    }
    return {
        **{name: value.astype(np.float32) for name, value in floats.items()},
        **{name: rng.integers(0, len(getattr(model, name)), shape) for name in fields},
        "day": np.sort(rng.integers(19_000, 19_000 + _DAYS, shape), axis=1),
        "length": lengths,
        "user_categorical": np.stack([rng.integers(0, n, batch) for n in tables], axis=1)
        if tables
        else np.zeros((batch, 0), np.int64),
    }
