"""The image's tag and its TensorRT: written once, within what the project supports."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def argument(name: str) -> str:
    found = re.findall(rf"^ARG {name}=(\S+)$", DOCKERFILE, re.M)
    assert len(found) == 1, name
    return str(found[0])


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded["services"]["server"]


def test_the_pair_is_written_in_one_place() -> None:
    tag, version = argument("TRITON_TAG"), argument("TENSORRT_VERSION")
    assert re.fullmatch(r"\d\d\.\d\d-py3", tag)
    assert "FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}" in DOCKERFILE
    assert "tensorrt-cu13==${TENSORRT_VERSION}" in DOCKERFILE
    assert compose()["build"] == ".", "no version of its own"
    listed = subprocess.run(
        ["git", "grep", "--name-only", "--fixed-strings", "--untracked", "-e", tag],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert listed == ["Dockerfile"]
    assert re.search(rf"TensorRT {re.escape(version)}\b", DOCKERFILE), "the reason names it too"


def test_its_tensorrt_is_one_that_the_project_supports_and_was_compared_with() -> None:
    version = argument("TENSORRT_VERSION")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (gpu,) = (Requirement(text) for text in project["optional-dependencies"]["gpu"])
    assert gpu.name == "tensorrt-cu13"
    assert version in gpu.specifier
    api = json.loads((ROOT / "engine" / "compile" / "tensorrt_api.json").read_text())
    assert f"tensorrt-cu13-bindings=={version}" in api["verified"]


def test_the_server_starts_with_the_gpus_configuration_and_finds_what_is_mounted() -> None:
    assert '"--model-config-name=gpu"' in DOCKERFILE
    assert (ROOT / "model_repository" / "stars" / "configs" / "gpu.pbtxt").is_file()
    targets = [volume.split("}:")[1].split(":")[0] for volume in compose()["volumes"]]
    assert targets == [
        compose()["environment"]["STARS_BUNDLE"],
        "/opt/stars/model_repository/stars_encoder",
    ]
    assert '"--model-repository=/opt/stars/model_repository"' in DOCKERFILE


def test_what_has_not_run_says_so() -> None:
    assert "Not run" in DOCKERFILE
    assert "Not run" in (ROOT / "compose.yaml").read_text()
