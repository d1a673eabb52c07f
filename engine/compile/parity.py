"""Parity: what every runtime and precision answers, beside torch in fp32.

Random weights are compared by the cosine of both vectors. A trained model is compared by what its
users would see, on their real sequences: the ten best items of the catalogue by h·c + b, of both
vectors, and NDCG@10 of the lists that are served. The ten are those of the plain scan: repeats,
which the lists have too, come from another network and would hide the encoder's error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.errors import CompileError
from engine.evaluation import metrics
from engine.evaluation.evaluate import recommended
from engine.evaluation.protocol import Task
from engine.retrieval.exact import ExactIndex
from engine.retrieval.index import TopK
from engine.retrieval.mask import pack_mask
from engine.runtime.inputs import Encoder, Vectors
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.runtime.openvino import OpenVinoEncoder
from engine.runtime.registry import open_plan, statuses
from engine.runtime.sidecar import Bucket
from engine.runtime.torch import TorchEncoder
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.store.users import UserRecord

from .subject import Subject

_K = 10
_HEADS: tuple[Any, ...] = ("next", "general")


class Bound(NamedTuple):
    """What passes parity in a precision.

    Attributes:
        cosine: at least, of either vector of any user.
        overlap: at least, of the ten best; None: the same ten but for swaps inside the score error.
        ndcg: at most, relative difference in either direction.
    """

    cosine: float
    overlap: float | None
    ndcg: float


BOUNDS = {
    "fp32": Bound(0.999999, None, 0.01),
    "fp16": Bound(0.999, 0.995, 0.01),
    "bf16": Bound(0.999, 0.995, 0.01),
    "int8": Bound(0.99, 0.98, 0.01),
}
# What fp32 loses of a score in sums of a thousand terms through a few layers, as a share of
# |h| max |c|: items that are nearer than twice this may change places.
SCORE_ERROR = 1e-5
PRECISIONS: dict[str, tuple[str, ...]] = {
    "torch": ("fp16", "bf16"),  # in fp32 it is what all are compared with
    "onnxruntime": ("fp32", "fp16", "int8"),  # it has no products in bf16 on a CPU
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt": ("fp16", "bf16", "int8"),
    "tensorrt-rtx": ("fp16", "bf16", "int8"),
}
PLANS = ("tensorrt", "tensorrt-rtx")


class Parity(NamedTuple):
    """A runtime in a precision, beside torch in fp32.

    Attributes:
        cosine_min: the smallest of either vector of any user.
        top10_overlap: share of the reference's ten best, mean over users and vectors.
        ndcg_delta: NDCG@10 over the reference's, minus 1; of the worse vector.
        score_error: what the list loses of the reference's scores, as a share of |h| max |c|.
    All but the cosine are None for random weights.
    """

    runtime: str
    precision: str
    weights: str
    cosine_min: float
    top10_overlap: float | None
    ndcg_delta: float | None
    score_error: float | None

    def row(self) -> dict[str, Any]:
        """As compile.json has it."""
        made = self._asdict()
        del made["score_error"]
        return made

    def breaches(self) -> list[str]:
        """A sentence for each bound that does not hold."""
        bound, found = BOUNDS[self.precision], []
        # Written so that NaN breaks every bound.
        if not self.cosine_min >= bound.cosine:
            found.append(f"cosine_min: expected at least {bound.cosine}, got {self.cosine_min:.6f}")
        overlap, delta, error = self.top10_overlap, self.ndcg_delta, self.score_error
        if overlap is None or delta is None or error is None:
            return found
        if bound.overlap is None and not error <= 2 * SCORE_ERROR:
            found.append(
                f"top10_overlap: expected no swaps but inside the score error {SCORE_ERROR}, "
                f"got {overlap:.4f} with {error:.2g}"
            )
        if bound.overlap is not None and not overlap >= bound.overlap:
            found.append(f"top10_overlap: expected at least {bound.overlap}, got {overlap:.4f}")
        if not abs(delta) <= bound.ndcg:
            found.append(f"ndcg_delta: expected at most {bound.ndcg}, got {delta:+.4f}")
        return found


def check(rows: Iterable[Parity]) -> None:
    """Raises CompileError that names every row and bound that does not hold."""
    broken = [
        f"{row.runtime} {row.precision} ({row.weights}): {breach}"
        for row in rows
        for breach in row.breaches()
    ]
    if broken:
        raise CompileError("parity: " + "; ".join(broken))


def runnable() -> list[tuple[str, str]]:
    """Runtime and precision of everything that this machine can run."""
    available = {status.name for status in statuses() if status.available}
    return [(name, each) for name in PRECISIONS if name in available for each in PRECISIONS[name]]


def open_encoder(
    runtime: str,
    precision: str,
    subject: Subject,
    graphs: Mapping[str, Path],
    plans: Mapping[tuple[str, str], Path],
    threads: int,
) -> Encoder:
    """The encoder of one row.

    Args:
        graphs: encode graphs by precision.
        plans: by runtime and precision.
    Raises:
        ValueError: no such runtime; and what the runtimes raise.
    """
    if runtime == "torch":
        return TorchEncoder(subject.model, precision=precision)
    if runtime == "onnxruntime":
        return OnnxEncoder(graphs[precision], threads)
    if runtime == "openvino":
        exact = precision in ("fp32", "fp16")  # else it computes in bf16
        whole = (Bucket(1, subject.config.model.window),)  # as a server has it
        return OpenVinoEncoder(graphs[precision], threads, whole, exact)
    if runtime in PLANS:
        return open_plan(runtime, plans[runtime, precision])  # type: ignore[arg-type]
    raise ValueError(f"parity: runtime: expected one of {list(PRECISIONS)}, got {runtime!r}")


class Judge:
    """Compares encoders with torch in fp32 on a subject's sequences.

    Args:
        subject: trained, its users with a known next session are compared; random, all users.
        threads: of the reference, and of search.
    """

    def __init__(self, subject: Subject, threads: int = 1) -> None:
        self.subject = subject
        self._lists: _Lists | None = None
        if subject.bundle is None:
            users = np.arange(len(subject.dataset.user_ids))
        else:
            task = subject.task()
            users = task.users
            self._lists = _Lists(subject, subject.bundle, task, threads)
        self.batches = subject.batches(users)
        self.reference = self._encode(TorchEncoder(subject.model))
        if self._lists is not None:
            self._best = self._lists.best(self.reference)
            self._ndcg = self._lists.ndcg(self.reference)

    def compare(self, runtime: str, precision: str, encoder: Encoder) -> Parity:
        """The row of one encoder."""
        vectors = self._encode(encoder)
        cosine = lowest_cosine(vectors, self.reference)
        weights = self.subject.weights
        if self._lists is None:
            return Parity(runtime, precision, weights, cosine, None, None, None)
        best, error = self._lists.best(vectors), 0.0
        for ours, theirs, h in zip(best, self._best, self.reference, strict=True):
            error = max(error, self._lists.lost(ours, theirs, h))
        overlap = float(np.mean([_overlap(x, y) for x, y in zip(best, self._best, strict=True)]))
        ndcg = zip(self._lists.ndcg(vectors), self._ndcg, strict=True)
        delta = max((ours / theirs - 1 for ours, theirs in ndcg), key=abs)
        return Parity(runtime, precision, weights, cosine, overlap, delta, error)

    def _encode(self, encoder: Encoder) -> Vectors:
        parts = [encoder.encode(batch) for batch in self.batches]
        h_next, h_gen = (np.concatenate(each) for each in zip(*parts, strict=True))
        return h_next, h_gen


def parity(
    judge: Judge,
    graphs: Mapping[str, Path],
    plans: Mapping[tuple[str, str], Path],
    threads: int,
    which: Sequence[tuple[str, str]],
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Parity]:
    """A row for each runtime and precision of `which`; see `open_encoder`."""
    for runtime, precision in which:
        progress(f"parity: {runtime} {precision}")
        encoder = open_encoder(runtime, precision, judge.subject, graphs, plans, threads)
        yield judge.compare(runtime, precision, encoder)


def lowest_cosine(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
    """The smallest cosine of two users' vectors, of either kind."""
    lowest = 1.0
    for x, y in zip(ours, theirs, strict=True):
        x, y = x.astype(np.float64), y.astype(np.float64)
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        lowest = float(np.minimum(lowest, ((x * y).sum(axis=1) / lengths).min()))
    return lowest


