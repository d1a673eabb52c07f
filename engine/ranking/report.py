"""`stars rank report`: the studies of ranking, part by part, as JSON and one page."""

import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.manifest import source_commit
from engine.pipeline import source_digest
from engine.reporting.parts import Part, Say, check_page, key_of, made, written

from .report_parts import KUAIRAND, STUDIES, ReportConfig

OUT = Path("artifacts/rank")
_LIBRARIES = ("torch", "numpy", "polars", "scipy")
Latency = Callable[[], dict[str, Any]]


def main_report(
    out: Path = OUT,
    kuairand: Path | None = None,
    from_results: Path | None = None,
    *,
    latency: Latency | None = None,
    config: ReportConfig | None = None,
    workers: int = 2,
    say: Say = print,
) -> dict[str, Any]:
    """`report.json` and `report.html` in `out`; parts that are there with the same key are reused.

    Args:
        out: folder of both, and of the parts.
        kuairand: folder of the KuaiRand subset; without it its parts are left out, and said to be.
        from_results: a stored report.json: only the page is made of it.
        latency: gives `latency_ms`: rank200, fuse, page20 and total, each with p50 and p99. It runs
            last and alone. Without it the report has no latencies, and says so.
        workers: processes, of one thread each.
    Returns:
        The report.
    Raises:
        BackendUnavailable: what draws the page is not installed.
        ConfigError: `from_results` is no report.
    """
    check_page("stars rank report")
    from .report_page import ranking_page

    settings = config or ReportConfig()
    compute = partial(run, out / "parts", settings, kuairand, latency, workers, say)
    found = written(out, from_results, compute, ranking_page, say)
    assert found is not None
    return found


def run(
    folder: Path,
    config: ReportConfig,
    kuairand: Path | None,
    latency: Latency | None,
    workers: int,
    say: Say,
) -> dict[str, Any]:
    """The report, of stored parts and of those that it computes."""
    asked = [name for name in STUDIES if kuairand or not name.endswith(KUAIRAND)]
    parts = [
        Part(name, _key(name, config, kuairand), partial(STUDIES[name].run, config, kuairand))
        for name in asked
    ]
    found = made(parts, folder, workers, say, libraries=_LIBRARIES)
    times, minutes = (None, 0.0) if latency is None else _timed(latency)
    left_out = [
        f"{name}: no folder of KuaiRand was given" for name in STUDIES if name not in asked
    ] + (["latency_ms: nothing was given that measures it"] if times is None else [])
    return {
        **merged({name: part.result for name, part in found.items()}),
        **({} if times is None else {"latency_ms": times}),
        "left_out": left_out,
        "minutes": round(sum(part.minutes for part in found.values()) + minutes, 1),
        "minutes_of": {name: round(part.minutes, 1) for name, part in found.items()},
        "commit": source_commit(),
        "command": " ".join(["stars", *sys.argv[1:]]),
        "versions": {name: version(name) for name in _LIBRARIES},
        "config": config.model_dump(mode="json"),
    }


def merged(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Parts `study.dataset` as one object: rows of lists carry `dataset`, the rest is keyed by it.

    >>> merged({"a.x": {"rows": [{"k": 1}], "mean": 2}})
    {'a': {'rows': [{'dataset': 'x', 'k': 1}], 'mean': {'x': 2}}}
    """
    report: dict[str, Any] = {}
    for name, result in results.items():
        study, dataset = name.split(".")
        for key, value in result.items():
            if key == "config":
                continue
            into = report.setdefault(study, {})
            if _is_rows(value):
                into.setdefault(key, []).extend({"dataset": dataset, **row} for row in value)
            else:
                into.setdefault(key, {})[dataset] = value
    return report


def _timed(latency: Latency) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    return latency(), (time.monotonic() - started) / 60


def _key(name: str, config: ReportConfig, kuairand: Path | None) -> str:
    """Hash of what decides a part's result."""
    data: Iterable[Path] = sorted(kuairand.iterdir()) if kuairand and KUAIRAND in name else ()
    sizes = [f"{file.name} {file.stat().st_size}" for file in data]
    versions = [f"{library} {version(library)}" for library in _LIBRARIES]
    settings = config.model_dump_json(include=set(STUDIES[name].settings))
    return key_of(name, settings, source_digest("engine/ranking"), *sizes, *versions)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)
