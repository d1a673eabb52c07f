"""Python environments of the libraries that lists and latencies are compared with.

    python -m engine.evaluation.peer_environments [LIBRARY ...]   makes those that are missing

They cannot stand beside this project's pins: RecTools 0.19 wants scipy below 1.13 and pandas below
3, RePlay 0.22 wants pandas below 3, polars below 2 and pyarrow below 24, Cornac 3 wants numpy from
2 on.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import BackendUnavailable

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "artifacts" / "peers"
TORCH = "torch==2.13.*"  # ours, so that the libraries are compared and not their torch
PACKAGES = {
    "rectools": ("rectools[torch]==0.19.0", TORCH),
    "replay": ("replay-rec[torch]==0.22.0", "openvino>=2026.1", "onnx", "onnxscript", TORCH),
    "cornac": ("cornac==3.0.1", "similaripy==0.7.0"),
}


def interpreter(library: str, folder: Path = FOLDER) -> Path:
    """Python of a library's environment.

    Raises:
        BackendUnavailable: there is none; says how it is made.
    """
    path = folder / library / "bin" / "python"
    if not path.exists():
        shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        raise BackendUnavailable(
            f"{library}: expected its environment in {shown}/{library}, got none; "
            f"`python -m engine.evaluation.peer_environments {library}` makes it"
        )
    return path


def missing(libraries: Sequence[str] = tuple(PACKAGES), folder: Path = FOLDER) -> list[str]:
    """Those of `libraries` that have no environment."""
    return [name for name in libraries if not (folder / name / "bin" / "python").exists()]


def install(libraries: Sequence[str] = tuple(PACKAGES), folder: Path = FOLDER) -> None:
    """Makes the environments, or brings those that exist to the versions of `PACKAGES`.

    Raises:
        ValueError: a library that has no entry.
        BackendUnavailable: pip could not install it; carries the end of what it said.
    """
    for library in libraries:
        if library not in PACKAGES:
            raise ValueError(f"peers: expected one of {sorted(PACKAGES)}, got {library!r}")
        place = folder / library
        _run(library, [sys.executable, "-m", "venv", place])
        _run(library, [place / "bin" / "pip", "install", *PACKAGES[library]])


def _run(library: str, command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise BackendUnavailable(
            f"{library}: expected `{command[0]}` to make its environment, "
            f"got status {done.returncode}: {done.stderr.strip()[-500:]}"
        )


if __name__ == "__main__":
    install(sys.argv[1:] or missing())