class _Lists:
    """What a trained bundle would show for given vectors of the task's users."""

    def __init__(self, subject: Subject, bundle: Bundle, task: Task, threads: int) -> None:
        self._dataset, self._task = subject.dataset, task
        self._users: Any = _WithVectors(bundle)
        # Only stored vectors are asked for: the encoder never runs.
        self._recommender = Recommender(
            replace(bundle, users=self._users), Options(threads), TorchEncoder(subject.model)
        )
        self._candidates, self._bias = subject.candidates, subject.bias
        self._index = ExactIndex(self._candidates, self._bias, threads)
        self._mask = np.tile(pack_mask(bundle.items["active"]), (len(task.users), 1))
        self._names = [name.decode() for name in self._dataset.user_ids[task.users].tolist()]

    def best(self, vectors: Vectors) -> tuple[TopK, TopK]:
        """The ten best items of the catalogue, by each vector."""
        h_next, h_gen = (self._index.search(h, _K, self._mask) for h in vectors)
        return h_next, h_gen

    def lost(self, ours: TopK, theirs: TopK, h: NDArray[np.float32]) -> float:
        """The most that a place of `ours` has less than in `theirs`, by the reference's scores.

        Args:
            h: [Q, D], the reference's vectors.
        Returns:
            A share of |h| max |c|.
        """
        wide = h.astype(np.float64)[:, :, None]
        exact = [
            (self._candidates[found.items].astype(np.float64) @ wide)[:, :, 0]
            + self._bias[found.items]
            for found in (ours, theirs)
        ]
        largest = np.linalg.norm(self._candidates, axis=1).max()
        scale = np.linalg.norm(h, axis=1)[:, None] * largest
        return float((np.abs(exact[0] - exact[1]) / scale).max())

    def ndcg(self, vectors: Vectors) -> tuple[float, float]:
        """NDCG@10 of what is served by each vector: with context, prior and repeats."""
        self._users.vectors = dict(zip(self._names, zip(*vectors, strict=True), strict=True))
        means = []
        for head in _HEADS:
            rows = recommended(self._recommender, self._dataset, self._task, head)
            values = metrics.per_request(rows, self._task.targets)["ndcg@10"]
            means.append(float(values.mean()))
        return means[0], means[1]


class _WithVectors:
    """A bundle's users with other vectors; all else is the bundle's.

    Attributes:
        vectors: h_next and h_gen by user id.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._users = bundle.users
        self.vectors: Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = {}

    def get_many(self, user_ids: Sequence[str]) -> list[UserRecord | None]:
        """The stored records with the vectors given here."""
        found = []
        for user_id, record in zip(user_ids, self._users.get_many(user_ids), strict=True):
            if record is not None:
                h_next, h_gen = self.vectors[user_id]
                record = replace(record, h_next=h_next, h_gen=h_gen)
            found.append(record)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._users, name)

    def __len__(self) -> int:
        return len(self._users)


def _overlap(ours: TopK, theirs: TopK) -> float:
    """Mean share of the second's items that the first has too."""
    same = (ours.items[:, :, None] == theirs.items[:, None, :]).any(axis=1)
    return float(same.mean())
