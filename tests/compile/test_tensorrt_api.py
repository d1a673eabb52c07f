"""The names of TensorRT that are called exist in its published bindings, old and new."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import engine.compile.bridge
import engine.compile.fused
import engine.compile.inspect
import engine.compile.tensorrt
import engine.runtime.tensorrt
from tests.compile.bindings import MEMBER, library, strings, takes

API: dict[str, Any] = json.loads(
    (Path(engine.compile.tensorrt.__file__).parent / "tensorrt_api.json").read_text()
)
# Where only some functions meet an object of TensorRT, only they count.
SOURCES = (
    engine.compile.tensorrt, engine.runtime.tensorrt, engine.compile.inspect.inspect_network,
    engine.compile.bridge.register, engine.compile.fused.build_fused_plan,
)  # fmt: skip
OBJECTS = {
    "trt", "trtp", "launch", "module", "builder", "network", "parser", "config", "profile",
    "cache", "layer", "output", "tensor", "engine", "context", "_runtime", "_engine",
    "_context",
}  # fmt: skip


def called() -> set[str]:
    """Attributes that the modules take from objects of TensorRT."""
    found = set()
    for part in SOURCES:
        for node in ast.walk(ast.parse(inspect.getsource(part))):
            if not isinstance(node, ast.Attribute):
                continue
            chain = [node.attr]
            value: ast.AST = node.value
            while isinstance(value, ast.Attribute | ast.Call):
                if isinstance(value, ast.Attribute):
                    chain.append(value.attr)
                value = value.func if isinstance(value, ast.Call) else value.value
            owners = {value.id, *chain[1:]} if isinstance(value, ast.Name) else set(chain[1:])
            if owners & OBJECTS and node.attr not in OBJECTS:
                found.add(node.attr)
    return found


def test_the_list_is_what_is_called() -> None:
    listed = {*API["uses"], *API["only_tensorrt_rtx"], *API["python"]}
    # Of a dtype or layer type, or of a kernel's layer: not of TensorRT's objects alone.
    others = {"name", "plugin", "inputs", "outputs", "start", "ptx_version"}
    assert called() - others == listed - others


def test_nothing_removed_is_called() -> None:
    assert not called() & set(API["removed_in_11"])


def test_cards_are_named_for_rtx_alone() -> None:
    """Full TensorRT has no such names: each call of them stands behind `tensorrt-rtx`."""
    tree = ast.parse(inspect.getsource(engine.compile.tensorrt.build_plan))
    branches = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "target == 'tensorrt-rtx'"
    ]
    assert len(branches) == 1
    inside = {n.attr for s in branches[0].body for n in ast.walk(s) if isinstance(n, ast.Attribute)}
    everywhere = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert set(API["only_tensorrt_rtx"]) <= inside
    elsewhere = {
        n.attr
        for s in (*branches[0].orelse, *[x for x in tree.body[0].body if x is not branches[0]])
        for n in ast.walk(s)
        if isinstance(n, ast.Attribute)
    }
    assert everywhere == inside | elsewhere
    assert not elsewhere & set(API["only_tensorrt_rtx"])


def check(surface: list[str], version: tuple[int, ...]) -> None:
    names = set(surface)
    assert len(names) > 1000, "the library was not read as it should be"
    assert not set(API["uses"]) - names
    for method, given in API["uses"].items():
        assert takes(surface, method, given), method
    assert not names & set(API["only_tensorrt_rtx"])
    still = names & set(API["removed_in_11"])
    assert still == (set() if version >= (11,) else set(API["removed_in_11"]))


@pytest.mark.parametrize("wheel", API["verified"])
def test_a_published_wheel_has_them(tmp_path: Path, wheel: str) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path),
        "--only-binary", ":all:", wheel,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{wheel} could not be fetched in two minutes: its API was not compared")
    files = list(tmp_path.glob("*.whl"))
    if done.returncode or not files:
        pytest.skip(f"{wheel} could not be fetched: its API was not compared")
    version = tuple(int(part) for part in wheel.split("==")[1].split("."))
    check(strings(library(files[0])), version)
    with zipfile.ZipFile(files[0]) as archive:
        for name, member in API["python"].items():
            assert name in archive.read(member).decode(), name


def test_the_installed_wheel_has_them() -> None:
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None or spec.origin is None:
        pytest.skip("the bindings wheel of TensorRT is not installed: its API was not compared")
    check(strings(library(Path(spec.origin).parent / Path(MEMBER).name)), (11,))


def test_a_name_that_is_not_there_is_noticed() -> None:
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None or spec.origin is None:
        pytest.skip("the bindings wheel of TensorRT is not installed: its API was not compared")
    surface = strings(library(Path(spec.origin).parent / Path(MEMBER).name))
    with pytest.raises(AssertionError):
        check([text for text in surface if text != "set_timing_cache"], (11,))
    with pytest.raises(AssertionError):
        check([*surface, "int8_calibrator"], (11,))
    assert takes(surface, "set_timing_cache", ["cache", "ignore_mismatch"])
    assert not takes(surface, "set_timing_cache", ["no_such_argument"])
