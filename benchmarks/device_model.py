"""The encoder and a training step on a card: kernels, references, and either compiled."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from engine.compile.parity import lowest_cosine
from engine.compile.samples import random_batch
from engine.compile.timing import interleaved
from engine.config import Config, Preset, load_config
from engine.data.generated import generated_shop
from engine.evaluation.protocol import last_cuts
from engine.model.build import build_model
from engine.model.stars import Stars
from engine.runtime.torch import TorchEncoder
from engine.training.batches import Batch, Batches
from engine.training.history import past
from engine.training.loss import Objective

from .case import ENGINE
from .operators import REFERENCE
from .stored import Row

PRESETS: tuple[Preset, ...] = ("small", "paper")
BATCHES, EVENTS, ROUNDS = (1, 8, 32), 200, 50
ITEMS, USERS = 68_000, 2_000  # the catalogue of the demo's shop
STEPS, SAME_STEPS = 10, 5
COSINE = 0.999  # fp16 beside fp32 on the CPU, as the artifacts' bound
_OVERRIDE = {ENGINE: "triton", REFERENCE: "reference"}


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Every operator inside runs as that backend, by the environment's override."""
    before = os.environ.get("STARS_KERNELS")
    os.environ["STARS_KERNELS"] = name
    try:
        yield
    finally:
        del os.environ["STARS_KERNELS"]
        if before is not None:
            os.environ["STARS_KERNELS"] = before


def encoders(device: str, compiled: bool) -> Iterator[Row]:
    """Windows of 200 events, from numpy to numpy, in fp16; every way's vectors are checked."""
    for preset in PRESETS:
        with TemporaryDirectory() as folder:
            config = load_config(preset)
            shop = generated_shop(Path(folder), text_dim=config.model.text_dim)
        model = build_model(config.model, shop, seed=0).eval()
        for users in BATCHES:
            yield from _encoded(preset, model, users, device, compiled)


def _encoded(
    preset: Preset, model: Stars, users: int, device: str, compiled: bool
) -> Iterator[Row]:
    torch._dynamo.reset()
    batch = random_batch(model, users, EVENTS, seed=users)
    truth = TorchEncoder(copy.deepcopy(model)).encode(batch)
    ways: dict[str, Callable[[], object]] = {}
    for name, override in _OVERRIDE.items():
        for suffix in ("", "_compiled") if compiled else ("",):
            own = copy.deepcopy(model)
            if suffix:
                own.encode = torch.compile(own.encode, dynamic=False)  # type: ignore[method-assign]
            encoder = TorchEncoder(own, device, "fp16" if device == "cuda" else "fp32")

            def call(encoder: TorchEncoder = encoder, override: str = override) -> object:
                with backend(override):
                    return encoder.encode(batch)

            found = lowest_cosine(call(), truth)  # type: ignore[arg-type]
            if found < COSINE:
                raise AssertionError(f"{preset} {name}{suffix}: cosine {found} below {COSINE}")
            ways[name + suffix] = call
    times = interleaved(ways, ROUNDS, warmup=5)
    for name, taken in times.items():
        statistics = {key: round(value, 4) for key, value in taken.in_ms().items()}
        ratio = round(taken.p50 / times[ENGINE].p50, 4)
        yield {
            "part": "encoder",
            "case": preset,
            "config": f"fp16, {users} x {EVENTS}",
            "way": name,
            "statistics": statistics | {"n": taken.n, "p50_ratio": ratio},
        }


def training(device: str) -> Iterator[Row]:
    """A step of `small` over 68,000 items; and whether a card's losses are the CPU's."""
    config = load_config("small")
    with TemporaryDirectory() as folder:
        width = config.model.text_dim
        shop = generated_shop(Path(folder), users=USERS, items=ITEMS, text_dim=width)
    history = past(shop, last_cuts(shop).test, config.train.alpha, config.train.repeat_types)
    stream = Batches(history, config).epoch(0)
    batches = [next(stream) for _ in range(STEPS)]
    log_p = torch.from_numpy(history.log_p)

    def trainer(place: str, precision: str, dropout: float = config.model.dropout) -> Trainer:
        model = config.model.model_copy(update={"dropout": dropout})
        train = config.train.model_copy(update={"precision": precision})
        chosen = config.model_copy(update={"model": model, "train": train})
        return Trainer(build_model(model, shop, train.seed), chosen, log_p, batches, place)

    yield from _same_losses(trainer, device)
    for precision in ("bf16", "fp32"):
        yield from _steps(trainer, precision, device)


class Trainer:
    """Steps of one training over prepared batches: forward, backward, AdamW."""

    def __init__(
        self, model: Stars, config: Config, log_p: Tensor, batches: Sequence[Batch], device: str
    ) -> None:
        self.batches = [batch.to(torch.device(device)) for batch in batches]
        model.repeats.standardise(batches[0].candidates.features)
        self._objective = Objective(model, config.train, log_p).to(device)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, fused=True)
        half = config.train.precision == "bf16"
        self._half = torch.autocast(device, torch.bfloat16, enabled=half)

    def step(self, batch: Batch) -> Tensor:
        """The batch's loss, which the step then lowers."""
        with self._half:
            loss: Tensor = self._objective(batch).total
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()


def _same_losses(trainer: Callable[..., Trainer], device: str) -> Iterator[Row]:
    """Losses of the first steps in fp32 without dropout, beside the CPU's."""
    losses = {}
    for way, place, override in (
        ("cpu", "cpu", "reference"), (REFERENCE, device, "reference"), (ENGINE, device, "triton"),
    ):  # fmt: skip
        with backend(override):
            own = trainer(place, "fp32", dropout=0.0)
            losses[way] = [float(own.step(batch)) for batch in own.batches[:SAME_STEPS]]
    for way, found in losses.items():
        apart = max(abs(a - b) / abs(b) for a, b in zip(found, losses["cpu"], strict=True))
        yield {
            "part": "losses",
            "case": "small",
            "config": f"fp32, {SAME_STEPS} steps, {ITEMS} items",
            "way": way,
            "statistics": {"relative_difference": apart},
            "losses": found,
        }


def _steps(trainer: Callable[..., Trainer], precision: str, device: str) -> Iterator[Row]:
    """Time of a step with the batch on the card, and the most memory that it takes besides."""
    ways: dict[str, Callable[[], object]] = {}
    peak: dict[str, float] = {}
    for way, override in _OVERRIDE.items():
        own = trainer(device, precision)
        turns = cycle(own.batches)

        def call(
            own: Trainer = own, turns: Iterator[Batch] = turns, override: str = override
        ) -> None:
            with backend(override):
                own.step(next(turns))
            torch.cuda.synchronize()

        call()  # the optimiser's state is there from now on
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        peak[way] = (torch.cuda.max_memory_allocated() - held) / 1e6
        ways[way] = call
    times = interleaved(ways, ROUNDS, warmup=STEPS)
    for way, taken in times.items():
        statistics = {key: round(value, 4) for key, value in taken.in_ms().items()}
        ratio = round(taken.p50 / times[ENGINE].p50, 4)
        yield {
            "part": "training",
            "case": "small",
            "config": f"{precision}, 32 windows, {ITEMS} items",
            "way": way,
            "statistics": statistics
            | {"n": taken.n, "p50_ratio": ratio, "peak_mb": round(peak[way], 1)},
        }
