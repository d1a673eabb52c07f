"""Stored results: one JSON line a row, with what it was measured on and by."""

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.manifest import source_commit

Row = dict[str, Any]


def replace_rows(path: Path, rows: Sequence[Row], key: Sequence[str]) -> None:
    """Writes rows in the place of those that have the same values of `key`; the others stay."""
    new = {tuple(row[name] for name in key) for row in rows}
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    kept = [row for row in kept if tuple(row[name] for name in key) not in new]
    every = sorted([*kept, *rows], key=lambda row: tuple(row[name] for name in key))
    path.write_text("".join(json.dumps(row) + "\n" for row in every))


def surroundings(module: str, libraries: Sequence[str]) -> Row:
    """Machine, versions, commit and command of a row that `module` measures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": f"{len(models)} x {models[0]}, {platform.system()}",
        "versions": {name: version(name) for name in libraries},
        "commit": source_commit(),
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
    }
