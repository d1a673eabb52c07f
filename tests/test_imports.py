"""The borders between the packages, and what the serving path may load."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "polars", "triton", "pandas")
SERVING = (
    "engine.bundle", "engine.features", "engine.repeats", "engine.data.clock",
    "engine.serving", "engine.retrieval", "engine.store", "engine.runtime",
    "engine.catalogue.catalogue", "engine.catalogue.changes",
)  # fmt: skip


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module below `package`."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(name: str, path: Path) -> set[str]:
    """Absolute dotted names of all that a module imports, wherever in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_walk_sees_every_form_of_import(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\nfrom ..h import i\n"
        "def later():\n    import kernels.x\n"
    )
    assert imported("p.q.m", path) == {
        "a.b", "c", "c.d", "p.q", "p.q.e", "p.q.f", "p.q.f.g", "p.h", "p.h.i", "kernels.x",
    }  # fmt: skip


def test_ops_is_the_only_module_that_imports_kernels() -> None:
    importing = {
        name for name, path in modules("engine") if "kernels" in tops(imported(name, path))
    }
    assert importing == {"engine.ops"}


def test_kernels_never_imports_engine() -> None:
    found = {name: tops(imported(name, path)) for name, path in modules("kernels")}
    assert len(found) > 5
    assert not [name for name, names in found.items() if "engine" in names]


def test_a_foreign_package_named_kernels_is_refused(tmp_path: Path) -> None:
    """PyPI has one; whoever installs it is told so, and not that an attribute is missing."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    script = (
        "import sys\n"
        f"sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from engine.errors import BackendUnavailable\n"
        "try:\n"
        "    import engine.ops\n"
        "except BackendUnavailable as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert result.stdout == (
        f"kernels: expected this project's package, got {tmp_path}/kernels/__init__.py: "
        "uninstall the foreign package or put this project first on the path\n"
    )


@pytest.mark.parametrize("name", ["pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"])
def test_nothing_imports_a_pickle(name: str) -> None:
    every = [*modules("engine"), *modules("kernels"), *modules("model_repository")]
    assert not [module for module, path in every if name in tops(imported(module, path))]


def test_the_serving_path_loads_neither_torch_nor_a_data_frame_library() -> None:
    names = sorted(
        name
        for package in SERVING
        for name, _ in (
            modules(package.replace(".", "/"))
            if (ROOT / package.replace(".", "/")).is_dir()
            else [(package, None)]
        )
    )
    assert len(names) > 15
    script = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, json.dumps(names)],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    loaded = set(json.loads(result.stdout))
    assert set(names) <= loaded
    assert not loaded & set(HEAVY)


def test_the_server_models_stay_thin() -> None:
    files = sorted(ROOT.glob("model_repository/*/1/*"))
    models = [path for path in files if path.name == "model.py"]
    assert models
    for path in models:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 150, path
    helpers = [p for p in files if p.name not in ("model.py", "__pycache__")]
    assert not helpers, "a helper module beside model.py: installed packages win over it"


def test_tests_are_no_packages() -> None:
    assert not [*(ROOT / "tests").rglob("__init__.py")]
