"""A shop's ranker: candidates as they are served, labels, training and its graphs."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from engine import pipeline
from engine.bundle import RANKER_FOLDER, Bundle
from engine.config import Config
from engine.data.dataset import Dataset
from engine.errors import BundleError, ConfigError, StarsError
from engine.evaluation.protocol import Cuts
from engine.ranking.shop.collect import Collected, collect, objectives_of, sessions
from engine.ranking.shop.config import ShopRankerConfig, load_ranker_config
from engine.ranking.shop.export import example_inputs, export_network, export_ranker
from engine.ranking.shop.inputs import FEATURES, ItemSide
from engine.ranking.shop.latency import latency
from engine.ranking.shop.network import ProbabilityGraph, Shape
from engine.ranking.shop.run import rank_run
from engine.ranking.shop.sidecar import read_sidecar
from engine.ranking.shop.train import Trained, train
from engine.serving.recommender import Recommender
from engine.serving.request import Request
from tests.tiny import without_later

N = 40


@pytest.fixture(scope="module")
def recommender(earlier: Path) -> Recommender:
    return Recommender.load(earlier)


@pytest.fixture(scope="module")
def collected(recommender: Recommender, dataset: Dataset, cuts: Cuts) -> Collected:
    return collect(recommender, dataset, cuts.validation, cuts.test, N, 10_000)


@pytest.fixture(scope="module")
def names(recommender: Recommender, dataset: Dataset) -> tuple[tuple[str, ...], dict[str, str]]:
    return objectives_of(recommender.bundle.manifest, dataset.meta.outcomes)


def shape_of(collected: Collected, recommender: Recommender) -> Shape:
    categories = recommender.bundle.manifest.user_categorical.values()
    return Shape(
        dim=recommender.catalogue.candidates.shape[1],
        codes=(*(len(values) + 1 for values in categories), 24, 7),
        profile=collected.profile.shape[1],
        subclasses=int(recommender.catalogue.statistics.subclass.max()) + 1,
    )


@pytest.fixture(scope="module")
def made(
    collected: Collected,
    recommender: Recommender,
    ranker_config: ShopRankerConfig,
    names: tuple[tuple[str, ...], dict[str, str]],
) -> Trained:
    shape, candidates = shape_of(collected, recommender), recommender.catalogue.candidates
    return train(collected, candidates, shape, ranker_config, *names)


@pytest.mark.parametrize("strategy", ["next", "general"])
def test_features_hold_the_scores_of_retrieval(recommender: Recommender, strategy: str) -> None:
    asked = [
        Request(
            f"user-{n:03}", np.zeros(0, np.int64), None, None, None, 1, strategy,  # type: ignore[arg-type]
            "allow", None, 1_710_000_000, False,
        )
        for n in range(6)
    ]  # fmt: skip
    found = recommender.candidates(asked, N)
    side = ItemSide(recommender.catalogue, recommender.bias, recommender.calendar)
    inputs = side.inputs([q for q, _ in found], [one.items for _, one in found])
    column = FEATURES.index(f"logit_{strategy}")
    for row, (query, one) in enumerate(found):
        np.testing.assert_allclose(
            inputs.features[row, :, column], one.scores, rtol=1e-4, atol=1e-4
        )
        bought = np.isin(one.items, query.state.item)
        assert bought.any()
        np.testing.assert_array_equal(inputs.features[row, :, 2], bought)
        history = inputs.features[row, :, FEATURES.index("log_count")]
        assert (history[bought] > 0).all()
        assert (history[~bought] == 0).all()
        np.testing.assert_array_equal(
            inputs.items[row], recommender.catalogue.candidates[one.items]
        )


def test_labels_are_what_the_session_held(
    collected: Collected, dataset: Dataset, cuts: Cuts
) -> None:
    asked = sessions(dataset, cuts.validation, cuts.test)
    assert len(asked) == len(collected)
    assert (np.diff(collected.times) >= 0).all()
    for row, session in enumerate(asked):
        first = dataset.event_offsets[session.user]
        before = set(dataset.event_item[first : session.start].tolist())
        own = range(session.start, session.stop)
        expected = {
            int(dataset.event_item[e]): (
                True, *dataset.event_outcome[e].tolist(), int(dataset.event_item[e]) in before,
            )
            for e in own
        }  # fmt: skip
        for place in range(collected.size[row]):
            item = int(collected.items[row, place])
            none = (False,) * 4
            assert tuple(collected.labels[row, place].tolist()) == expected.get(item, none)
        assert not collected.labels[row, collected.size[row] :].any()
    assert collected.labels.any((0, 1)).all()


def test_what_the_ranker_reads_knows_nothing_of_the_session(
    recommender: Recommender, dataset: Dataset, cuts: Cuts, collected: Collected
) -> None:
    row = len(collected) // 2
    session = sessions(dataset, cuts.validation, cuts.test)[row]
    # Something else happens from the session's start on, and all outcomes turn.
    events = dataset.event_item.copy()
    later = dataset.event_time >= session.time
    events[later] = (events[later] + 17) % len(dataset.item_ids)
    other = replace(dataset, event_item=events, event_outcome=~dataset.event_outcome)
    again = collect(recommender, other, cuts.validation, cuts.test, N, 10_000)
    for name in (f.name for f in fields(Collected) if f.name != "labels"):
        np.testing.assert_array_equal(
            getattr(again, name)[row], getattr(collected, name)[row], name
        )


def test_fewer_sessions_are_every_nth(
    recommender: Recommender, dataset: Dataset, cuts: Cuts, collected: Collected
) -> None:
    few = collect(recommender, dataset, cuts.validation, cuts.test, N, 5)
    assert len(few) == 5
    assert (few.times[0], few.times[-1]) == (collected.times[0], collected.times[-1])


def test_nobody_to_learn_from_is_an_error(
    recommender: Recommender, dataset: Dataset, cuts: Cuts
) -> None:
    nothing = without_later(dataset, cuts.validation)
    with pytest.raises(StarsError, match=r"ranker: expected a session in .* got none"):
        collect(recommender, nothing, cuts.validation, cuts.test, N, 10)


def test_objectives_of_one_name_are_refused(recommender: Recommender) -> None:
    with pytest.raises(ConfigError, match="expected different names, got purchase, repeat, repeat"):
        objectives_of(recommender.bundle.manifest, ["repeat"])


def test_it_learns_and_the_same_seed_gives_the_same_weights(
    collected: Collected,
    recommender: Recommender,
    ranker_config: ShopRankerConfig,
    names: tuple[tuple[str, ...], dict[str, str]],
    made: Trained,
) -> None:
    shape, candidates = shape_of(collected, recommender), recommender.catalogue.candidates
    again = train(collected, candidates, shape, ranker_config, *names)
    for ours, theirs in zip(
        made.network.state_dict().values(), again.network.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert made.metrics["objectives"]["purchase"]["auc"]["own"] > 0.55
    assert sum(made.metrics["requests"].values()) == len(collected)


def test_an_objective_that_nothing_has_is_named(
    collected: Collected,
    recommender: Recommender,
    ranker_config: ShopRankerConfig,
    names: tuple[tuple[str, ...], dict[str, str]],
) -> None:
    labels = collected.labels.copy()
    labels[..., 2] = False
    shape, candidates = shape_of(collected, recommender), recommender.catalogue.candidates
    with pytest.raises(StarsError, match="coupon: expected both classes, got one"):
        train(replace(collected, labels=labels), candidates, shape, ranker_config, *names)
    with pytest.raises(StarsError, match="expected requests to split in three, got 1"):
        train(collected.at(slice(1)), candidates, shape, ranker_config, *names)


@pytest.mark.parametrize(("batch", "candidates"), [(1, 1), (1, 200), (3, 17), (8, 2)])
def test_the_graph_equals_the_network(
    made: Trained, tmp_path: Path, batch: int, candidates: int
) -> None:
    export_network(made.network, tmp_path / "rank.onnx")
    shape, rng = made.network.shape, torch.Generator().manual_seed(0)
    given = [
        torch.randint(0, 4, tensor.shape, generator=rng)
        if tensor.dtype == torch.int64
        else torch.randn(tensor.shape, generator=rng)
        for tensor in example_inputs(shape, batch, candidates)
    ]
    given[4][0, 0] = shape.subclasses + 3  # of a later item
    with torch.no_grad():
        expected = ProbabilityGraph(made.network)(*given).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "rank.onnx"))
    inputs = {
        node.name: tensor.numpy() for node, tensor in zip(session.get_inputs(), given, strict=True)
    }
    (found,) = session.run(["probability"], inputs)
    assert found.shape == (batch, candidates, 4)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


def test_a_ranker_of_a_run(
    dataset: Dataset,
    cuts: Cuts,
    tiny_config: Config,
    ranker_config: ShopRankerConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is told apart here are stages, not sources: those may be edited while tests run.
    monkeypatch.setattr(pipeline, "source_digest", lambda *_: "sources")
    short = tiny_config.train.model_copy(update={"epochs": 0.5, "refit_epochs": 0.0})
    config = tiny_config.model_copy(update={"train": short})
    run, folder = tmp_path / "run", tmp_path / "ranker"
    pipeline.train_run(dataset, cuts.test, config, run, quiet=True)
    assert rank_run(dataset, run, cuts.test, ranker_config, folder, 1)
    assert not rank_run(dataset, run, cuts.test, ranker_config, folder, 1)
    with pytest.raises(ConfigError, match="expected a run of this dataset until"):
        rank_run(dataset, run, cuts.end, ranker_config, folder, 1)
    assert read_sidecar(folder / RANKER_FOLDER).objectives[0] == "purchase"
    bundle = tmp_path / "bundle"
    assert pipeline.export_run(dataset, run, cuts.test, bundle)
    assert Bundle.open(bundle).ranker is None
    assert pipeline.export_run(dataset, run, cuts.test, bundle, ranker=folder)
    assert Bundle.open(bundle).ranker == bundle / RANKER_FOLDER
    with pytest.raises(ConfigError, match="nothing: expected a finished run"):
        pipeline.export_run(dataset, run, cuts.test, bundle, ranker=tmp_path / "nothing")


def test_an_export_ends_with_its_sidecar(
    made: Trained, ranker_config: ShopRankerConfig, tmp_path: Path
) -> None:
    names = made.network.ranker.objectives
    export_ranker(made, ranker_config, names, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"rank.onnx", "fuse.onnx", "ranking.json"}
    assert read_sidecar(tmp_path).candidates == ranker_config.candidates


def test_latencies_of_the_stages(bundle: Path, earlier: Path) -> None:
    users = [f"user-{n:03}" for n in range(8)]
    found = latency(bundle, users, candidates=30, k=5, requests=12, threads=1)
    assert (found["objectives"], found["threads"]) == (4, 1)
    stages = [found[name] for name in ("rank30", "fuse", "page5")]
    for each in (*stages, found["total"]):
        assert 0 < each["p50"] <= each["p95"] <= each["p99"]
        assert each["n"] == 12
    assert found["total"]["p50"] > max(each["p50"] for each in stages)
    with pytest.raises(BundleError, match="expected a bundle with a ranker, got one without"):
        latency(earlier, users)
    with pytest.raises(BundleError, match="expected 500 candidates for every user"):
        latency(bundle, users, candidates=500)


def test_an_overlay_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "ranker.toml"
    path.write_text("[ranker]\ntower = 8\n")
    assert load_ranker_config(path).ranker.tower == 8
    assert load_ranker_config(None) == ShopRankerConfig()
    path.write_text("[ranker]\ntowers = 8\n")
    with pytest.raises(ConfigError, match=r"ranker\.toml: ranker\.towers: .* got 8"):
        load_ranker_config(path)
    path.write_text("[")
    with pytest.raises(ConfigError, match=r"ranker\.toml: expected a readable TOML file"):
        load_ranker_config(path)
