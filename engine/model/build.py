"""A model for a dataset: fresh, or read back from a run."""

import torch

from engine.config import ModelConfig
from engine.data.dataset import Dataset

from .items import ItemContent
from .stars import ModelData, Stars


def model_data(dataset: Dataset) -> ModelData:
    """What the model's shape takes from a dataset."""
    meta = dataset.meta
    content = ItemContent(
        text=torch.from_numpy(dataset.text_rows),
        text_index=torch.from_numpy(dataset.item_text.astype("int64")),
        tag_ids=torch.from_numpy(dataset.tag_ids.astype("int64")),
        tag_offsets=torch.from_numpy(dataset.tag_offsets),
        n_tags=len(meta.tags),
    )
    return ModelData(
        content=content,
        category_sizes=[len(values) + 1 for values in meta.user_categorical.values()],
        n_user_numeric=len(meta.user_numeric),
        n_event_types=len(meta.event_types),
        n_signals=len(meta.signals),
        n_promotions=len(meta.promotions),
    )


def build_model(config: ModelConfig, dataset: Dataset, seed: int) -> Stars:
    """A model with fresh weights; the same seed gives the same ones."""
    torch.manual_seed(seed)
    return Stars(config, model_data(dataset))
