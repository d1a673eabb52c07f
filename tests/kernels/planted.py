"""Planting a bug in a kernel's source, to see the checks of a test fail."""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest.mock import patch


@contextmanager
def plant(launcher: ModuleType, old: str, new: str) -> Iterator[None]:
    """`launcher._triton` with `old` replaced by `new`, once, in its source.

    Args:
        launcher: the module that starts the kernels, with `_triton` as an attribute.
    Raises:
        AssertionError: the source does not hold `old` exactly once.
    """
    original: ModuleType = launcher._triton
    path = Path(original.__file__ or "")
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{path.name} holds {old!r} {source.count(old)} times"
    # Triton reads a kernel's source from its file, so the bug must be in one; the module's name
    # keeps it in its package, for relative imports.
    name = f"{original.__name__}_planted"
    with tempfile.TemporaryDirectory() as folder:
        planted = Path(folder) / path.name
        planted.write_text(source.replace(old, new), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, planted)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
            with patch.object(launcher, "_triton", module):
                yield
        finally:
            del sys.modules[name]
