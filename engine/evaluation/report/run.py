"""`stars report`: trains what is missing, part by part; its tables are JSON and one page."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.data.dataset import Dataset
from engine.errors import ConfigError
from engine.evaluation.candidate_sets import candidate_sets
from engine.evaluation.protocol import next_session
from engine.manifest import source_commit
from engine.pipeline import source_digest
from engine.reporting.parts import Made, Say, check_page, kept, key_of, made, written
from engine.training.history import past

from . import slices, tables
from .config import FULL, VARIANTS, ReportConfig
from .parts import Inputs, absent, parts
from .rivals import PROTOCOLS, prepare_amazon, promotions_of
from .setting import Setting
from .stars_part import StarsPart
from .study import Study

OUT = Path("artifacts/report")
_LIBRARIES = ("torch", "numpy", "onnxruntime", "lightgbm", "scipy", "ir_measures")
_CATEGORY = "category"
_SETS = (
    "engine/data", "engine/training/history.py", "engine/evaluation/candidate_sets.py",
    "engine/evaluation/lambdamart_promotions.py", "engine/evaluation/protocol.py",
)  # fmt: skip


def main_report(
    out: Path = OUT,
    data: Path | None = None,
    amazon: Path | None = None,
    from_results: Path | None = None,
    *,
    config: ReportConfig | None = None,
    only: Sequence[str] = (),
    as_is: bool = False,
    workers: int = 2,
    threads: int = 1,
    say: Say = print,
) -> dict[str, Any] | None:
    """`report.json` and `report.html` in `out`; parts that are there with the same key are reused.

    Args:
        out: folder of both, and of what is made on the way.
        data: prepared dataset with times; None leaves the shop's sections out.
        amazon: folder of <Name>.txt and <Name>.items.jsonl; None leaves its section out.
        from_results: a stored report.json: only the page is made of it.
        only: beginnings of the names of the parts to compute now, and no report; () is all of them.
        as_is: nothing is computed; the report is of the parts that are there, and says which are
            not.
        workers: processes at once. threads: of each.
    Returns:
        The report; None with `only`.
    Raises:
        BackendUnavailable: what draws the page, or a peer, is not installed.
        ConfigError: `from_results` is no report, `only` names no part or comes with `as_is`, or
            with `as_is` the full model's at the final cut is not there.
    """
    if only and as_is:
        raise ConfigError("--as-is: expected it without --only, which makes no report, got both")
    check_page("stars report")
    from .page import quality_page

    settings = config or ReportConfig()
    compute = partial(_run, out, data, amazon, settings, only, as_is, workers, threads, say)
    return written(out, from_results, compute, quality_page, say)


def _run(
    out: Path,
    data: Path | None,
    amazon: Path | None,
    config: ReportConfig,
    only: Sequence[str],
    as_is: bool,
    workers: int,
    threads: int,
    say: Say,
) -> dict[str, Any] | None:
    work = out / "work"
    setting = None if data is None else _setting(data, work, config)
    if amazon is not None:
        prepare_amazon(amazon, work, config)
    without = absent()
    every = parts(Inputs(setting, amazon, work), config, without)
    asked = [part for part in every if not only or part.name.startswith(tuple(only))]
    if not asked:
        names = ", ".join(part.name for part in every) or "none: --data or --amazon is missing"
        raise ConfigError(f"--only: expected the beginning of a part of {names}, got {only}")
    libraries = [name for name in _LIBRARIES if find_spec(name) is not None]
    if as_is:
        stored = {part.name: kept(out / "parts", part) for part in asked}
        found = {name: part for name, part in stored.items() if part is not None}
    else:
        found = made(asked, out / "parts", workers, say, threads, libraries)
    if only:
        return None
    report: dict[str, Any] = {}
    if setting is not None:
        report["complete_journey"] = shop_tables(setting, config, found)
    if any(name.startswith("amazon.") for name in found):
        report["amazon_beauty"] = amazon_tables(found)
    left_out = [f"{name}: no --{name} was given" for name, given in
                (("data", data), ("amazon", amazon)) if given is None]  # fmt: skip
    left_out += [f"{name}: {why}" for name, why in without.items()]
    left_out += [f"{part.name}: not computed yet" for part in asked if part.name not in found]
    return report | {
        "left_out": left_out,
        "seeds": list(range(config.seeds)),
        "minutes": round(sum(part.minutes for part in found.values()), 1),
        "minutes_of": {name: round(part.minutes, 1) for name, part in found.items()},
        "training_minutes": {
            name: part.result.get("training_minutes", part.result.get("minutes"))
            for name, part in found.items()
            if {"training_minutes", "minutes"} & part.result.keys()
        },
        "threads": threads,
        "workers": workers,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "commit": source_commit(),
        "commits_of": {name: part.commit for name, part in found.items()},
        "command": " ".join(["stars", *sys.argv[1:]]),
        "versions": next(iter(found.values())).versions,
        "versions_of": {name: part.versions for name, part in found.items()},
        "config": config.model_dump(mode="json"),
    }


def _setting(data: Path, work: Path, config: ReportConfig) -> Setting:
    """The setting, with the final cut's candidate sets written."""
    setting = Setting.of(data, work, config.cuts)
    dataset = setting.dataset()
    cut, end = setting.cuts[0]
    seed = config.candidates_seed
    key = key_of(source_digest(*_SETS), dataset.meta.fingerprint, cut, seed)
    if not setting.has_candidate_sets(key):
        task, history = next_session(dataset, cut, end), past(dataset, cut, 1.0, ("purchase",))
        sets = candidate_sets(history, task, promotions_of(dataset), seed)
        setting.write_candidate_sets(cut, key, sets)
    return setting


