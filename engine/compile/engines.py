"""Engines in a bundle: a new one, since a bundle never changes."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from engine.bundle import Bundle, BundleWriter
from engine.manifest import MANIFEST_FILE, Description
from engine.runtime.sidecar import sidecar_path

ENGINES_FOLDER = "engines"


def add_engines(bundle: Bundle, plans: Iterable[Path], folder: Path) -> None:
    """Writes a bundle with all that `bundle` holds, and the plans with their sidecars.

    Args:
        plans: files, which lie in `engines/` of the new bundle.
        folder: of the new bundle, which may be that of `bundle`; one that stands there is replaced.
    Raises:
        BundleError: the folder holds something else than a bundle.
    """
    described = {name: getattr(bundle.manifest, name) for name in Description.model_fields}
    with BundleWriter(folder, Description(**described)) as writer:
        unhashed = shutil.ignore_patterns(MANIFEST_FILE, ENGINES_FOLDER)
        shutil.copytree(bundle.folder, writer.folder, ignore=unhashed, dirs_exist_ok=True)
        engines = writer.folder / ENGINES_FOLDER
        engines.mkdir()
        for plan in plans:
            for file in (plan, sidecar_path(plan)):
                shutil.copy(file, engines)
