from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.config import Config, ModelConfig, load_config
from engine.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_presets() -> None:
    paper = load_config("paper").model
    assert (paper.layers, paper.d_model, paper.heads, paper.d_ff) == (4, 768, 8, 3072)
    assert (paper.window, paper.hop, paper.d_serve, paper.dropout) == (200, 50, 128, 0.1)
    small = load_config().model
    assert (small.layers, small.d_model, small.heads, small.d_ff) == (2, 128, 2, 512)
    assert (small.window, small.hop, small.d_serve) == (200, 50, 64)


def test_a_file_lies_over_the_preset(tmp_path: Path) -> None:
    path = written(tmp_path, "[model]\nlayers = 3\n[train]\nrepeat_types = ['purchase', 'cart']\n")
    config, base = load_config("small", path), load_config("small")
    assert config.model == base.model.model_copy(update={"layers": 3})
    assert config.train == base.train.model_copy(update={"repeat_types": ("purchase", "cart")})


def test_what_is_stored_is_what_is_loaded() -> None:
    config = load_config("paper")
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config().model.layers = 3  # type: ignore[misc]


WRONG = [
    ("[model]\ncolour = 1", r"model\.colour: Extra inputs are not permitted, got 1"),
    ("[serving]\nk = 1", r"serving: Extra inputs are not permitted, got \{'k': 1\}"),
    ("layers = 3", r"layers: Extra inputs are not permitted, got 3"),
    ("model = 3", r"model: expected a table, got 3"),
    ("[train]\nlr = 0", r"train\.lr: Input should be greater than 0, got 0"),
    ("[train]\nseed = -1", r"train\.seed: Input should be greater than or equal to 0, got -1"),
    ("[train]\nlr = nan", r"train\.lr: Input should be greater than 0, got nan"),
    ("[train]\nepochs = 'many'", r"train\.epochs: .*valid number.*, got 'many'"),
    ("[train]\nprecision = 'int4'", r"train\.precision: .*'fp32', 'bf16' or 'auto', got 'int4'"),
    ("[train]\nrepeat_types = [1]", r"train\.repeat_types\.0: .*valid string, got 1"),
    ("[model]\ndropout = 1.0", r"model\.dropout: Input should be less than 1, got 1.0"),
    ("[model]\npooling = 'mean'", r"model\.pooling: .*'causal' or 'cls', got 'mean'"),
    ("[model]\nheads = 3", r"model\.heads: expected a divisor of d_model 128, got 3"),
    ("[model]\nhop = 30", r"model\.hop: expected a divisor of window 200, got 30"),
    ("[model]\nhop = 400", r"model\.hop: expected a divisor of window 200, got 400"),
    ("[model", r"expected a readable TOML file: .+"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^.*mine\.toml: {expected}$"):
        load_config("small", written(tmp_path, text))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: expected a readable TOML file: .*No such"):
        load_config("small", tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: expected a readable TOML file: .*utf-8"):
        load_config("small", tmp_path / "latin.toml")


def test_an_unknown_preset_is_refused_with_the_list() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^preset: expected one of \['next-item', 'paper', 'small'\], got 'large'$",
    ):
        load_config("large")  # type: ignore[arg-type]


def test_heads_divide_the_width_and_hops_the_window() -> None:
    shape = {"layers": 1, "d_ff": 8, "d_serve": 4}
    ModelConfig(d_model=12, heads=3, window=12, hop=12, **shape)
    with pytest.raises(ValidationError, match="heads: expected a divisor of d_model 12, got 5"):
        ModelConfig(d_model=12, heads=5, **shape)
