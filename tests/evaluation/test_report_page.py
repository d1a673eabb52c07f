"""The quality report's page and the README's tables, of a report that is made up but whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quality_tables, readme
from engine.evaluation.metrics import ACCURACY
from engine.evaluation.report.config import VARIANTS
from engine.evaluation.report.page import quality_page, sections

METHODS = {
    "next": 0.152, "general": 0.081, "round_robin": 0.149, "lambdamart": 0.146, "sasrec": 0.089,
    "bert4rec": 0.083, "upcf": 0.139, "popularity": 0.047, "personal_frequency": 0.136,
    "personal_recency": 0.142,
}  # fmt: skip
OURS = ("next", "round_robin")
COMPARED = ("recall@10", "ndcg@10", "hit@5", "hit@10")
SCALE = {"hit@5": 3.0, "hit@10": 4.0, "recall@10": 1.0, "ndcg@10": 1.45}


def minus(mean: float, half: float = 0.004) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def compared(mean: float) -> dict[str, Any]:
    return {name: minus(mean * SCALE[name]) for name in COMPARED}


def measures(value: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ACCURACY:
        at = value * SCALE[name]
        found |= {name: at, f"{name}_ci": [at - 0.006, at + 0.006]}
    return found | {"coverage@10": value / 4}


def means(value: float) -> dict[str, float]:
    return {k: v for k, v in measures(value).items() if not k.endswith("_ci")}


def point(value: float) -> dict[str, Any]:
    return {"mean": value, "ci": [value - 0.02, value + 0.02]}


def shop(gain: float = 0.006) -> dict[str, Any]:
    rivals = ("personal_recency", "personal_frequency", "lambdamart")
    pairs = {name: {rival: compared(gain) for rival in rivals} for name in OURS}
    new = {name: measures(value / 4) for name, value in METHODS.items() if "personal" not in name}
    others = [name for name in new if name not in (*OURS, "general")]
    discovered = {name: {rival: compared(gain / 2) for rival in others} for name in OURS}
    early = [name for name in METHODS if name not in ("sasrec", "bert4rec", "upcf")]
    variants = [*VARIANTS, "prior_trained_and_served", "prior_served"]
    return {
        "requests": 1889,
        "table": {name: measures(value) for name, value in METHODS.items()},
        "differences": dict.fromkeys(("all_cuts", "earlier_cuts", "final_cut"), pairs),
        "cuts": [
            {
                "cut": 1_500_000_000 - 2_419_200 * place,
                "requests": 1889 + 40 * place,
                "table": {n: means(METHODS[n] + 0.003 * place)
                          for n in (early if place else METHODS)},
            }
            for place in range(5)
        ],
        "seeds": {
            name: {"runs": [means(0.15)] * 3, "mean": means(0.15), "std": means(0.002)}
            for name in OURS
        },
        "discovery": {
            "requests": 1702, "table": new, "minus": discovered, "minus_all_cuts": discovered,
            "twice_popularity": {
                name: {"final": minus(0.003), "all_cuts": minus(0.004)} for name in OURS
            },
        },
        "ablation": {
            name: {
                s: {**means(0.15 - 0.001 * place), "minus_full": compared(-0.001 * place)}
                for s in OURS
            }
            for place, name in enumerate(v for v in variants if v != "prior_trained")
        },
        "prior": {
            train: [
                {"lambda_serve": x, **means(0.15 - 0.05 * x), "gini": 0.95 - 0.2 * x,
                 "popularity_rank": 400 + 9000 * x}
                for x in (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)
            ]
            for train in ("0", "0.3")
        },
        "by_candidates": {
            size: {
                "requests": 1500, "mean_size": n,
                "hit@5": {"stars": point(5 / (n + 4) + 0.3), "lambdamart": point(5 / (n + 4) + 0.1),
                          "popularity": point(5 / (n + 4)), "personal_recency": point(0.3)},
                "stars_minus_lambdamart": minus(0.2), "gain": 0.31,
            }
            for size, n in {"1-10": 6, "11-30": 20, "31-100": 66, "101+": 201}.items()
        },
        "by_category": {
            "best": [{"category": f"FLUID MILK {n}", "targets": 1200 + n, "round_robin": 0.4,
                      "personal_recency": 0.39, "lambdamart": 0.41} for n in range(10)],
            "worst": [{"category": f"GREETING CARDS {n}", "targets": 120 + n, "round_robin": 0.01,
                       "personal_recency": 0.0, "lambdamart": 0.01} for n in range(10)],
            "least_targets": 100,
        },
        "by_history": [
            {
                "households": name, "requests": 630, "sessions": [low, high],
                "table": {m: measures(METHODS[m]) for m in (*OURS, *rivals[::2])},
                "minus": {rival: compared(gain) for rival in rivals[::2]},
            }
            for name, low, high in (("light", 1, 60), ("medium", 61, 110), ("heavy", 111, 900))
        ],
        "newcomers": [
            {
                "sessions": n,
                "table": {m: measures(METHODS[m] - 0.05 / n)
                          for m in ("round_robin", "personal_recency", "popularity")},
                "minus": {m: compared(gain) for m in ("personal_recency", "popularity")},
            }
            for n in (1, 2, 5, 10)
        ],
        "cold": {
            "items": 1412, "requests": 702, "bought": 901, "chance": 10 / 1412,
            "recall@10": {"full": point(0.06), "no_text_no_tags": point(0.021)},
            "full_minus_three_times": minus(-0.003), "ratio": 2.86,
        },
        "drift": [
            {"week": n, "next": 1 - 0.04 * n, "next_se": 0.004, "general": 1 - 0.01 * n,
             "general_se": 0.002} for n in range(17)
        ],
        "lambda_serve": 0.03,
        "importance": None,
    }  # fmt: skip


def reviews() -> dict[str, Any]:
    names = ("stars", "stars_model_alone", "stars_no_text", "sasrec", "bert4rec", "upcf")
    found: dict[str, Any] = {}
    for protocol, base in (("strict", 0.094), ("refit", 0.104)):
        found[protocol] = {
            name: {
                "recall@5": base * 0.7, "ndcg@5": base * 0.45, "recall@10": base - 0.006 * place,
                "ndcg@10": base * 0.56,
            } | ({} if "alone" in name else
                 {"standard_error": {"recall@10": 0.0018}, "minutes": 9.5, "validation": None})
            for place, name in enumerate(names)
        }  # fmt: skip
    return found


def whole(gain: float = 0.006) -> dict[str, Any]:
    return {
        "complete_journey": shop(gain), "amazon_beauty": reviews(), "left_out": [],
        "seeds": [0, 1, 2], "minutes": 312.4, "commit": "0" * 40, "threads": 1, "workers": 2,
        "minutes_of": {"stars.full.cut0.seed0": 28.0, "lambdamart.cut0": 4.0},
        "training_minutes": {"stars.full.cut0.seed0": 26.1, "lambdamart.cut0": 3.9},
        "machine": "x86_64, 2 cores", "command": "stars report", "versions": {"numpy": "2"},
    }  # fmt: skip


def verdicts(report: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(c.text, c.found.split(":")[0]): c.verdict for s in sections(report) for c in s.claims}


def test_intervals_decide_what_is_said() -> None:
    ahead, behind, unclear = (verdicts(whole(gain)) for gain in (0.006, -0.006, 0.001))
    claim = ("STARS next (NI) is above LambdaMART", "5 cuts, R@10")
    assert (ahead[claim], behind[claim], unclear[claim]) == ("holds", "does not hold", "not clear")
    assert ahead["R@10 of 0.150 at the final cut", "0.1500"] == "holds"
    assert ahead["NDCG@10 of 0.218 at the final cut", "0.2175"] == "does not hold"
    assert ahead["strict: R@10 of 0.093", "0.0940"] == "holds"
    assert ahead["refit: R@10 of 0.107", "0.1040"] == "does not hold"
    report = whole()
    rows = report["complete_journey"]["ablation"]
    rows["no_tags"]["next"]["minus_full"]["recall@10"] = minus(0.02)
    rows["no_text"]["next"]["minus_full"]["recall@10"] = minus(-0.02)
    found = {text: verdict for (text, _), verdict in verdicts(report).items()}
    assert found["no tags: worse than the full model"] == "does not hold"
    assert found["no text: worse than the full model"] == "holds"
    assert found["no context: worse than the full model"] == "not clear"


def test_every_table_is_rectangular() -> None:
    for section in sections(whole()):
        for table in section.tables:
            assert table.rows
            assert {len(row) for row in table.rows} == {len(table.heads)}


def test_what_is_absent_is_left_out_of_the_page() -> None:
    report = whole()
    found = report["complete_journey"]
    for part in (found["table"], *(cut["table"] for cut in found["cuts"]),
                 *(of["hit@5"] for of in found["by_candidates"].values()),
                 *(group["table"] for group in found["by_history"]),
                 *(group["minus"] for group in found["by_history"]),
                 *found["differences"]["all_cuts"].values(), found["discovery"]["table"],
                 *found["discovery"]["minus"].values(),
                 *found["discovery"]["minus_all_cuts"].values()):  # fmt: skip
        for name in ("lambdamart", "sasrec", "bert4rec", "upcf"):
            part.pop(name, None)
    for of in found["by_candidates"].values():
        del of["stars_minus_lambdamart"], of["gain"]
    for rows in (found["by_category"]["best"], found["by_category"]["worst"]):
        for row in rows:
            del row["lambdamart"]
    found["cold"] |= {"requests": 0, "recall@10": {}}
    del found["cold"]["full_minus_three_times"]
    found["by_category"] |= {"best": [], "worst": []}
    for methods in report["amazon_beauty"].values():
        for name in ("sasrec", "bert4rec", "upcf"):
            del methods[name]
    assert not any("LambdaMART" in text or "SASRec" in text for text, _ in verdicts(report))
    html = quality_page(report)
    assert "Cold items" in html
    assert "Best for STARS" not in html


def test_the_readmes_tables_come_from_the_stored_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given, result, page = tmp_path / "report.json", tmp_path / "quality.json", tmp_path / "R.md"
    given.write_text(json.dumps(whole()))
    blocks = [f"<!-- table:{name} -->\n<!-- end -->" for name in quality_tables.TABLES]
    page.write_text("\n\n".join(blocks))
    own = quality_tables.README.read_text()
    assert all(own.count(f"<!-- table:{name} -->") == 1 for name in quality_tables.TABLES)
    monkeypatch.setattr(quality_tables, "RESULT", result)
    monkeypatch.setattr(quality_tables, "README", page)
    monkeypatch.setattr(readme, "TABLES", {})
    readme.add_quality()
    assert not readme.TABLES  # nothing is stored yet
    quality_tables.store(given)
    assert json.loads(result.read_text()) == whole()
    readme.add_quality()
    text = readme.rendered(page)
    assert "| LambdaMART | 0.4380 [0.4320, 0.4440] |" in text
    assert "| STARS next (NI) | LambdaMART | +0.0060 [+0.0020, +0.0100] |" in text
    assert "| Cold items | Text and tags triple the recall" in text
    assert text.count("| method | R@5 |") == 2
    other = whole()
    other["complete_journey"]["table"]["lambdamart"]["hit@5"] = 0.5
    result.write_text(json.dumps(other))
    assert readme.rendered(page) != text
