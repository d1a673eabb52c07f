"""A report's parts: each computed once, kept in a file of its own, made again when its key changes.

So a report that was broken off goes on where it stopped.
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine.errors import BackendUnavailable, ConfigError
from engine.manifest import source_commit

_PAGE_NEEDS = ("jinja2", "matplotlib")
Say = Callable[[str], None]


class Part(NamedTuple):
    """A piece of work with a JSON object as its result.

    Attributes:
        name: of its file.
        key: hash of all that decides the result.
        make: computes it, in a process of its own.
    """

    name: str
    key: str
    make: Callable[[], dict[str, Any]]


class Made(NamedTuple):
    """A part that is there: its result, the minutes that it took, and what it was made by."""

    result: dict[str, Any]
    minutes: float
    commit: str
    versions: dict[str, str]


def made(
    parts: Sequence[Part],
    folder: Path,
    workers: int,
    say: Say,
    threads: int = 1,
    libraries: Sequence[str] = ("torch", "numpy"),
) -> dict[str, Made]:
    """Every part, by name: read from `folder` where its key is the same, else computed.

    A part that fails does not keep the others from being computed; its error is raised after them.

    Args:
        parts: computed in this order.
        folder: of the kept parts.
        workers: processes at once. threads: of each.
        say: is told of every part that was computed.
        libraries: whose versions are kept with a part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanting = [part for part in parts if kept(folder, part) is None]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(workers, len(wanting))), context) as pool:
        running = [pool.submit(_make, folder, part, threads, libraries) for part in wanting]
        for done in as_completed(running):
            if done.exception() is None:
                say(done.result())
    for finished in running:
        finished.result()
    found = {part.name: kept(folder, part) for part in parts}
    return {name: part for name, part in found.items() if part is not None}


def kept(folder: Path, part: Part) -> Made | None:
    """The part of this very key, None where there is none."""
    path = folder / f"{part.name}.json"
    if not path.is_file():
        return None
    stored: dict[str, Any] = json.loads(path.read_bytes())
    return Made(**stored["made"]) if stored["key"] == part.key else None


def key_of(*decisive: object) -> str:
    """sha256 of everything that decides a result."""
    return hashlib.sha256("\n".join(map(str, decisive)).encode()).hexdigest()


def check_page(command: str) -> None:
    """Raises BackendUnavailable, naming `command`, where what draws a page is not installed."""
    missing = [name for name in _PAGE_NEEDS if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"{command}: expected {', '.join(missing)} for the page, got none;"
            " pip install 'stars-engine[dev]'"
        )


def written(
    out: Path,
    from_results: Path | None,
    compute: Callable[[], dict[str, Any] | None],
    draw: Callable[[dict[str, Any]], str],
    say: Say,
) -> dict[str, Any] | None:
    """The report, with its page in `out`; where it was computed, also as `out`/report.json.

    Args:
        from_results: a stored report.json, of which only the page is made; None computes.
        compute: gives the report, or None where there is none to write yet.
        draw: its page as HTML.
    Raises:
        ConfigError: `from_results` is no report.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = compute() if from_results is None else read_report(from_results)
    if found is None:
        return None
    if from_results is None:
        (out / "report.json").write_text(json.dumps(found, indent=2, allow_nan=False))
    (out / "report.html").write_text(draw(found), encoding="utf-8")
    say(f"{out / 'report.html'} written")
    return found


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


def _make(folder: Path, part: Part, threads: int, libraries: Sequence[str]) -> str:
    """Computes and stores a part."""
    torch.set_num_threads(threads)
    commit, started = source_commit(), time.monotonic()  # of what runs: the tree may move on
    result = part.make()
    minutes = (time.monotonic() - started) / 60
    versions = {name: version(name) for name in libraries}
    stored = {"key": part.key, "made": Made(result, minutes, commit, versions)._asdict()}
    unfinished = folder / f"{part.name}.json.part"
    unfinished.write_text(json.dumps(stored, allow_nan=False))
    unfinished.replace(folder / f"{part.name}.json")
    return f"{part.name}: {minutes:.1f} min"
