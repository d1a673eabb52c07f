"""W_ctx alone: a new signal is learned, and everything else stays bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.data.dataset import Dataset, NumericFeature
from engine.errors import ConfigError
from engine.pipeline import SERVING_FILE, SIGNALS_FILE, load_model, train_context, train_run
from engine.training.loop import WEIGHTS_FILE
from tests.tiny import cut_of, tiny_config, tiny_shop

CONFIG = tiny_config(epochs=1.0)


def with_weather(shop: Dataset) -> Dataset:
    """The shop with another signal before those that it has."""
    weather = np.random.default_rng(0).standard_normal((len(shop.signals), 1)).astype(np.float32)
    feature = NumericFeature(name="weather", mean=0.0, std=1.0)
    return replace(
        shop,
        signals=np.concatenate([weather, shop.signals], axis=1),
        meta=shop.meta.model_copy(
            update={"signals": [feature, *shop.meta.signals], "fingerprint": "with weather"}
        ),
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    shop = tiny_shop()
    train_run(shop, cut_of(shop, 0.8), CONFIG, folder, quiet=True)
    return folder


def test_a_new_signal_is_learned_alone(base: Path, tmp_path: Path) -> None:
    shop = with_weather(tiny_shop())
    until = cut_of(tiny_shop(), 0.8)
    assert train_context(shop, until, CONFIG.train, base, tmp_path, quiet=True)
    assert not train_context(shop, until, CONFIG.train, base, tmp_path, quiet=True)
    before, after = (load_file(folder / WEIGHTS_FILE) for folder in (base, tmp_path))
    assert before.keys() == after.keys()
    for name in before.keys() - {"context_weight", "signal"}:
        assert torch.equal(before[name], after[name]), name
    # Signals come by name: the old one stands behind the new, and events know nothing of it.
    assert torch.equal(after["signal"][1:], before["signal"])
    assert not after["signal"][0].any()
    old, new = before["context_weight"], after["context_weight"]
    assert len(new) == len(old) + 1
    n_signals = len(tiny_shop().meta.signals)
    assert new[-1 - n_signals].abs().max() > 0, "weather has been learned"
    assert not torch.equal(new[:-n_signals], old[: len(new) - n_signals])
    assert (tmp_path / SERVING_FILE).read_text() == (base / SERVING_FILE).read_text()
    assert json.loads((tmp_path / SIGNALS_FILE).read_text())[0] == "weather"
    assert load_model(shop, CONFIG, tmp_path).signal.shape[0] == n_signals + 1


def test_other_items_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)expected weights that fit this model: .*delta"):
        train_context(tiny_shop(items=50), 10**10, CONFIG.train, base, tmp_path, quiet=True)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file of a finished run"):
        train_context(tiny_shop(), 10**10, CONFIG.train, tmp_path, tmp_path / "new", quiet=True)
