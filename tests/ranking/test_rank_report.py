"""The ranking report: its JSON, its parts that are kept, and what its page says by itself."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BackendUnavailable, ConfigError
from engine.ranking import report as report_module
from engine.ranking.config import CurveConfig, FusionConfig, LiveConfig
from engine.ranking.report import main_report, merged
from engine.ranking.report_fusion import dpp, harmonrank
from engine.ranking.report_models import sarm, wesing
from engine.ranking.report_page import ranking_page
from engine.ranking.report_parts import STUDIES, ReportConfig, Study
from engine.reporting import parts as parts_module
from engine.reporting.tables import Minus, Section, claim, difference

NAMES = ("pairwise", "bce", "equal_weights")


def minus(mean: float, half: float = 0.01, point: str = "mean") -> dict[str, float]:
    return {point: mean, "low": mean - half, "high": mean + half}


def fusion(gain: float) -> dict[str, Any]:
    baselines = {
        name: {"mean_auc": 0.6, "ci": [0.59, 0.61], "harmonrank_minus": minus(gain)}
        for name in NAMES
    }
    one = {"mean_auc": 0.6 + gain, "ci": [0.6, 0.7], "baselines": baselines}
    sweep = {"mean_auc": 0.6, "ci": [0.59, 0.61], "harmonrank_minus": minus(0.0)}
    return {
        **one, "objectives": [0.6, 0.7],
        "epsilon": [{"c": c, **sweep, "blocks": 0.4} for c in (0.5, 2.5)],
        "temperature": [{"tau": 0.3, **sweep}],
        "skew": [{"skew": s, "rates": [0.4, 0.1], **one} for s in (20.0, 5.0)],
        "config": {"seeds": 2},
    }  # fmt: skip


def curve() -> dict[str, Any]:
    values = {"relevance": 0.5, "kept": 0.9, "similarity": 0.6, "worth": 2.0}
    row = {k: v for n, x in values.items() for k, v in ((n, x), (f"{n}_ci", [x - 0.1, x + 0.1]))}
    return {"curve": [{"diversity": 1 - t, "theta": t, **row} for t in (1.0, 0.5)]}


def ladder() -> dict[str, Any]:
    values = {m: {k: {"value": 0.6, "ci": [0.5, 0.7]} for k in ("click", "mean")} for m in METRICS}

    def row(rung: str, **gains: float) -> dict[str, Any]:
        both = {
            f"minus_{name}": {m: {k: minus(gain) for k in ("click", "mean")} for m in METRICS}
            for name, gain in gains.items()
        }
        return {"rung": rung, "adds": f"what {rung} adds", **values, **both}

    gate = row("identity")
    gate["full_minus"] = {m: {"mean": minus(-0.02)} for m in METRICS}
    bucket = {"above": 10, "up_to": 50, "impressions": 1234, "clicks": 9}
    return {
        "ladder": [row("base"), row("frozen", base=-0.03), row("full", base=0.05, frozen=0.001)],
        "gate": [gate, row("full")],
        "low_exposure": [
            {**bucket, "auc": {}, "minus_base": minus(0.2), "minus_frozen": minus(0.0)},
            {**bucket, "above": None, "up_to": 0},
        ],
    }


METRICS = ("auc", "gauc")


def methods(*names: str, gain: float) -> list[dict[str, Any]]:
    """Each is better than those before it by `gain`."""

    def measured(mean: float) -> dict[str, Any]:
        return {m: {k: minus(mean, point="value") for k in ("mean", "click")} for m in METRICS}

    return [
        {
            "method": name, **measured(0.6),
            "minus": {
                other: measured(gain if j < k else -gain)
                for j, other in enumerate(names) if j != k
            },
            "parameters": 1000, "rate": 0.001, "seconds": 1.0,
        }
        for k, name in enumerate(names)
    ]  # fmt: skip


def parts_of(gain: float = 0.02) -> dict[str, dict[str, Any]]:
    lists = {
        "kfm": methods("fm", "kfm_equal", "kfm", gain=gain),
        "experts": methods("shared_bottom", "mmoe", "cgc", gain=gain),
        "gradients": methods("gradnorm", "pcgrad", "sum", gain=gain),
    }
    return {
        "harmonrank.live": fusion(gain), "harmonrank.kuairand": fusion(0.0),
        "dpp.live": curve(), "sarm.live": ladder(), "wesing.live": lists,
    }  # fmt: skip


def whole(gain: float = 0.02) -> dict[str, Any]:
    return {
        **merged(parts_of(gain)), "left_out": ["wesing.kuairand: <none>"], "minutes": 3.0,
        "minutes_of": {"dpp.live": 3.0}, "commit": "0" * 40, "command": "stars rank report",
        "versions": {"numpy": "2"}, "config": {},
    }  # fmt: skip


def verdicts(section: Section) -> dict[tuple[str, str], str]:
    return {(c.text, c.found.split(":")[0]): c.verdict for c in section.claims}


def test_rows_carry_their_dataset_and_the_rest_is_keyed_by_it() -> None:
    found = merged(parts_of())
    assert found["harmonrank"]["mean_auc"] == {"live": 0.62, "kuairand": 0.6}
    assert set(found["harmonrank"]["baselines"]["live"]) == set(NAMES)
    assert found["harmonrank"]["ci"]["live"] == [0.6, 0.7]
    assert [row["dataset"] for row in found["harmonrank"]["epsilon"]] == ["live"] * 2 + [
        "kuairand"
    ] * 2
    assert found["dpp"]["curve"][0]["dataset"] == "live"
    assert found["sarm"]["ladder"][2]["rung"] == "full"
    assert {"kfm", "experts", "gradients"} == set(found["wesing"])
    assert "config" not in found["harmonrank"]


def test_an_interval_decides_what_is_said_of_a_claim() -> None:
    for mean, verdict in ((0.02, "holds"), (0.0, "not clear"), (-0.02, "does not hold")):
        found = claim("A beats B", Minus.of(minus(mean)), "live")
        assert found.verdict == verdict
        assert found.found.startswith(f"live: {mean:+.4f} [")
        cell = difference(Minus.of(minus(mean)))
        assert cell.clear == (verdict != "not clear")
        assert cell.text.endswith("not clear") == (verdict == "not clear")
    assert difference(Minus(0, 0, 0)).text == "the same"


def test_the_page_says_by_itself_where_a_claim_does_not_hold() -> None:
    found = verdicts(harmonrank(whole(-0.02)))
    assert found["Soft ranks order better than summed cross-entropies", "live"] == "does not hold"
    assert found["Soft ranks order better than pairwise surrogate", "kuairand"] == "not clear"
    found = verdicts(sarm(whole()))
    assert found["SARM orders better than the base ranker", "live, AUC"] == "holds"
    assert found["SARM orders better than a frozen embedding", "live, GAUC"] == "not clear"
    assert found["A frozen embedding alone loses to the base ranker", "live, AUC"] == "holds"
    assert found["The gate orders better than no domain tokens", "live, AUC"] == "does not hold"
    found = verdicts(wesing(whole()))
    assert found["CGC orders better than MMoE", "live, AUC"] == "holds"
    assert found["KFM orders better than FM", "live, GAUC"] == "holds"
    # Gradients come in the list before their sum.
    assert found["PCGrad orders better than plain sum", "live, AUC"] == "does not hold"


def test_tables_have_every_row(tmp_path: Path) -> None:
    report = whole()
    tables = {t.title: t for s in (sarm, wesing, harmonrank, dpp) for t in s(report).tables}
    assert len(tables["live: ladder, AUC"].rows) == 3
    assert [row[0].text for row in tables["live: rarely shown authors"].rows] == [
        "11 to 50", "never",
    ]  # fmt: skip
    assert [row[0].text for row in tables["live: label skew"].rows] == ["20", "5"]
    assert [row[0].text for row in tables["live"].rows] == ["1.00", "0.50"]
    assert len(tables["live: experts, GAUC"].rows) == 3
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.heads)}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")


def test_the_page_is_whole_and_needs_no_network() -> None:
    html = ranking_page(
        whole() | {"latency_ms": {"rank200": {"p50": 1.5, "p99": 2.5}, "threads": 1}}
    )
    tags = _Tags()
    tags.feed(html)
    assert len(set(tags.ids)) == len(tags.ids)
    for link in tags.links:
        assert link[:1] == "#"
        assert link[1:] in tags.ids
    named = re.sub(r"<metadata>.*?</metadata>", "", html, flags=re.S)
    assert "http" not in re.sub(r'xmlns[:\w]*="[^"]*"', "", named)
    assert "wesing.kuairand: &lt;none&gt;" in html
    assert "rank 200" in html
    assert "2.500" in html


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    bare = {k: v for k, v in whole().items() if k not in ("sarm", "wesing", "harmonrank", "dpp")}
    html = ranking_page(bare)
    for name in ("sarm", "wesing", "harmonrank", "dpp", "latency_ms"):
        assert f"<code>{name}</code>" in html


def _counted(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    return {"curve": curve()["curve"], "seed": config.curve.seed}


@pytest.fixture
def one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of one part that a process makes at once, and one of KuaiRand's."""
    parts = {"dpp.live": Study(_counted, ("curve",)), "dpp.kuairand": Study(_counted, ("wesing",))}
    monkeypatch.setattr(report_module, "STUDIES", parts)
    monkeypatch.setattr(parts_module, "ProcessPoolExecutor", _Here)


