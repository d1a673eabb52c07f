"""The data of the report, as its parts read it, each in a process of its own."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.evaluation.candidate_sets import BUCKETS, CandidateSets
from engine.evaluation.protocol import Task, last_cuts, window_before

SETS_FILE = "candidates.npz"


@dataclass(frozen=True)
class Setting:
    """Folders, and the cuts of a dataset.

    Attributes:
        data: prepared dataset.
        work: what is made on the way.
        cuts: (cut, end) in unix seconds, the final one first.
    """

    data: Path
    work: Path
    cuts: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, data: Path, work: Path, n_cuts: int) -> "Setting":
        """The last `n_cuts` windows of 28 days."""
        dataset = Dataset.load(data)
        end = last_cuts(dataset).end
        cuts = []
        for _ in range(n_cuts):
            cut = window_before(dataset, end)
            cuts.append((cut, end))
            end = cut
        return cls(data, work, tuple(cuts))

    def dataset(self) -> Dataset:
        """Read anew: a part's process starts with nothing."""
        return Dataset.load(self.data)

    @cached_property
    def _sets_file(self) -> Path:
        return self.work / SETS_FILE

    def has_candidate_sets(self, key: str) -> bool:
        """Whether the sets of this key were written."""
        if not self._sets_file.exists():
            return False
        with np.load(self._sets_file) as stored:
            return str(stored["key"]) == key

    def write_candidate_sets(self, cut: int, key: str, sets: dict[str, CandidateSets]) -> None:
        """Keeps the sets of a cut's task for the parts that rank them.

        Args:
            key: hash of all that decides them.
        """
        arrays = {"cut": np.array(cut), "key": np.array(key)}
        for place, name in enumerate(BUCKETS):
            own = sets[name]
            arrays |= {
                f"request{place}": own.request,
                f"positive{place}": own.positive,
                f"items{place}": np.concatenate([np.zeros(0, np.int64), *own.items]),
                f"sizes{place}": np.array([len(items) for items in own.items], np.int64),
            }
        self.work.mkdir(parents=True, exist_ok=True)
        np.savez(self._sets_file, **arrays)

    def candidate_sets(self, cut: int) -> dict[str, CandidateSets]:
        """The sets that were written for this cut."""
        with np.load(self._sets_file) as stored:
            assert int(stored["cut"]) == cut, "candidate sets are of another cut"
            found = {}
            for place, name in enumerate(BUCKETS):
                ends = np.cumsum(stored[f"sizes{place}"])
                items = np.split(stored[f"items{place}"], ends[:-1]) if len(ends) else []
                found[name] = CandidateSets(
                    stored[f"request{place}"], items, stored[f"positive{place}"]
                )
        return found


def cold_items(
    dataset: Dataset, cut: int, task: Task
) -> tuple[NDArray[np.int64], dict[int, NDArray[np.int32]]]:
    """Items first seen in the 28 days before `cut`, and whose first purchases they are.

    Returns:
        Item indices, ascending; request of `task` -> those of its target among them that the user
        had not bought before.
    """
    before = dataset.event_time < cut
    first = np.full(len(dataset.item_ids), np.iinfo(np.int64).max)
    np.minimum.at(first, dataset.event_item[before], dataset.event_time[before])
    new = (first >= window_before(dataset, cut)) & (first < cut)
    bought = {}
    for place, (user, target) in enumerate(zip(task.users.tolist(), task.targets, strict=True)):
        own = slice(*dataset.event_offsets[user : user + 2])
        mine = dataset.event_item[own][dataset.event_time[own] < cut]
        found = np.setdiff1d(target[new[target]], mine)
        if len(found):
            bought[place] = found
    return np.flatnonzero(new), bought
