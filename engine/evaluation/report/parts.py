"""What the report is made of: trainings and the lists of their methods, each a part of its own."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from engine.data.dataset import Dataset
from engine.evaluation import amazon, peer_environments
from engine.evaluation.peer_settings import GROCERIES, NAMES, REVIEWS
from engine.evaluation.peers import LIBRARY
from engine.pipeline import source_digest
from engine.reporting.parts import Part, key_of

from .config import FULL, PRIOR, VARIANTS, ReportConfig
from .rivals import amazon_peer, amazon_stars, lambdamart, peer
from .setting import Setting
from .stars_part import StarsPart, stars_part

# What decides a part of a family; nothing of the report's own tables or pages does.
_DATA = (
    "engine/data", "engine/evaluation/protocol.py", "engine/evaluation/report/setting.py",
)  # fmt: skip
_MODEL = (
    "engine/model", "engine/training", "engine/config.py", "engine/features.py",
    "engine/repeats.py", "engine/sales.py", "engine/promotions.py", "engine/ops.py",
    "kernels/*/reference.py",
)  # fmt: skip
_SERVED = (
    "engine/serving", "engine/retrieval", "engine/compile", "engine/catalogue",
    "engine/bundle.py", "engine/pipeline.py", "engine/evaluation/evaluate.py",
    "engine/evaluation/discovery.py", "engine/evaluation/candidate_sets.py",
    "engine/evaluation/report/stars_part.py", "engine/evaluation/report/drift.py",
)  # fmt: skip
_RIVALS = "engine/evaluation/report/rivals.py"
SOURCES = {
    "stars": (*_DATA, *_MODEL, *_SERVED),
    "lambdamart": (
        *_DATA, "engine/evaluation/lambdamart*.py", "engine/evaluation/candidate_sets.py", _RIVALS,
    ),
    "peer": (*_DATA, "engine/evaluation/peer*.py", "engine/evaluation/leave_one_out.py", _RIVALS),
    "amazon": (
        *_DATA, *_MODEL, "engine/evaluation/amazon.py", "engine/evaluation/leave_one_out.py",
        "engine/evaluation/neighbours.py", _RIVALS,
    ),
}  # fmt: skip


class Inputs(NamedTuple):
    """What a report is of: a prepared shop, or a folder of Amazon reviews, or both."""

    setting: Setting | None
    amazon: Path | None
    work: Path


def stars_parts(config: ReportConfig) -> list[StarsPart]:
    """The trainings, those first that take longest."""
    last = config.cuts - 1
    final = ("sweep", "candidates", "newcomers", "cold")
    variants = {PRIOR: ("sweep",), "no_text_no_tags": ("cold",)}
    return [
        StarsPart(0, slices=final),
        StarsPart(last, slices=("drift",)),
        *(StarsPart(cut) for cut in range(1, last)),
        *(StarsPart(0, seed=seed) for seed in range(1, config.seeds)),
        *(StarsPart(0, name, 0, variants.get(name, ())) for name in VARIANTS if name != FULL),
    ]


def absent() -> dict[str, str]:
    """Methods whose library is not here, and how it gets here."""
    found = {}
    if find_spec("lightgbm") is None:
        found["lambdamart"] = "LightGBM is missing; `pip install 'stars-engine[dev]'` installs it"
    missing = peer_environments.missing(tuple(dict.fromkeys(LIBRARY.values())))
    for name in NAMES:
        if (library := LIBRARY[name]) in missing:
            found[name] = (
                f"{library} has no environment; "
                f"`python -m engine.evaluation.peer_environments {library}` makes it"
            )
    return found


def parts(inputs: Inputs, config: ReportConfig, without: Mapping[str, str]) -> list[Part]:
    """Every part that the inputs allow, but those of the methods of `without`."""
    found = []
    if inputs.setting is not None:
        found += _shop_parts(inputs.setting, config)
    if inputs.amazon is not None:
        found += _amazon_parts(inputs.amazon, inputs.work, config)
    return [part for part in found if not set(part.name.split(".")[:2]) & without.keys()]


def _shop_parts(setting: Setting, config: ReportConfig) -> list[Part]:
    fingerprint = Dataset.read_meta(setting.data).fingerprint
    sources = {family: source_digest(*paths) for family, paths in SOURCES.items()}

    def made(
        name: str, family: str, cut: int, decisive: object, make: Callable[[], dict[str, Any]]
    ) -> Part:
        key = key_of(name, sources[family], fingerprint, setting.cuts[cut], decisive)
        return Part(name, key, make)

    stars = [
        made(
            part.name,
            "stars",
            part.cut,
            (config.variant(part.variant, part.seed).model_dump_json(), asked_of(part, config)),
            partial(stars_part, setting, config, part),
        )
        for part in stars_parts(config)
    ]
    rivals = [
        made(
            f"lambdamart.cut{cut}",
            "lambdamart",
            cut,
            (config.lambdamart.model_dump_json(), config.candidates_seed if cut == 0 else None),
            partial(lambdamart, setting, config, cut),
        )
        for cut in range(config.cuts)
    ]
    others = [
        made(
            f"{name}.cut0",
            "peer",
            0,
            (GROCERIES[name].model_dump_json(), config.peer_minutes),
            partial(peer, setting, config, name),
        )
        for name in NAMES
    ]
    return [*stars[:1], *others, *stars[1:], *rivals]


def asked_of(part: StarsPart, config: ReportConfig) -> dict[str, object]:
    """Settings of what a training is asked besides its lists, by slice."""
    of = {
        "sweep": config.lambdas,
        "candidates": config.candidates_seed,
        "newcomers": config.known_sessions,
        "drift": (config.drift_weeks, config.drift_users),
    }
    return {name: of.get(name) for name in part.slices}


def _amazon_parts(source: Path, work: Path, config: ReportConfig) -> list[Part]:
    files = sorted(file for file in source.iterdir() if file.is_file())
    data = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    sources = {family: source_digest(*SOURCES[family]) for family in ("amazon", "peer")}

    def made(name: str, family: str, decisive: object, make: Callable[[], dict[str, Any]]) -> Part:
        return Part(name, key_of(name, sources[family], data, decisive), make)

    own = config.next_item.model_dump_json()
    variants: dict[str, tuple[amazon.Part, ...]] = {"stars": (), "stars_no_text": amazon.PARTS}
    found = [
        made(f"amazon.{name}", "amazon", own, partial(amazon_stars, source, work, config, without))
        for name, without in variants.items()
    ]
    for name in NAMES:
        decisive = (REVIEWS[name].model_dump_json(), config.amazon_minutes)
        make = partial(amazon_peer, source, work, config, name)
        found.append(made(f"amazon.{name}", "peer", decisive, make))
    return found
