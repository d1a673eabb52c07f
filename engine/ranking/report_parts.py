"""What the report is made of: each part one study on one dataset, one JSON object."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from .config import CurveConfig, FusionConfig, LiveStudyConfig, StudyConfig, _Frozen
from .curve import live_curve
from .data.kuairand import load_kuairand
from .data.live import LiveConfig, simulate_live
from .sarm.anchors import metadata_of, templated
from .sarm.config import SarmStudyConfig
from .sarm.study import study as sarm_study
from .study import study
from .study_live import study_live
from .study_logs import compare
from .wesing.config import StudyConfig as WesingStudyConfig
from .wesing.study import study as wesing_study

LIVE, KUAIRAND, SIMULATED = "live", "kuairand", "simulated"


class ReportConfig(_Frozen):
    """The studies' configurations."""

    harmonrank_live: LiveStudyConfig = LiveStudyConfig()
    harmonrank_simulated: StudyConfig = StudyConfig(cs=(0.02, 0.5, 2.5, 20.0, 200.0), taus=(0.3,))
    harmonrank_kuairand: FusionConfig = FusionConfig(per_request=False)
    kuairand_seeds: int = Field(default=3, ge=1)
    curve: CurveConfig = CurveConfig()
    live: LiveConfig = Field(default=LiveConfig(), description="of SARM and WeSing")
    live_seed: int = Field(default=0, ge=0)
    sarm: SarmStudyConfig = SarmStudyConfig()
    wesing: WesingStudyConfig = WesingStudyConfig()


class Study(NamedTuple):
    """A study on a dataset."""

    run: Callable[[ReportConfig, Path | None], dict[str, Any]]  # settings and KuaiRand's folder
    settings: tuple[str, ...]  # fields of ReportConfig that it reads


def _harmonrank_live(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    return study_live(config.harmonrank_live)


def _harmonrank_simulated(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    return study(config.harmonrank_simulated)


def _harmonrank_kuairand(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    assert kuairand is not None
    return compare(load_kuairand(kuairand), config.harmonrank_kuairand, config.kuairand_seeds)


def _dpp_live(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    return {"curve": live_curve(config.curve)}


def _sarm_live(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    live = simulate_live(config.live, config.live_seed)
    return sarm_study(live.impressions, live.anchors, config.sarm)


def _sarm_kuairand(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    assert kuairand is not None
    log = load_kuairand(kuairand)
    # KuaiRand has no texts: its duration is all that an anchor can tell.
    anchors = templated(metadata_of(log), {"format": "a video of up to {length} seconds"})
    return sarm_study(log, anchors, config.sarm)


def _wesing_live(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    return wesing_study(simulate_live(config.live, config.live_seed).impressions, config.wesing)


def _wesing_kuairand(config: ReportConfig, kuairand: Path | None) -> dict[str, Any]:
    assert kuairand is not None
    return wesing_study(load_kuairand(kuairand), config.wesing)


# By study.dataset, the longest first.
STUDIES = {
    f"sarm.{LIVE}": Study(_sarm_live, ("live", "live_seed", "sarm")),
    f"wesing.{LIVE}": Study(_wesing_live, ("live", "live_seed", "wesing")),
    f"sarm.{KUAIRAND}": Study(_sarm_kuairand, ("sarm",)),
    f"wesing.{KUAIRAND}": Study(_wesing_kuairand, ("wesing",)),
    f"harmonrank.{LIVE}": Study(_harmonrank_live, ("harmonrank_live",)),
    f"harmonrank.{SIMULATED}": Study(_harmonrank_simulated, ("harmonrank_simulated",)),
    f"harmonrank.{KUAIRAND}": Study(
        _harmonrank_kuairand, ("harmonrank_kuairand", "kuairand_seeds")
    ),
    f"dpp.{LIVE}": Study(_dpp_live, ("curve",)),
}
