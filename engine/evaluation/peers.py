"""Lists of other libraries' recommenders, trained in the same run on the same past.

A peer is handed the events before the cut and nothing else, so it cannot read its answers. It runs
in an interpreter of its own (`peer_environments`); what goes there and comes back are files.
"""

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.errors import BackendUnavailable

from .peer_environments import interpreter
from .peer_settings import (
    GROCERIES,
    NAMES,
    REVIEWS,
    Name,
    NearestSettings,
    Settings,
    TransformerSettings,
)
from .protocol import Task

LIBRARY = {"sasrec": "rectools", "bert4rec": "rectools", "upcf": "cornac"}
WORKER = Path(__file__).with_name("peer_worker.py")
K = 10


@dataclass(frozen=True)
class Sequences:
    """What a peer may know.

    Attributes:
        offsets: [U + 1] int64. item, session: [E] int64, each user's oldest first; the items of a
            session in the dataset's order, a shuffle that carries nothing.
        held: [E] bool, events that choose when to stop and are never trained on.
    """

    offsets: NDArray[np.int64]
    item: NDArray[np.int64]
    session: NDArray[np.int64]
    held: NDArray[np.bool_]

    @staticmethod
    def before(dataset: Dataset, cut: int, held_from: int | None = None) -> "Sequences":
        """Events before `cut`; those from `held_from` on are held. Both as `event_time`."""
        user = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
        keep = dataset.event_time < cut
        counts = np.bincount(user[keep], minlength=len(dataset.user_ids))
        return Sequences(
            np.concatenate([[0], np.cumsum(counts)]),
            dataset.event_item[keep].astype(np.int64),
            dataset.event_session[keep].astype(np.int64),
            dataset.event_time[keep] >= (cut if held_from is None else held_from),
        )

    def last_held(self) -> "Sequences":
        """The same with the last event of everyone who has three held."""
        held = np.zeros(len(self.item), np.bool_)
        held[self.offsets[1:][np.diff(self.offsets) >= 3] - 1] = True
        return replace(self, held=held)


@dataclass(frozen=True)
class PeerResult:
    """What a peer answered, and how it came to it.

    Attributes:
        lists: [Q, k] int64 item indices, best first, -1 pads: of all items that it knows.
        discovery: the same without the items of the user's history.
        minutes: of training, validation included; answer_minutes: of both lists for all users.
        epochs: passes done; kept: those of the weights of the lowest validation loss.
        stopped_by: "epochs", "early stopping" or "time".
        events: trained on, at most: a peer reads the last `session_max_len` of each user.
        settings, versions: of the peer and its libraries.
    """

    lists: NDArray[np.int64]
    discovery: NDArray[np.int64]
    minutes: float
    answer_minutes: float
    epochs: float
    kept: float
    stopped_by: str
    events: int
    settings: dict[str, Any]
    versions: dict[str, str]


def next_session_lists(
    name: Name,
    dataset: Dataset,
    task: Task,
    work: Path,
    *,
    minutes: float = 10.0,
    threads: int = 2,
    seed: int = 0,
    settings: Settings | None = None,
) -> PeerResult:
    """A peer's lists for the requests of `next_session`, of what everyone did before the cut.

    SASRec and BERT4Rec stop by the last event before the cut, which they do not train on but read.
    Arguments as in `peer_lists`; settings: None: those of GROCERIES.
    """
    past = Sequences.before(dataset, task.cut)
    return peer_lists(
        name,
        past if name == "upcf" else past.last_held(),
        task.users,
        settings or GROCERIES[name],
        asked=past,
        minutes=minutes,
        threads=threads,
        seed=seed,
        work=work,
    )


def leave_one_out_lists(
    name: Name,
    dataset: Dataset,
    cuts: tuple[int, int],
    users: NDArray[np.int64],
    work: Path,
    *,
    protocol: Literal["strict", "refit"] = "strict",
    split: Literal["validation", "test"] = "test",
    epochs: int | None = None,
    minutes: float = 10.0,
    threads: int = 2,
    seed: int = 0,
    settings: Settings | None = None,
) -> PeerResult:
    """A peer's lists for what everyone did at the validation or the test cut of leave-one-out.

    `strict` never trains on the validation item, but stops by it. `refit` trains on it for `epochs`
    (those that strict kept), and is asked at the test cut only.

    Args:
        cuts: orders of the validation and the test item.
        users: of `next_items`.
        settings: None: those of REVIEWS. The rest as in `peer_lists`.
    Raises:
        ValueError: refit asked at the validation cut, or what `peer_lists` refuses.
    """
    validation, test = cuts
    if protocol == "refit" and split == "validation":
        raise ValueError("peers: split: expected test for refit, which trained on the validation")
    held_from = validation if protocol == "strict" else None
    return peer_lists(
        name,
        Sequences.before(dataset, test, held_from),
        users,
        settings or REVIEWS[name],
        asked=Sequences.before(dataset, test if split == "test" else validation),
        epochs=epochs,
        minutes=minutes,
        threads=threads,
        seed=seed,
        work=work,
    )


