"""Every method's lists at one cut, of parts that were made, and its baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.evaluation import baselines
from engine.evaluation.evaluate import STRATEGIES, K, baseline_lists
from engine.evaluation.protocol import Task, next_session
from engine.training.history import Past, past

from .measures import Values, values_of
from .stars_part import of_requests

DISCOVERY = "discovery_"
Lists = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Study:
    """One cut.

    Attributes:
        dataset: of the shop.
        cut, end: unix seconds.
        parts: method -> result of its part at this cut: "full", "lambdamart", "sasrec", …
        repeat_types: of the model.
    """

    dataset: Dataset
    cut: int
    end: int
    parts: Mapping[str, Mapping[str, Any]]
    repeat_types: tuple[str, ...] = ("purchase",)

    @cached_property
    def task(self) -> Task:
        """First sessions after the cut."""
        return next_session(self.dataset, self.cut, self.end)

    @cached_property
    def history(self) -> Past:
        """The past of all methods."""
        return past(self.dataset, self.cut, 1.0, self.repeat_types)

    def rows(self, part: str, name: str) -> NDArray[np.int64]:
        """A list [Q, 10] of a part."""
        return np.array(self.parts[part]["lists"][name], np.int64).reshape(-1, K)

    @cached_property
    def lists(self) -> Lists:
        """Every method's ten of the whole catalogue."""
        found: Lists = {name: self.rows("full", name) for name in STRATEGIES}
        found |= {name: self.rows(name, "lists") for name in self._others}
        return found | baseline_lists(self.history, self.task)

    @cached_property
    def values(self) -> Values:
        """method -> measure -> [Q]."""
        return values_of(self.lists, self.task.targets)

    @cached_property
    def new_targets(self) -> tuple[NDArray[np.int64], list[NDArray[np.int32]]]:
        """Requests with an item that the household never bought, and those items."""
        places, targets = [], []
        for place, (user, target) in enumerate(
            zip(self.task.users.tolist(), self.task.targets, strict=True)
        ):
            own = self.history.item[self.history.events(user)]
            new = np.setdiff1d(target, own)
            if len(new):
                places.append(place)
                targets.append(new)
        return np.array(places, np.int64), targets

    @cached_property
    def discovery(self) -> Lists:
        """Every method's ten of what the household never bought, of `new_targets`' requests."""
        places, _ = self.new_targets
        found: Lists = {name: self.rows("full", DISCOVERY + name)[places] for name in STRATEGIES}
        found |= {name: self.rows(name, "discovery")[places] for name in self._others}
        asked = of_requests(self.task, places)
        return found | {"popularity": baselines.new_popularity(self.history, asked, K)}

    @property
    def _others(self) -> list[str]:
        """Methods that are not ours."""
        return [name for name, part in self.parts.items() if "discovery" in part["lists"]]