class _Here:
    """A pool whose work is done where it is asked for."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, call: Any, *arguments: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(call(*arguments))
        return future


def test_a_run_goes_on_where_it_broke_off(one_part: None, tmp_path: Path) -> None:
    said: list[str] = []
    first = main_report(tmp_path, say=said.append)
    assert len(said) == 2  # the part, the page
    assert first["left_out"] == [
        "dpp.kuairand: no folder of KuaiRand was given",
        "latency_ms: nothing was given that measures it",
    ]
    assert json.loads((tmp_path / "report.json").read_text()) == first
    part = tmp_path / "parts" / "dpp.live.json"
    kept = part.stat().st_mtime_ns
    again = main_report(tmp_path, say=said.append, latency=lambda: {"total": {"p50": 1, "p99": 2}})
    assert part.stat().st_mtime_ns == kept
    assert again["latency_ms"]["total"]["p99"] == 2
    assert again["left_out"] == first["left_out"][:1]
    # Other settings, of this part or of another.
    main_report(tmp_path, config=ReportConfig(live_seed=7), say=said.append)
    assert part.stat().st_mtime_ns == kept
    curve_config = ReportConfig().curve.model_copy(update={"seed": 9})
    found = main_report(tmp_path, config=ReportConfig(curve=curve_config), say=said.append)
    assert found["dpp"]["seed"] == {"live": 9}
    assert found["commit"]
    assert set(found["versions"]) == {"torch", "numpy", "polars", "scipy"}


def test_kuairands_parts_need_its_folder(one_part: None, tmp_path: Path) -> None:
    folder = tmp_path / "kuairand"
    folder.mkdir()
    (folder / "a.tsv").write_text("x")
    found = main_report(tmp_path, folder, say=print)
    assert found["left_out"] == ["latency_ms: nothing was given that measures it"]
    assert found["minutes_of"].keys() == {"dpp.live", "dpp.kuairand"}
    (folder / "a.tsv").write_text("longer")
    said: list[str] = []
    main_report(tmp_path, folder, say=said.append)
    assert [line.split(":")[0] for line in said[:-1]] == ["dpp.kuairand"]


def test_a_part_is_made_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report_module, "STUDIES", {"dpp.live": STUDIES["dpp.live"]})
    small = CurveConfig(
        live=LiveConfig(users=40, streamers=200, days=2),
        fusion=FusionConfig(per_request=False, epochs=1),
        requests=5, candidates=6, size=3, diversities=(0.0, 1.0),
    )  # fmt: skip
    said: list[str] = []
    found = main_report(tmp_path, config=ReportConfig(curve=small), workers=1, say=said.append)
    assert [row["theta"] for row in found["dpp"]["curve"]] == [1.0, 0.0]
    assert re.fullmatch(r"dpp.live: \d+\.\d min", said[0])
    assert found["config"]["curve"]["requests"] == 5
    assert "Relevance against likeness" in (tmp_path / "report.html").read_text()


def test_the_page_alone_comes_from_a_stored_report(tmp_path: Path) -> None:
    stored = tmp_path / "stored.json"
    stored.write_text(json.dumps(whole()))
    assert main_report(tmp_path / "new", from_results=stored, say=print) == whole()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.html"]
    stored.write_text("{}")
    with pytest.raises(ConfigError, match=r"expected a stored report, got JSON without minutes_of"):
        main_report(tmp_path, from_results=stored)
    stored.unlink()
    with pytest.raises(ConfigError, match=r"stored.json: expected a stored report: .*No such file"):
        main_report(tmp_path, from_results=stored)


def test_what_draws_the_page_is_asked_for_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parts_module, "find_spec", lambda name: None)
    with pytest.raises(
        BackendUnavailable, match=r"expected jinja2, matplotlib .*stars-engine\[dev"
    ):
        main_report(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_part_names_settings_that_exist() -> None:
    for name, part in STUDIES.items():
        assert len(name.split(".")) == 2
        assert set(part.settings) <= set(ReportConfig.model_fields)
