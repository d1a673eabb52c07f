"""RecTools and RePlay, each in an environment of its own: `python -m benchmarks.peers` makes them.

They cannot stand beside this project's pins: RecTools 0.19 wants scipy below 1.13 and pandas below
3, RePlay 0.22 wants pandas below 3, polars below 2 and pyarrow below 24.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "artifacts" / "peers"
WORKER = Path(__file__).with_name("peer_worker.py")
TORCH = "torch==2.13.*"  # ours, so that the libraries are compared and not their torch
PACKAGES = {
    "rectools": ("rectools[torch]==0.19.0", TORCH),
    "replay": ("replay-rec[torch]==0.22.0", "openvino>=2026.1", "onnx", "onnxscript", TORCH),
}
WAYS = {"rectools": "rectools", "replay": "replay", "replay_openvino": "replay"}


def interpreter(package: str) -> Path:
    """Python of a library's environment. Raises BackendUnavailable where there is none."""
    path = FOLDER / package / "bin" / "python"
    if not path.exists():
        raise BackendUnavailable(
            f"{package}: expected its environment in {FOLDER.relative_to(ROOT)}/{package}, got "
            "none; `python -m benchmarks.peers` makes it"
        )
    return path


class Peer:
    """One library in its process: ready inside the `with` block, gone after it.

    Args:
        way: of WAYS.
        histories: [n, length] int64 item indices, oldest first.
        n_items: of the catalogue.
        threads: of torch and OpenVINO.
    """

    def __init__(self, way: str, histories: NDArray[np.int64], n_items: int, threads: int) -> None:
        self._way, self._n_items, self._threads = way, n_items, threads
        self._python = interpreter(WAYS[way])
        self._histories = histories
        self._folder = tempfile.TemporaryDirectory(prefix="peer-")

    def __enter__(self) -> Self:
        """Raises BackendUnavailable, with what it said, where it ended before it was ready."""
        file = Path(self._folder.name) / "histories.npy"
        np.save(file, self._histories)
        self._said = (Path(self._folder.name) / "said").open("w+")
        # -P: the folder of the worker holds modules with names of the standard library.
        command = [self._python, "-P", WORKER, self._way, file, self._n_items, self._threads]
        self._process: Any = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, bufsize=1,
        )  # fmt: skip
        if self._process.stdout.readline().strip() != "ready":
            self._process.wait()
            self._said.seek(0)
            said = self._said.read()[-1000:]
            self.__exit__()
            raise BackendUnavailable(f"{self._way}: expected it ready, got {said}")
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._said.close()
        self._folder.cleanup()

    def ask(self, n: int) -> list[int]:
        """The ten best items after history n; a line there and one back are counted."""
        return self._answer("ask", n)

    def truth(self, n: int) -> list[int]:
        """The same by the network's output and a full sort."""
        return self._answer("truth", n)

    def _answer(self, which: str, n: int) -> list[int]:
        self._process.stdin.write(f"{which} {n}\n")
        answer: list[int] = json.loads(self._process.stdout.readline())
        return answer


def install() -> None:
    """Makes both environments."""
    for package, wanted in PACKAGES.items():
        folder = FOLDER / package
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", *wanted], check=True)


if __name__ == "__main__":
    install()
