"""`stars report` on the generated shop: its JSON, its parts that are kept, its page."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.hashed_words import HashedWords
from engine.compile import export as export_module
from engine.config import Config
from engine.data.prepare import prepare
from engine.errors import ConfigError
from engine.evaluation import baselines
from engine.evaluation.lambdamart_config import LambdaMartConfig
from engine.evaluation.metrics import ACCURACY
from engine.evaluation.peers import PeerResult
from engine.evaluation.report import config as config_module
from engine.evaluation.report import parts as parts_module
from engine.evaluation.report import rivals, run
from engine.evaluation.report.config import ReportConfig, load_report_config
from engine.evaluation.report.parts import Inputs, absent, parts
from engine.evaluation.report.run import main_report
from engine.reporting import parts as reporting_parts
from engine.training.history import past
from tests.evaluation.test_amazon import source, tiny
from tests.ranking.test_rank_report import _Here, _Tags
from tests.shop import write_shop

MODEL = {
    "layers": 1, "d_model": 16, "heads": 2, "d_ff": 32, "d_serve": 8, "window": 20, "hop": 5,
    "text_dim": 8, "attribute_dim": 4, "repeat_hidden": 8, "pooling": "cls",
}  # fmt: skip
TRAIN = {
    "epochs": 1, "refit_epochs": 0.5, "batch_size": 16, "lr": 5e-3,
    "shared_uniform": 64, "shared_positive": 64,
}  # fmt: skip
VARIANTS = ("full", "no_text_no_tags", "prior_trained")
MISSING = "rectools has no environment"
SHOP = "stars.full.cut0.seed0"


class Ran(NamedTuple):
    """A report, and what was said while it was made in two goes."""

    out: Path
    data: Path
    amazon: Path
    config: ReportConfig
    report: dict[str, Any]
    first: list[str]
    then: list[str]


def config(folder: Path, **changes: Any) -> ReportConfig:
    given: dict[str, Any] = {
        "stars": Config.model_validate({"model": MODEL, "train": TRAIN}),
        "next_item": tiny(folder / "config"),
        "lambdamart": LambdaMartConfig(rounds=3, example_cuts=1, min_data_in_leaf=5),
        "cuts": 2, "seeds": 2, "lambdas": (0.0, 0.3), "known_sessions": (1,), "drift_weeks": 2,
    }  # fmt: skip
    return ReportConfig(**given | changes)


def answered(lists: Any, discovery: Any) -> PeerResult:
    return PeerResult(
        lists, discovery, minutes=0.1, answer_minutes=0.0, epochs=1.0, kept=1.0,
        stopped_by="epochs", events=5, settings={}, versions={"cornac": "3"},
    )  # fmt: skip


def popular(name: str, dataset: Any, task: Any, work: Path, **_: Any) -> PeerResult:
    """A peer that needs no library."""
    history = past(dataset, task.cut, 1.0, ("purchase",))
    lists = baselines.popularity(history, task, 10)
    new = baselines.new_popularity(history, task, 10)
    return answered(lists, new)


def reviewed(
    name: str, dataset: Any, cuts: Any, users: Any, work: Path, *,
    protocol: str = "strict", epochs: int | None = None, **_: Any,
) -> PeerResult:  # fmt: skip
    """Likewise, on Amazon."""
    assert epochs is None  # what it is to be told is that UP-CF has none
    lists = np.tile(np.arange(10), (len(users), 1))
    return answered(lists, lists)


@pytest.fixture(scope="module")
def patched() -> Iterator[None]:
    """Parts in this process; one trace of the encoder for all models, whose shapes are the same."""
    graphs: dict[str, bytes] = {}
    trace: Callable[..., None] = export_module.export_graphs

    def traced_once(model: Any, folder: Path, batches: Any) -> None:
        if not graphs:
            trace(model, folder, batches)
            graphs.update({file.name: file.read_bytes() for file in folder.iterdir()})
        for name, graph in graphs.items():
            (folder / name).write_bytes(graph)

    with pytest.MonkeyPatch.context() as patch:
        few = {name: config_module.VARIANTS[name] for name in VARIANTS}
        for module in (config_module, parts_module, run):
            patch.setattr(module, "VARIANTS", few)
        patch.setattr(export_module, "export_graphs", traced_once)
        patch.setattr(reporting_parts, "ProcessPoolExecutor", _Here)
        patch.setattr(run, "absent", lambda: dict.fromkeys(("sasrec", "bert4rec"), MISSING))
        patch.setattr(rivals, "MiniLmEmbedder", lambda: HashedWords(8))
        patch.setattr(rivals, "next_session_lists", popular)
        patch.setattr(rivals, "leave_one_out_lists", reviewed)
        yield


@pytest.fixture(scope="module")
def ran(patched: None, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """LambdaMART's parts alone, then the whole report."""
    folder = tmp_path_factory.mktemp("report")
    shop = write_shop(folder / "shop", items=300)
    prepare(shop, folder / "data", embedder=HashedWords(8))
    amazon, out, settings = source(folder / "amazon"), folder / "out", config(folder)
    first: list[str] = []
    none = main_report(
        out, folder / "data", amazon, config=settings, only=("lambdamart",), say=first.append
    )
    assert none is None
    assert not (out / "report.json").exists()
    then: list[str] = []
    found = main_report(out, folder / "data", amazon, config=settings, say=then.append)
    assert found is not None
    return Ran(out, folder / "data", amazon, settings, found, first, then)


