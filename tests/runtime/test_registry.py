"""Runtimes by name, and what is said of those that cannot run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.cli import app
from engine.config import Preset, load_config
from engine.errors import BackendUnavailable, ConfigError
from engine.runtime import registry
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.runtime.openvino import OpenVinoEncoder
from engine.runtime.registry import choose, open_graph, open_plan, statuses
from tests.runtime.graphs import write_graph

PRESETS: tuple[Preset, ...] = ("small", "paper")
NAMES = ["torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]


def test_graphs_open_by_name(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "encode.onnx")
    for runtime, kind in (("onnxruntime", OnnxEncoder), ("openvino", OpenVinoEncoder)):
        choice = choose(f"{runtime}-fp32", load_config("small").model.model_dump())
        assert choice == (runtime, "fp32", "asked for")
        assert isinstance(open_graph(choice, path, window=20), kind)


def test_the_automatic_choice_says_why() -> None:
    small, paper = (choose("auto", load_config(name).model.model_dump()) for name in PRESETS)
    assert small[:2] == ("onnxruntime", "fp32")
    assert small.reason == "0.4 million multiply-adds an event, int8 pays from 4 on"
    assert paper[:2] == ("openvino", "int8")
    with pytest.raises(
        ConfigError, match=r"encoder: expected auto, or onnxruntime .*, got 'torch'"
    ):
        choose("torch", {})


def test_a_missing_runtime_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match=r"runtime tensorrt: .*stars-engine\[gpu\]"):
        open_plan("tensorrt", tmp_path / "encode.plan")


def test_every_runtime_is_listed() -> None:
    found = {status.name: status for status in statuses()}
    assert list(found) == NAMES
    for name in ("torch", "onnxruntime", "openvino"):
        assert found[name].available
        assert found[name].detail[0].isdigit()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnxruntime", "openvino", "torch", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    for status in statuses():
        assert not status.available
        assert status.detail.startswith("expected the package")
        assert "pip install" in status.detail


def test_a_package_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    monkeypatch.setattr(registry, "driver_branch", lambda: None)
    status = {status.name: status for status in statuses()}["tensorrt-rtx"]
    assert status == (
        "tensorrt-rtx",
        False,
        "expected an NVIDIA GPU with its driver, got none; it builds engines here all the same",
    )
    monkeypatch.setattr(registry, "driver_branch", lambda: 580)
    status = {status.name: status for status in statuses()}["tensorrt-rtx"]
    assert status.available
    assert status.detail.endswith("driver 580")


def test_the_command_shows_them() -> None:
    result = CliRunner().invoke(app, ["runtimes"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name in NAMES:
        assert name in result.output
    # What stands in brackets is an extra, not markup.
    assert "stars-engine[gpu]" in result.output or statuses()[3].available
