"""The fine ranker: any leading dimensions, what it learns, the same in ONNX Runtime."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from onnxruntime import InferenceSession
from pydantic import ValidationError
from torch import Tensor

from engine.ranking.auc import auc
from engine.ranking.data.impressions import Impressions
from engine.ranking.features import FeatureConfig
from engine.ranking.wesing.config import (
    ExpertsConfig,
    GradientsConfig,
    GradientsName,
    RankerConfig,
    TrainConfig,
)
from engine.ranking.wesing.export import export_ranker
from engine.ranking.wesing.ranker import Ranker, train_ranker

DIMS, OF_REQUEST = (7, 5, 6, 3), (True, False, False, True)
OBJECTIVES, PARENTS = ("click", "watch", "gift"), {"watch": "click", "gift": "click"}


def ranker(config: RankerConfig, dims: tuple[int, ...] = DIMS) -> Ranker:
    torch.manual_seed(0)
    made = Ranker(config, dims, OBJECTIVES).eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made


def given(batch: int, n: int) -> list[Tensor]:
    sides = zip(DIMS, OF_REQUEST, strict=True)
    return [torch.randn(batch, 1 if request else n, d) for d, request in sides]


@pytest.mark.parametrize(
    "config",
    [
        RankerConfig(parents=PARENTS),
        RankerConfig(interaction="none", experts=ExpertsConfig(kind="mmoe")),
        RankerConfig(crosses="sum", experts=ExpertsConfig(kind="ple")),
    ],
)
def test_candidates_of_a_request_are_scored_as_each_alone(config: RankerConfig) -> None:
    made, fields = ranker(config), given(2, 5)
    whole = made(fields)
    assert whole.shape == (2, 5, 3)
    flat = [field.expand(2, 5, -1).reshape(10, -1) for field in fields]
    torch.testing.assert_close(made(flat), whole.reshape(10, 3))
    one = [field[1:, min(3, field.shape[1] - 1)] for field in fields]
    torch.testing.assert_close(made(one), whole[1:, 3])


def test_a_conversion_is_never_likelier_than_the_click() -> None:
    logits = ranker(RankerConfig(parents=PARENTS))(given(4, 50))
    assert (logits[..., 1:] <= logits[..., :1]).all()
    assert not (ranker(RankerConfig())(given(4, 50))[..., 1:] <= 0).all()


def test_towers_and_shared_parameters_are_all_there_are() -> None:
    made = ranker(RankerConfig(interaction="kfm"))
    names = {id(p) for p in [*made.shared(), *made.towers()]}
    assert names == {id(p) for p in made.parameters()}
    assert len(names) == len(made.shared()) + len(made.towers())
    frozen = ranker(RankerConfig(interaction="fm"), (4, 4, 4))
    assert frozen.kfm is not None
    assert not {id(row) for row in frozen.kfm.rows} & {id(p) for p in frozen.shared()}


def test_weight_decay_pulls_no_kernel_and_no_bias() -> None:
    """At this rate only the decay moves a parameter by more than 1e-5."""
    log = conversions(600)
    config = TrainConfig(epochs=1, batch=100, lr=1e-6, weight_decay=2e5)
    trained = train_ranker(log, config).ranker
    start = {"kfm": torch.eye(8), "prior": torch.logit(torch.from_numpy(log.labels.mean(0)))}
    assert trained.kfm is not None
    torch.testing.assert_close(trained.kfm.rows[0][:, :8], start["kfm"], atol=1e-4, rtol=0)
    torch.testing.assert_close(trained.prior, start["prior"].float(), atol=2e-3, rtol=0)
    assert trained.experts.last_shared().abs().max() < 0.8


def test_onnx_runtime_scores_as_torch_whatever_requests_and_candidates(
    tmp_path: Path,
) -> None:
    experts = ExpertsConfig(kind="ple")
    made = ranker(RankerConfig(experts=experts, parents=PARENTS, dropout=0.5)).train()
    export_ranker(made, tmp_path / "ranker.onnx", OF_REQUEST)
    session = InferenceSession(tmp_path / "ranker.onnx")
    made.eval()
    for batch, n in ((1, 1), (1, 200), (3, 7), (5, 1)):
        fields = given(batch, n)
        feeds = {f"field_{k}": field.numpy() for k, field in enumerate(fields)}
        (found,) = session.run(["logits"], feeds)
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), made(fields), atol=2e-5, rtol=2e-5)
    assert str(Path(__file__).parents[3]).encode() not in (tmp_path / "ranker.onnx").read_bytes()


def test_an_export_names_whose_each_field_is() -> None:
    for wrong in ((True, False), (True,) * 4):
        with pytest.raises(ValueError, match="of_request: expected 4 fields, one of the cand"):
            export_ranker(ranker(RankerConfig()), Path("none.onnx"), wrong)


def conversions(n: int = 4000, seed: int = 0) -> Impressions:
    """Clicks by user and item, watches of those that clicked."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 20, n), rng.integers(0, 20, n)
    x = rng.normal(size=n)
    click = rng.random(n) < 1 / (1 + np.exp(-2.0 * ((user + item) % 2 * 2 - 1)))
    watch = click & (rng.random(n) < 1 / (1 + np.exp(-2 * x)))
    return Impressions.of(
        pl.DataFrame(
            {
                "request_id": np.arange(n), "user_id": user, "item_id": item, "time": np.arange(n),
                "label_click": click, "label_watch": watch, "x": x,
            }
        ),
        "f",
    )  # fmt: skip


@pytest.mark.parametrize("method", ["sum", "gradnorm", "pcgrad"])
def test_it_learns_crosses_and_conversions(method: GradientsName) -> None:
    config = TrainConfig(
        ranker=RankerConfig(parents={"watch": "click"}, dropout=0.1),
        gradients=GradientsConfig(method=method),
        epochs=6, batch=128, lr=2e-2, weight_decay=0.01,
    )  # fmt: skip
    trained = train_ranker(conversions(), config)
    asked = conversions(2000, seed=1)
    p = trained(asked)
    assert p.shape == (2000, 2)
    assert (p[:, 1] <= p[:, 0]).all()
    for m in range(2):
        assert auc(p[:, m], asked.labels[:, m : m + 1])[0] > 0.8
    np.testing.assert_allclose(p.mean(0), asked.labels.mean(0), atol=0.05)
    np.testing.assert_array_equal(trained(asked), p)


def test_a_seed_gives_one_ranker_and_another_another() -> None:
    log = conversions(600)
    first, again = (train_ranker(log, TrainConfig(epochs=1))(log) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (train_ranker(log, TrainConfig(epochs=1, seed=1))(log) != first).any()


def test_logs_and_configurations_that_do_not_fit_are_refused() -> None:
    log = conversions(600)
    with pytest.raises(ValueError, match="click: expected its positives among those of watch"):
        train_ranker(log, TrainConfig(ranker=RankerConfig(parents={"click": "watch"})))
    none = Impressions(log.frame.with_columns(label_watch=pl.lit(False)))
    with pytest.raises(ValueError, match="watch: expected both classes, got one"):
        train_ranker(none)
    with pytest.raises(ValidationError, match="interaction fm: expected equal_fields"):
        TrainConfig(ranker=RankerConfig(interaction="fm"))
    with pytest.raises(ValidationError, match="extra"):
        RankerConfig.model_validate({"depth": 1})
    fm = TrainConfig(
        ranker=RankerConfig(interaction="fm"), equal_fields=True, epochs=1,
        features=FeatureConfig(leave_out=("x",)),
    )  # fmt: skip
    assert train_ranker(log, fm).ranker.dims == (8, 8)
