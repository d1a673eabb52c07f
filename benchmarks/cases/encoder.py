"""Encoder runtimes, whole windows and one more event, on random weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.case import ENGINE, Case, Opener, Read, Setting, Statistics, Timed
from benchmarks.encoders import Encoders
from engine.compile.parity import Judge, parity
from engine.config import Preset

ROUNDS: dict[Preset, int] = {"small": 30, "paper": 8}
SERVED = [(name, each) for name in ("onnxruntime", "openvino") for each in ("fp32", "int8")]


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """PyTorch's number of threads, set back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encode(preset: Preset) -> Opener:
    """A full window of one user, beside plain exports of the same weights and torch itself."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Case]:
        with torch_threads(setting.threads):
            encoders = Encoders(preset, setting.threads)
            batch = encoders.window_of(encoders.window)
            truth, ways = encoders.truth(batch), encoders.ways(batch)
            yield Timed(
                f"encode_{preset}",
                _parameters(encoders, setting),
                {name: way.call for name, way in ways.items()},
                lambda name: encoders.check(name, ways[name], truth),
                ROUNDS[preset],
                *encoders.work(encoders.window),
            )

    return opened


def _append(preset: Preset) -> Opener:
    """One event appended to a window that lacks one, beside the window encoded whole."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Case]:
        with torch_threads(setting.threads):
            encoders = Encoders(preset, setting.threads)
            batch = encoders.window_of(encoders.window)
            truth = encoders.truth(batch)
            ways = {ENGINE: encoders.appending(batch)}
            ways["full"] = ways[ENGINE]._replace(call=lambda: encoders.engine.encode(batch))
            yield Timed(
                f"append_{preset}",
                _parameters(encoders, setting),
                {name: way.call for name, way in ways.items()},
                lambda name: encoders.check(name, ways[name], truth),
                2 * ROUNDS[preset],
                *encoders.work(1),
            )

    return opened


@contextmanager
def parity_of_small(setting: Setting) -> Iterator[Case]:
    """cosine_min_<runtime>_<precision> to torch in fp32, over users of every length."""
    with torch_threads(setting.threads):
        encoders = Encoders("small", setting.threads)

        def repeat() -> Statistics:
            judge = Judge(encoders.subject, setting.threads)
            rows = parity(judge, encoders.graphs, {}, setting.threads, SERVED)
            found = {f"cosine_min_{row.runtime}_{row.precision}": row.cosine_min for row in rows}
            return {ENGINE: found}

        users = len(encoders.subject.dataset.user_ids)
        yield Read("parity", {"preset": "small", "users": users}, repeat, exact=True)


def _parameters(encoders: Encoders, setting: Setting) -> dict[str, int | float | str]:
    config, served = encoders.model.config, encoders.served
    return {
        "events": encoders.window,
        "layers": config.layers,
        "d_model": config.d_model,
        "d_ff": config.d_ff,
        "served_by": f"{served.runtime}-{served.precision}",
        "threads": setting.threads,
    }


CASES: dict[str, Opener] = {
    "encode_small": _encode("small"),
    "encode_paper": _encode("paper"),
    "append_small": _append("small"),
    "append_paper": _append("paper"),
    "parity": parity_of_small,
}