def peer_lists(
    name: Name,
    train: Sequences,
    users: NDArray[np.int64],
    settings: Settings,
    *,
    asked: Sequences | None = None,
    k: int = K,
    epochs: int | None = None,
    minutes: float = 10.0,
    threads: int = 2,
    seed: int = 0,
    work: Path,
) -> PeerResult:
    """Trains a peer and asks it for every user, once of all items and once of new ones.

    Args:
        name: of NAMES.
        train: what is trained on; held events choose the epoch whose weights are kept.
        users: [Q] distinct user indices.
        settings: TransformerSettings, or NearestSettings for "upcf".
        asked: histories to answer to; None: those of `train`.
        k: length of a list.
        epochs: at most, as held events may end it; None: the settings' `max_epochs`.
        minutes: after which training stops where it is.
        threads: of the peer's process.
        seed: of weights, draws and order.
        work: folder in which the files of the exchange lie meanwhile.
    Raises:
        ValueError: an argument outside the above.
        BackendUnavailable: the library's environment is missing, or it ended with an error.
    """
    _check(name, train, users, settings, k, epochs, minutes, threads)
    python = interpreter(LIBRARY[name])
    request = {
        "name": name, "settings": settings.model_dump(), "k": k, "epochs": epochs,
        "minutes": minutes, "threads": threads, "seed": seed,
    }  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="peer-", dir=work) as name_of_folder:
        folder = Path(name_of_folder)
        (folder / "request.json").write_text(json.dumps(request))
        arrays = _arrays("train", train) | _arrays("asked", train if asked is None else asked)
        np.savez(folder / "sequences.npz", users=users, **arrays)
        _run(name, python, folder, threads)
        with np.load(folder / "lists.npz") as found:
            lists, discovery = found["lists"], found["discovery"]
        answer = json.loads((folder / "answer.json").read_text())
    return PeerResult(lists, discovery, settings=settings.model_dump(), **answer)


def _arrays(which: str, sequences: Sequences) -> dict[str, NDArray[Any]]:
    return {f"{which}_{field}": value for field, value in vars(sequences).items()}


def _check(
    name: str,
    train: Sequences,
    users: NDArray[np.int64],
    settings: Settings,
    k: int,
    epochs: int | None,
    minutes: float,
    threads: int,
) -> None:
    if name not in NAMES:
        raise ValueError(f"peers: name: expected one of {NAMES}, got {name!r}")
    wanted = NearestSettings if name == "upcf" else TransformerSettings
    if not isinstance(settings, wanted):
        raise ValueError(
            f"peers: settings: expected {wanted.__name__} for {name}, got {type(settings).__name__}"
        )
    n_users = len(train.offsets) - 1
    if len(np.unique(users)) < len(users) or np.any((users < 0) | (users >= n_users)):
        raise ValueError(f"peers: users: expected distinct indices below {n_users}, got others")
    if name != "upcf" and epochs is None and not train.held.any():
        raise ValueError(
            "peers: train: expected held events to stop by, or epochs, got neither: see last_held"
        )
    for argument, value, least in (
        ("k", k, 1), ("epochs", 1 if epochs is None else epochs, 1), ("threads", threads, 1),
    ):  # fmt: skip
        if value < least:
            raise ValueError(f"peers: {argument}: expected at least {least}, got {value}")
    if not minutes > 0:
        raise ValueError(f"peers: minutes: expected more than 0, got {minutes}")


def _run(name: str, python: Path, folder: Path, threads: int) -> None:
    """The worker, in its own interpreter."""
    libraries = ("OMP", "MKL", "OPENBLAS")
    environment = os.environ | {f"{library}_NUM_THREADS": str(threads) for library in libraries}
    # -P: the folder of the worker holds modules with names of other libraries.
    command = [str(python), "-P", str(WORKER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing"]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        raise BackendUnavailable(
            f"{name}: expected lists of {LIBRARY[name]}, "
            f"got status {done.returncode} and {(errors or lines)[-1][:500]}"
        )
