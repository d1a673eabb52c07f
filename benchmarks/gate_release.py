"""Stored results of releases: `releases/<version>.json`, one line a case and class of machine."""

import subprocess
from pathlib import Path
from typing import Any

import torch

import engine
from engine.errors import ConfigError

from .gate_measure import SURROUNDINGS, Measured, from_row, read_rows
from .stored import replace_rows, surroundings

RELEASES = Path(__file__).with_name("releases")
_LIBRARIES = (
    "torch", "triton", "numpy", "onnxruntime", "openvino", "faiss-cpu", "nvidia-pytriton",
    "tritonclient",
)  # fmt: skip


def around(weights: str) -> dict[str, Any]:
    """What a line was measured on: machine, accelerator, versions, commit, command, and the
    weights of the bundle, `trained` or `random`."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return surroundings("benchmarks.gate", _LIBRARIES) | {
        "accelerator": accelerator,
        "weights": weights,
    }


def last_release(here: dict[str, Any]) -> Path | None:
    """The newest release that was measured on this class of machine, None before the first."""
    files = sorted(RELEASES.glob("*.json"), key=_version, reverse=True)
    return next((file for file in files if _of_class(read_rows(file), here)), None)


def read_release(path: Path, here: dict[str, Any]) -> dict[str, Measured]:
    """A release's cases on this class of machine: the same processors, cores, card and weights."""
    return {row["case"]: from_row(row) for row in _of_class(read_rows(path), here)}


def comparable(measured: Measured, releases: dict[str, Measured]) -> Measured | None:
    """The release's measurement of a case, if it asked the same question."""
    release = releases.get(measured.case)
    return release if release and release.parameters == measured.parameters else None


def store_release(rows: list[dict[str, Any]]) -> Path:
    """Writes the lines of this version in the place of its former ones on this class of machine.

    Raises:
        ConfigError: the source tree has changes that are not committed.
    """
    _refuse_changes()
    path = RELEASES / f"{engine.__version__}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_rows(path, rows, ("case", *SURROUNDINGS))
    return path


def _refuse_changes() -> None:
    if changed := _changed():
        raise ConfigError(f"--store: expected a clean tree, got {changed[0]} changed")


def _changed() -> list[str]:
    """Files that differ from the commit."""
    answer = subprocess.run(
        ["git", "status", "--porcelain"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line[3:] for line in answer.stdout.splitlines()]


def _of_class(rows: list[dict[str, Any]], here: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in rows if all(row.get(key) == here[key] for key in SURROUNDINGS)]


def _version(path: Path) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in path.stem.split("."))
    except ValueError as error:
        raise ConfigError(
            f"{path}: expected a version such as 0.1.0.json, got this name"
        ) from error
