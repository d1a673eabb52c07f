"""RecTools and RePlay in a process each: `python -m benchmarks.peers` makes their environments."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable
from engine.evaluation.peer_environments import FOLDER, install, interpreter

WORKER = Path(__file__).with_name("peer_worker.py")
WAYS = {"rectools": "rectools", "replay": "replay", "replay_openvino": "replay"}


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
        self._python = interpreter(WAYS[way], FOLDER)
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


if __name__ == "__main__":
    install(sorted(set(WAYS.values())))
