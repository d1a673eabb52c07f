"""What lies beside a plan, and every reason for which a plan is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BundleError
from engine.runtime.sidecar import (
    Bucket,
    Machine,
    Sidecar,
    driver_floor,
    read_plan,
    sha256,
    sidecar_path,
    write_plan,
)

CONTENT, GRAPH = b"plan", sha256(b"graph")
HERE = Machine("10.13.2.6", 90, 580)


def sidecar(**changes: Any) -> Sidecar:
    given = {
        "target": "tensorrt", "version": "10.13.2.6", "version_compatible": False, "sm": (80, 90),
        "driver_floor": 580, "ptx_version": None, "precision": "fp16", "buckets": (Bucket(1, 200),),
        "graph_sha256": GRAPH, "plan_sha256": sha256(CONTENT),
    }  # fmt: skip
    return Sidecar(**given | changes)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "encode.plan"
    write_plan(path, CONTENT, sidecar())
    return path


def test_a_plan_comes_back(plan: Path) -> None:
    assert read_plan(plan, "tensorrt", HERE, GRAPH) == (CONTENT, sidecar())
    assert read_plan(plan, "tensorrt", HERE) == (CONTENT, sidecar())
    assert json.loads(sidecar_path(plan).read_text())["buckets"] == [[1, 200]]


@pytest.mark.parametrize(
    ("machine", "graph", "text"),
    [
        (HERE._replace(version="11.4.0.106"), GRAPH, r"10.13.2.6, .* has 11.4.0.106: rebuild"),
        (HERE._replace(sm=89), GRAPH, r"for sm_80, sm_90, this card is sm_89: .* --sm 89 among"),
        (HERE._replace(driver=575), GRAPH, r"needs driver 580 or later, this machine has 575: upd"),
        (HERE, sha256(b"other"), r"the bundle has \w{12}: rebuild the tensorrt plan from this"),
    ],
)
def test_a_mismatch_says_what_to_rebuild(
    plan: Path, machine: Machine, graph: str, text: str
) -> None:
    with pytest.raises(BundleError, match=rf"encode\.plan: .*{text}"):
        read_plan(plan, "tensorrt", machine, graph)


def test_a_plan_with_other_item_tables(tmp_path: Path) -> None:
    path, ours = tmp_path / "fused.plan", sha256(b"tables")
    made = sidecar(ptx_version=83, k_max=100, tables_sha256=ours)
    write_plan(path, CONTENT, made)
    assert read_plan(path, "tensorrt", HERE, GRAPH, ours) == (CONTENT, made)
    assert read_plan(path, "tensorrt", HERE)[1].k_max == 100
    text = r"holds the item tables \w{12}, the bundle has \w{12}: rebuild the tensorrt plan"
    with pytest.raises(BundleError, match=text):
        read_plan(path, "tensorrt", HERE, GRAPH, sha256(b"refreshed"))


@pytest.mark.parametrize(
    ("built", "here", "loads"),
    [
        ("10.13.2.6", "10.14.1.48.post1", True), ("10.13.2.6", "10.12.0.36", False),
        ("10.13.2.6", "11.4.0.106", True), ("11.0.0.114", "11.4.0.106", True),
        ("11.4.0.106", "10.16.1.11", False), ("11.4.0.106", "12.0.0", False),
        ("10.13.3.9.post1", "10.13.3.9.post1", True),
    ],
)  # fmt: skip
def test_version_compatible_plans_load_upwards(built: str, here: str, loads: bool) -> None:
    machine = HERE._replace(version=here)
    assert (sidecar(version=built, version_compatible=True).refusal(machine) is None) is loads
    assert (sidecar(version=built).refusal(machine) is None) is (built == here)


def test_kernels_inside_raise_the_floor() -> None:
    assert driver_floor(12) == 525
    assert driver_floor(12, 83) == 545
    assert driver_floor(13, 83) == 580
    with pytest.raises(ValueError, match=r"cuda_major: expected one of \[12, 13\], got 11"):
        driver_floor(11)
    with pytest.raises(ValueError, match=r"ptx_version: expected one of .*, got 99"):
        driver_floor(13, 99)
    reason = sidecar(driver_floor=545, ptx_version=83).refusal(HERE._replace(driver=535))
    assert reason is not None
    assert reason.startswith("needs driver 545 or later (PTX 8.3), this machine has 535")


def test_another_target(plan: Path) -> None:
    with pytest.raises(BundleError, match="built for tensorrt: rebuild it for tensorrt-rtx"):
        read_plan(plan, "tensorrt-rtx", HERE)


def test_an_altered_plan(plan: Path) -> None:
    plan.write_bytes(b"other")
    with pytest.raises(BundleError, match="altered since it was built: rebuild it"):
        read_plan(plan, "tensorrt", HERE)


def test_a_plan_or_sidecar_that_is_missing(plan: Path) -> None:
    sidecar_path(plan).unlink()
    with pytest.raises(BundleError, match=r"expected a plan and encode\.plan\.json beside it, got"):
        read_plan(plan, "tensorrt", HERE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", r"json: sidecar: .*: rebuild the plan"),
        ("{}", r"json: target: Field required: rebuild the plan"),
    ],
)
def test_a_sidecar_that_is_none(plan: Path, text: str, reason: str) -> None:
    sidecar_path(plan).write_text(text)
    with pytest.raises(BundleError, match=reason):
        read_plan(plan, "tensorrt", HERE)


def test_a_sidecar_of_another_plan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encode\.plan: expected the sidecar of this plan"):
        write_plan(tmp_path / "encode.plan", b"other", sidecar())