def names(said: list[str]) -> set[str]:
    return {line.split(":")[0] for line in said if line.endswith("min")}


def test_a_run_goes_on_where_it_broke_off(ran: Ran) -> None:
    assert names(ran.first) == {"lambdamart.cut0", "lambdamart.cut1"}
    assert names(ran.then) == {
        SHOP, "stars.full.cut1.seed0", "stars.full.cut0.seed1", "stars.no_text_no_tags.cut0.seed0",
        "stars.prior_trained.cut0.seed0", "upcf.cut0", "amazon.stars", "amazon.stars_no_text",
        "amazon.upcf",
    }  # fmt: skip
    said: list[str] = []
    again = main_report(ran.out, ran.data, ran.amazon, config=ran.config, say=said.append)
    assert said == [f"{ran.out / 'report.html'} written"]
    assert again == ran.report == json.loads((ran.out / "report.json").read_text())
    (ran.out / "parts" / "upcf.cut0.json").unlink()
    main_report(ran.out, ran.data, ran.amazon, config=ran.config, say=said.append)
    assert names(said) == {"upcf.cut0"}


def test_the_json_has_what_is_asked_for(ran: Ran) -> None:
    shop = ran.report["complete_journey"]
    measures = {*ACCURACY, *(f"{name}_ci" for name in ACCURACY), "coverage@10"}
    methods = {
        "lambdamart", "popularity", "personal_frequency", "personal_recency", "general", "next",
        "round_robin", "upcf",
    }  # fmt: skip
    assert shop["table"].keys() == methods
    assert shop["discovery"]["table"].keys() == methods - {"personal_frequency", "personal_recency"}
    for row in (*shop["table"].values(), *shop["discovery"]["table"].values()):
        assert row.keys() == measures
        assert row["hit@5_ci"][0] <= row["hit@5"] <= row["hit@5_ci"][1]
    assert list(shop["ablation"]) == [
        "full", "no_text_no_tags", "prior_trained_and_served", "prior_served",
    ]  # fmt: skip
    assert shop["by_candidates"].keys() >= {"1-10", "11-30"}
    assert "stars_minus_lambdamart" in shop["by_candidates"]["1-10"]
    assert shop["prior"].keys() == {"0", "0.3"}
    assert [row["week"] for row in shop["drift"]] == [0, 1, 2]
    assert [row["sessions"] for row in shop["newcomers"]] == [1]
    assert len(shop["cuts"]) == 2
    assert shop["cuts"][0]["cut"] > shop["cuts"][1]["cut"]
    assert "upcf" not in shop["cuts"][1]["table"]
    assert shop["cold"]["recall@10"].keys() == {"full", "no_text_no_tags"}
    assert shop["by_category"].keys() == {"best", "worst", "least_targets"}
    beauty = ran.report["amazon_beauty"]
    for protocol in ("strict", "refit"):
        rows = beauty[protocol]
        assert rows.keys() == {
            "stars", "stars_model_alone", "stars_no_text", "stars_no_text_model_alone", "upcf",
        }  # fmt: skip
        assert all(
            row.keys() >= {"recall@5", "ndcg@5", "recall@10", "ndcg@10"} for row in rows.values()
        )
    assert ran.report["seeds"] == [0, 1]
    assert {"minutes", "commit", "command", "versions", "config"} <= ran.report.keys()


