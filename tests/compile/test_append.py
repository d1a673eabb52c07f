"""Appending to kept keys and values equals encoding the whole window."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from engine.compile.append import OUTPUTS, AppendGraph, append_inputs
from engine.compile.graph import FIELDS
from engine.compile.onnx import export_append
from engine.model.build import model_data
from engine.model.stars import Stars
from tests.tiny import encoded, random_inputs, tiny_config, tiny_shop, trained_like

WINDOW = 40
BY_EVENT = ("rows", *FIELDS, "day", "signals")


def tiny_model(**changes: Any) -> Stars:
    torch.manual_seed(0)
    data = replace(model_data(tiny_shop()), n_event_types=3)
    return trained_like(Stars(tiny_config(window=WINDOW, hop=10, **changes).model, data)).eval()


MODEL = tiny_model()


class Cache:
    """A user's kept keys and values, as a server would hold them."""

    def __init__(
        self,
        model: Stars,
        inputs: dict[str, NDArray[Any]],
        padding: int = 0,
        graph: Any = None,
    ) -> None:
        self.graph = AppendGraph(model).eval() if graph is None else graph
        self.inputs, self.padding = inputs, padding
        batch, config = len(inputs["length"]), model.config
        empty = torch.zeros(batch, config.layers, config.heads, 0, config.d_model // config.heads)
        self.key, self.value = empty.transpose(3, 4), empty
        self.day = torch.zeros(batch, 0, dtype=torch.int32)
        self.done = 0

    def append(self, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both vectors after n more events."""
        new = {name: tensor(self.inputs[name]) for name in self.graph.inputs if name in self.inputs}
        for name in set(BY_EVENT) & set(new):
            new[name] = new[name][:, self.done : self.done + n]
        batch = len(new["rows"])
        is_user = torch.zeros(batch, n, dtype=torch.int32)
        if self.done == 0:
            for name in set(BY_EVENT) & set(new):
                new[name] = torch.cat([new[name][:, :1], new[name]], dim=1)
            is_user = torch.cat([torch.ones(batch, 1, dtype=torch.int32), is_user], dim=1)
        filled = self.value.shape[3]
        given = new | {
            "is_user": is_user,
            # Padding that anybody read would be seen in every number.
            "past_key": torch.nn.functional.pad(self.key, (0, self.padding), value=1e3),
            "past_value": torch.nn.functional.pad(self.value, (0, 0, 0, self.padding), value=1e3),
            "past_length": torch.full((batch,), filled, dtype=torch.int32),
            "past_day": torch.nn.functional.pad(self.day, (0, self.padding)),
        }
        with torch.no_grad():
            h_next, h_gen, key, value = self.graph(*(given[name] for name in self.graph.inputs))
        assert key.shape == (*self.key.shape[:4], is_user.shape[1])
        self.key = torch.cat([self.key, key], dim=4)
        self.value = torch.cat([self.value, value], dim=3)
        if "day" in new:
            self.day = torch.cat([self.day, new["day"]], dim=1)
        self.done += n
        return h_next.numpy(), h_gen.numpy()


def tensor(array: NDArray[Any]) -> Tensor:
    wide = torch.from_numpy(array)
    return wide.float() if wide.is_floating_point() else wide.int()


def window(model: Stars, batch: int, length: int, seed: int) -> dict[str, NDArray[Any]]:
    inputs = random_inputs(model, batch, length, seed=seed)
    return inputs | {"length": np.full(batch, length, inputs["length"].dtype)}


def first(inputs: dict[str, NDArray[Any]], n: int) -> dict[str, NDArray[Any]]:
    """The first n events of a window."""
    cut = {name: inputs[name][:, :n] for name in BY_EVENT}
    return inputs | cut | {"length": np.full_like(inputs["length"], n)}


def compare(model: Stars, inputs: dict[str, NDArray[Any]], pieces: list[int], **cache: Any) -> None:
    kept = Cache(model, inputs, **cache)
    for n in pieces:
        got = kept.append(n)
        expected = encoded(model, first(inputs, kept.done))
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("pieces", [[1], [40], [39, 1], [1, 1, 1, 1], [20, 3, 7], [5, 35]], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_pieces_give_what_the_whole_gives(batch: int, pieces: list[int]) -> None:
    compare(MODEL, window(MODEL, batch, sum(pieces), seed=sum(pieces)), pieces)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 5))
def test_any_pieces_and_any_padding(pieces: list[int], padding: int) -> None:
    compare(MODEL, window(MODEL, 2, sum(pieces), seed=7), pieces, padding=padding)


@pytest.mark.parametrize("changes", [{"day_bias": False}, {"layers": 1}, {"heads": 1}], ids=str)
def test_other_shapes_of_the_model(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    compare(model, window(model, 2, 12, seed=3), [8, 3, 1])


class Exported:
    """The graph as ONNX Runtime runs it, called like the module."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path))
        self.inputs = [node.name for node in self.session.get_inputs()]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = {name: x.numpy() for name, x in zip(self.inputs, tensors, strict=True)}
        return tuple(map(torch.from_numpy, self.session.run(OUTPUTS, given)))


def test_the_exported_graph_gives_the_same(tmp_path: Path) -> None:
    export_append(MODEL, tmp_path / "append.onnx")
    graph = Exported(tmp_path / "append.onnx")
    assert graph.inputs == list(append_inputs(MODEL))
    for batch, pieces in ((1, [20, 3, 1]), (3, [1, 1, 7]), (2, [40])):
        inputs = window(MODEL, batch, sum(pieces), seed=4)
        compare(MODEL, inputs, pieces, padding=batch - 1, graph=graph)


def test_a_planted_error_is_seen() -> None:
    """A key too many, of the padding, changes what is computed."""
    inputs = window(MODEL, 1, 6, seed=1)
    kept = Cache(MODEL, inputs, padding=2)
    kept.append(5)
    kept.key = torch.nn.functional.pad(kept.key, (0, 1))
    kept.value = torch.nn.functional.pad(kept.value, (0, 0, 0, 1))
    kept.day = torch.nn.functional.pad(kept.day, (0, 1))
    got = kept.append(1)
    assert not np.allclose(got[0], encoded(MODEL, inputs)[0], rtol=1e-4, atol=2e-5)


def test_a_bidirectional_model_keeps_nothing() -> None:
    with pytest.raises(ValueError, match="append: pooling: expected 'causal', got 'cls'"):
        AppendGraph(tiny_model(pooling="cls"))
