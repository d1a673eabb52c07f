"""Finding tritonserver, and saying what is missing."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import BackendUnavailable
from engine.serving import wheel
from engine.serving.wheel import find_triton


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_backend_folder_is_made_once_and_mended(cache: Path) -> None:
    found = find_triton()
    assert found.binary.is_file()
    assert found.backends.is_relative_to(cache)
    files = {path.name: path for path in (found.backends / "python").iterdir()}
    assert sorted(files) == [
        "libtriton_python.so",
        "triton_python_backend_stub",
        "triton_python_backend_utils.py",
    ]
    made = {name: path.stat().st_ino for name, path in files.items()}
    assert find_triton() == found
    assert {name: path.stat().st_ino for name, path in files.items()} == made
    files["libtriton_python.so"].write_bytes(b"half a copy")
    find_triton()
    assert files["libtriton_python.so"].stat().st_size > 1_000_000
    assert sorted(path.name for path in (cache / "stars").iterdir()) == [found.backends.name]


def test_the_home_folder_is_the_default_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_triton().backends.is_relative_to(tmp_path / ".cache" / "stars")


def test_what_the_caller_has_set_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/theirs")
    variables = find_triton().environment
    libraries = variables["LD_LIBRARY_PATH"].split(":")
    assert libraries[0].endswith("nvidia_pytriton.libs")
    assert libraries[1:] == [sysconfig.get_config_var("LIBDIR"), "/theirs"]
    assert variables["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_without_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    text = "expected the package nvidia-pytriton, got none; install it with `pip install"
    with pytest.raises(BackendUnavailable, match=text):
        find_triton()


def test_without_the_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BackendUnavailable, match=r"expected .*bin/tritonserver, got no such file"):
        find_triton()


def test_without_a_backend_for_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", namedtuple("Version", "major minor")(3, 99))
    text = "expected a backend for Python 3.99, got ones for 3.10, 3.11, 3.12"
    with pytest.raises(BackendUnavailable, match=text):
        find_triton()


def test_without_the_shared_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_triton().binary.parents[2]
    copy = tmp_path / "site" / "pytriton"
    for part in ("bin", "backends", "python_backend_stubs"):
        shutil.copytree(source / "tritonserver" / part, copy / "tritonserver" / part)
    spec = SimpleNamespace(submodule_search_locations=[str(copy)])
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BackendUnavailable, match=r"cannot start: .*cannot open shared object file"):
        find_triton()