def shop_tables(
    setting: Setting, config: ReportConfig, found: Mapping[str, Made]
) -> dict[str, Any]:
    """Everything that the report says of the shop."""
    dataset = setting.dataset()
    results = {name: part.result for name, part in found.items()}
    there = [cut for cut in range(config.cuts) if StarsPart(cut).name in results]
    if 0 not in there:
        raise ConfigError(f"--as-is: expected the part {StarsPart(0).name}, got none")
    studies = [_study(dataset, setting, results, cut) for cut in there]
    final, earlier = studies[0], studies[1:]
    variants = {
        name: results[part] for name in VARIANTS if (part := StarsPart(0, name).name) in results
    }
    by_seed = (StarsPart(0, seed=seed).name for seed in range(config.seeds))
    last = results.get(StarsPart(config.cuts - 1).name)
    full, trees = variants[FULL], results.get("lambdamart.cut0")
    sets = setting.candidate_sets(final.cut)
    ranked = {"stars": full["lists"]} | ({"lambdamart": trees["lists"]} if trees else {})
    cold = {name: variants[name] for name in (FULL, "no_text_no_tags") if name in variants}
    return {
        "requests": len(final.task.users),
        "table": tables.table(final),
        "differences": {
            "all_cuts": tables.differences(studies),
            **({"earlier_cuts": tables.differences(earlier)} if earlier else {}),
            "final_cut": tables.differences(studies[:1]),
        },
        "cuts": tables.cuts(studies),
        "seeds": tables.seeds(final, [results[name] for name in by_seed if name in results]),
        "discovery": tables.discovery(studies),
        "ablation": tables.ablation(final, variants),
        "prior": tables.prior(final, variants, config),
        "by_candidates": slices.by_candidates(final, sets, ranked),
        "by_category": slices.by_category(final, _CATEGORY),
        "by_history": slices.by_history(final),
        "newcomers": slices.newcomers(final, full, config),
        "cold": slices.cold(final, cold),
        **({"drift": slices.drift([last])} if last else {}),
        "lambda_serve": full["lambda_serve"],
        "importance": trees["importance"] if trees else None,
    }


def _study(
    dataset: Dataset, setting: Setting, results: Mapping[str, Mapping[str, Any]], cut: int
) -> Study:
    """Methods of one cut, by the names that the tables have."""
    own = {FULL: results[StarsPart(cut).name]}
    own |= {
        name.split(".")[0]: result
        for name, result in results.items()
        if name.endswith(f".cut{cut}") and not name.startswith(("stars.", "amazon."))
    }
    return Study(dataset, *setting.cuts[cut], own)


def amazon_tables(found: Mapping[str, Made]) -> dict[str, Any]:
    """protocol -> method -> measures at 5 and 10."""
    tables_of: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        rows: dict[str, Any] = {}
        for name, part in found.items():
            if not name.startswith("amazon."):
                continue
            method, result = name.removeprefix("amazon."), part.result[protocol]
            rows[method] = {
                **result["test"],
                "validation": result["validation"],
                "standard_error": result["standard_error"]["test"],
                "minutes": result["minutes"],
            }
            if "model_alone" in result:
                rows[f"{method}_model_alone"] = result["model_alone"]["test"]
        tables_of[protocol] = rows
    return tables_of
