"""Every case that this machine can run: `pytest benchmarks --benchmark-only [-k CASE] [--store]`.

A row of pytest-benchmark's table is a case, and its columns are the engine's; all ways, measured in
the same rounds, stand in the extra information and in the table below it.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from engine.errors import BackendUnavailable

from .case import Case, Setting, Timed
from .cases import CASES
from .cases.kernels import Waited
from .conftest import ROWS
from .shop_bundle import TRAINED, trained_or_random
from .suite import measure, store


@pytest.fixture(scope="session")
def setting(request: pytest.FixtureRequest) -> Setting:
    """The bundle asked for, else the demo's, else one of random weights over the same shop."""
    bundle = request.config.getoption("bundle")
    if bundle is None:
        bundle, _ = trained_or_random()
    return Setting(bundle, request.config.getoption("threads"))


@pytest.mark.parametrize("name", CASES)
def test_case(
    benchmark: BenchmarkFixture, setting: Setting, name: str, pytestconfig: pytest.Config
) -> None:
    benchmark.group = name
    try:
        with CASES[name](setting) as case:
            turns = measure(case, benchmark)
            on_device = _device_times(case)
    except BackendUnavailable as error:
        pytest.skip(f"not run: {error}")
    benchmark.extra_info |= {**turns.parameters, **turns.work, **on_device}
    for way, found in turns.ways.items():
        benchmark.extra_info |= {f"{way} {name}": value for name, value in found.items()}
    pytestconfig.stash[ROWS].append(turns)
    if pytestconfig.getoption("store"):
        store(turns, setting.bundle.name if setting.bundle != TRAINED else "demo")


def _device_times(case: Case) -> dict[str, float]:
    """Time of the device alone with a cold cache, of every way of a case that runs on a GPU."""
    ways = case.ways if isinstance(case, Timed) else {}
    launches = {name: call.launch for name, call in ways.items() if isinstance(call, Waited)}
    if not launches:
        return {}
    from .device_clock import DeviceClock

    clock = DeviceClock()
    times = {name: clock(launch) for name, launch in launches.items()}
    return {
        f"{name} device_{which}": us
        for name, of in times.items()
        for which, us in (("p50_us", of.p50), ("p95_us", of.p95))
    }