def test_lists_are_of_what_may_be_answered(ran: Ran) -> None:
    stored = json.loads((ran.out / "parts" / f"{SHOP}.json").read_text())["made"]["result"]
    sets = run.Setting.of(ran.data, ran.out / "work", 2)
    dataset, (cut, end) = sets.dataset(), sets.cuts[0]
    task = run.next_session(dataset, cut, end)
    history = past(dataset, cut, 1.0, ("purchase",))
    trees = json.loads((ran.out / "parts" / "lambdamart.cut0.json").read_text())["made"]["result"]
    for new in (stored["lists"]["discovery_next"], trees["lists"]["discovery"]):
        for user, row in zip(task.users.tolist(), new, strict=True):
            shown = [item for item in row if item >= 0]
            assert shown
            assert not np.isin(shown, history.item[history.events(user)]).any()
    for size, own in sets.candidate_sets(cut).items():
        for lists in (stored["lists"], trees["lists"]):
            for row, items in zip(lists[f"candidates_{size}"], own.items, strict=True):
                assert set(row) - {-1} <= set(items.tolist())
                assert sum(item >= 0 for item in row) == min(len(items), 10)


def test_a_library_that_is_missing_leaves_its_parts_out(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran.report["left_out"] == [f"sasrec: {MISSING}", f"bert4rec: {MISSING}"]
    monkeypatch.setattr(parts_module.peer_environments, "missing", list)
    monkeypatch.setattr(parts_module, "find_spec", lambda name: None)
    found = absent()
    assert set(found) == {"lambdamart", "sasrec", "bert4rec", "upcf"}
    assert "`python -m engine.evaluation.peer_environments cornac` makes it" in found["upcf"]
    assert "stars-engine[dev]" in found["lambdamart"]


def test_without_any_rival_the_report_is_made(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    others = dict.fromkeys(("lambdamart", "sasrec", "bert4rec", "upcf"), "missing")
    monkeypatch.setattr(run, "absent", lambda: others)
    found = main_report(ran.out, ran.data, config=ran.config, say=print)
    assert found is not None
    assert found["left_out"][0] == "amazon: no --amazon was given"
    assert found["left_out"][1:] == [f"{name}: missing" for name in others]
    shop = found["complete_journey"]
    assert "lambdamart" not in shop["table"]
    assert "stars_minus_lambdamart" not in shop["by_candidates"]["1-10"]
    assert shop["table"]["next"] == ran.report["complete_journey"]["table"]["next"]
    alone = main_report(ran.out, amazon=ran.amazon, config=ran.config, say=print)
    assert alone is not None
    assert alone["left_out"][0] == "data: no --data was given"
    assert "complete_journey" not in alone


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"lambdas": (0.0, 0.1, 0.3)}, {SHOP, "stars.prior_trained.cut0.seed0"}),
        ({"known_sessions": (2,)}, {SHOP}),
        ({"drift_users": 9}, {"stars.full.cut1.seed0"}),
        ({"candidates_seed": 1}, {SHOP, "lambdamart.cut0"}),
        ({"lambdamart": LambdaMartConfig(rounds=4)}, {"lambdamart.cut0", "lambdamart.cut1"}),
        ({"peer_minutes": 3.0}, {"upcf.cut0"}),
        ({"amazon_minutes": 3.0}, {"amazon.upcf"}),
        ({"seeds": 3}, {"stars.full.cut0.seed2"}),
    ],
)
def test_a_changed_setting_makes_its_own_parts_again(
    ran: Ran, changes: dict[str, Any], again: set[str]
) -> None:
    setting = run.Setting.of(ran.data, ran.out / "work", 2)
    inputs = Inputs(setting, ran.amazon, ran.out / "work")
    without = dict.fromkeys(("sasrec", "bert4rec"), "")
    new = parts(inputs, ran.config.model_copy(update=changes), without)
    folder = ran.out / "parts"
    assert {part.name for part in new if reporting_parts.kept(folder, part) is None} == again


