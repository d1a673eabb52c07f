"""`stars rank report`: the studies of ranking, part by part, as JSON and one page.

A part is kept in a file of its own under a key of its configuration, the sources and the data, so
that a run that was broken off goes on where it stopped.
"""

import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from engine.errors import BackendUnavailable, ConfigError
from engine.manifest import source_commit
from engine.pipeline import source_digest

from .report_parts import KUAIRAND, PARTS, ReportConfig

OUT = Path("artifacts/rank")
_LIBRARIES = ("torch", "numpy", "polars", "scipy")
_PAGE_NEEDS = ("jinja2", "matplotlib")
Latency = Callable[[], dict[str, Any]]
Say = Callable[[str], None]


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
    missing = [name for name in _PAGE_NEEDS if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"stars rank report: expected {', '.join(missing)} for the page, got none;"
            " pip install 'stars-engine[dev]'"
        )
    from .report_page import page

    out.mkdir(parents=True, exist_ok=True)
    if from_results is None:
        found = run(out / "parts", config or ReportConfig(), kuairand, latency, workers, say)
        (out / "report.json").write_text(json.dumps(found, indent=2, allow_nan=False))
    else:
        found = read_report(from_results)
    (out / "report.html").write_text(page(found), encoding="utf-8")
    say(f"{out / 'report.html'} written")
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
    folder.mkdir(parents=True, exist_ok=True)
    asked = [name for name in PARTS if kuairand or not name.endswith(KUAIRAND)]
    keys = {name: _key(name, config, kuairand) for name in asked}
    wanting = [name for name in asked if _stored(folder, name, keys[name]) is None]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(workers, len(wanting))), context) as pool:
        running = [
            pool.submit(_make, folder, name, keys[name], config, kuairand) for name in wanting
        ]
        for done in as_completed(running):
            say(done.result())
    found = {name: _stored(folder, name, keys[name]) for name in asked}
    times, minutes = (None, 0.0) if latency is None else _timed(latency)
    left_out = [
        f"{name}: no folder of KuaiRand was given" for name in PARTS if name not in asked
    ] + (["latency_ms: nothing was given that measures it"] if times is None else [])
    parts = {name: part for name, part in found.items() if part is not None}
    return {
        **merged({name: part["result"] for name, part in parts.items()}),
        **({} if times is None else {"latency_ms": times}),
        "left_out": left_out,
        "minutes": round(sum(part["minutes"] for part in parts.values()) + minutes, 1),
        "minutes_of": {name: round(part["minutes"], 1) for name, part in parts.items()},
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


def read_report(path: Path) -> dict[str, Any]:
    """A stored report.

    Raises:
        ConfigError: no such file, or no report.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected a stored report: {error}") from error
    if not isinstance(found, dict) or "minutes_of" not in found:
        raise ConfigError(f"{path}: expected a stored report, got JSON without minutes_of")
    return found


def _make(folder: Path, name: str, key: str, config: ReportConfig, kuairand: Path | None) -> str:
    """Computes and stores a part, in a process of its own."""
    torch.set_num_threads(1)
    started = time.monotonic()
    result = PARTS[name].run(config, kuairand)
    minutes = (time.monotonic() - started) / 60
    part = {"key": key, "minutes": minutes, "result": result}
    unfinished = folder / f"{name}.json.part"
    unfinished.write_text(json.dumps(part, allow_nan=False))
    unfinished.replace(folder / f"{name}.json")
    return f"{name}: {minutes:.1f} min"


def _timed(latency: Latency) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    return latency(), (time.monotonic() - started) / 60


def _key(name: str, config: ReportConfig, kuairand: Path | None) -> str:
    """Hash of what decides a part's result."""
    data: Iterable[Path] = sorted(kuairand.iterdir()) if kuairand and KUAIRAND in name else ()
    sizes = [f"{file.name} {file.stat().st_size}" for file in data]
    versions = [f"{library} {version(library)}" for library in _LIBRARIES]
    settings = config.model_dump_json(include=set(PARTS[name].settings))
    whole = "\n".join([name, settings, source_digest("engine/ranking"), *sizes, *versions])
    return hashlib.sha256(whole.encode()).hexdigest()


def _stored(folder: Path, name: str, key: str) -> dict[str, Any] | None:
    """The part of this very key, None where there is none."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    part: dict[str, Any] = json.loads(path.read_bytes())
    return part if part["key"] == key else None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)
