"""A part that the configuration leaves out has no part in what is trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import engine.training.loop as loop
from engine.data.dataset import Dataset
from engine.errors import ConfigError
from tests.tiny import cut_of, tiny_config, tiny_shop


def _without_text(shop: Dataset) -> Dataset:
    return replace(shop, text_rows=shop.text_rows[::-1].copy())


def _without_tags(shop: Dataset) -> Dataset:
    return replace(shop, tag_ids=shop.tag_ids[::-1].copy())


def _without_user(shop: Dataset) -> Dataset:
    return replace(
        shop,
        user_categorical=np.zeros_like(shop.user_categorical),
        user_numeric=np.full_like(shop.user_numeric, np.nan),
    )


def _without_context(shop: Dataset) -> Dataset:
    return replace(shop, signals=-shop.signals)


CHANGED = {
    "text": _without_text,
    "tags": _without_tags,
    "user": _without_user,
    "context": _without_context,
}


def _weights(shop: Dataset, folder: Path, **off: object) -> dict[str, torch.Tensor]:
    config = tiny_config(epochs=1.0, delta_freeze=0.0, text_dim=64, **off)
    model = loop.train(shop, cut_of(tiny_shop(), 0.8), config, folder, quiet=True)
    # What of the text is kept follows from it, whether it is used or not.
    kept = ("items.text_mean", "items.text_components")
    return {name: value for name, value in model.state_dict().items() if name not in kept}


@pytest.mark.parametrize("part", CHANGED)
def test_what_is_left_out_decides_nothing(part: str, tmp_path: Path) -> None:
    shop = tiny_shop()
    other = CHANGED[part](shop)
    for on in (False, True):
        one = _weights(shop, tmp_path / f"one {on}", **{part: on})
        two = _weights(other, tmp_path / f"two {on}", **{part: on})
        same = all(torch.equal(one[name], two[name]) for name in one)
        assert same is not on, f"with {part} = {on}"


def test_without_context_a_request_s_time_changes_nothing(tmp_path: Path) -> None:
    weights = _weights(tiny_shop(), tmp_path, context=False)
    for name in ("hour", "weekday", "week", "signal", "context_weight"):
        assert not weights[name].any(), name


def test_a_rate_of_zero_leaves_delta_at_zero(tmp_path: Path) -> None:
    assert not _weights(tiny_shop(), tmp_path / "still", delta_lr_scale=0.0)["items.delta"].any()
    assert _weights(tiny_shop(), tmp_path / "moves")["items.delta"].any()


def test_context_that_is_not_there_cannot_be_trained_alone(tmp_path: Path) -> None:
    shop, config = tiny_shop(), tiny_config(epochs=0.5, context=False)
    cut = cut_of(shop, 0.8)
    loop.train(shop, cut, config, tmp_path / "run", quiet=True)
    start, names = tmp_path / "run" / loop.WEIGHTS_FILE, [s.name for s in shop.meta.signals]
    with pytest.raises(ConfigError, match="context: expected a model that has it"):
        loop.train(shop, cut, config, tmp_path / "next", True, start, names)