def test_the_page_is_whole_and_comes_from_a_stored_report_alone(ran: Ran, tmp_path: Path) -> None:
    stored = tmp_path / "stored.json"
    stored.write_text(json.dumps(ran.report))
    assert main_report(tmp_path / "new", from_results=stored, say=print) == ran.report
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.html"]
    main_report(ran.out, ran.data, ran.amazon, config=ran.config, say=print)
    html = (ran.out / "report.html").read_text()
    assert (tmp_path / "new" / "report.html").read_text() == html
    tags = _Tags()
    tags.feed(html)
    assert len(set(tags.ids)) == len(tags.ids)
    assert all(link[:1] == "#" and link[1:] in tags.ids for link in tags.links)
    assert f"left out: sasrec: {MISSING}" in html
    for text in ("LambdaMART", "UP-CF", "R@10 of 0.150 at the final cut", "Amazon Beauty"):
        assert text in html


def test_only_takes_the_beginning_of_a_part(ran: Ran, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--only: expected the beginning of a part of stars.full.cut0.* got .*x"
    ):
        main_report(ran.out, ran.data, config=ran.config, only=("x",), say=print)
    with pytest.raises(ConfigError, match=r"of none: --data or --amazon is missing"):
        main_report(tmp_path, config=ran.config, only=("stars",), say=print)


def test_settings_of_a_file_are_laid_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "report.toml"
    file.write_text("cuts = 3\n[lambdamart]\nrounds = 7\n[stars.train]\nepochs = 2.5\n")
    found = load_report_config(file)
    assert (found.cuts, found.lambdamart.rounds, found.stars.train.epochs) == (3, 7, 2.5)
    assert found.stars.model == ReportConfig().stars.model
    assert load_report_config() == ReportConfig()
    file.write_text("[lambdamart]\ntrees = 7\n")
    with pytest.raises(ConfigError, match=r"report.toml: lambdamart.trees: Extra .*, got 7"):
        load_report_config(file)
    file.write_text("cuts = 1\n")
    with pytest.raises(ConfigError, match=r"cuts: Input should be greater than or equal to 2"):
        load_report_config(file)


def test_a_variant_changes_what_its_name_says(tmp_path: Path) -> None:
    base = ReportConfig()
    assert base.variant("full", 3).train.seed == 3
    assert not base.variant("no_text_no_tags", 0).model.text
    assert base.variant("prior_trained", 0).train.lambda_train == 0.3
    assert base.variant("full", 0).model == base.stars.model


def test_a_report_of_what_is_there_says_what_is_not(ran: Ran, tmp_path: Path) -> None:
    shutil.copytree(ran.out / "parts", tmp_path / "parts")
    for name in (
        "stars.full.cut1.seed0",
        "stars.full.cut0.seed1",
        "stars.prior_trained.cut0.seed0",
    ):
        (tmp_path / "parts" / f"{name}.json").unlink()
    found = main_report(
        tmp_path, ran.data, ran.amazon, config=ran.config, as_is=True, say=lambda _: None
    )
    assert found is not None
    shop = found["complete_journey"]
    assert len(shop["cuts"]) == len(shop["seeds"]["next"]["runs"]) == 1
    assert {"drift", "earlier_cuts"}.isdisjoint(shop | shop["differences"])
    assert "prior_trained_and_served" not in shop["ablation"]
    assert "stars.full.cut1.seed0: not computed yet" in found["left_out"]
    assert shop["table"] == ran.report["complete_journey"]["table"]
    assert "not computed yet" in (tmp_path / "report.html").read_text()
    (tmp_path / "parts" / f"{SHOP}.json").unlink()
    with pytest.raises(ConfigError, match=r"--as-is: expected the part stars.full.cut0.seed0"):
        main_report(tmp_path, ran.data, config=ran.config, as_is=True)
    with pytest.raises(ConfigError, match=r"--as-is: expected it without --only"):
        main_report(tmp_path, ran.data, config=ran.config, as_is=True, only=["stars"])
