"""What the shipped kernels move, take and are modelled to cost, against their bounds."""

import importlib
import math
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context

import torch

from . import OPS
from .aot import Compiled, compile_launch
from .cards import CARDS, MODELLED
from .case import Case, Step
from .launch import recording
from .trace import tracing

CACHED_BYTES = 1_000_000  # a table below this stays in every card's cache


@dataclass(frozen=True)
class KernelRow:
    """One kernel of a case, compiled for one card."""

    name: str
    grid: tuple[int, ...]
    num_warps: int
    num_stages: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    occupancy: float
    vector_load_share: float
    narrow_loads: tuple[str, ...]
    dots: int
    mma_count: int


@dataclass(frozen=True)
class Moved:
    """Bytes of one case as traced: by launch, and what the cache served besides.

    Attributes:
        too_large: cached operands that a cache cannot be trusted to keep.
    """

    by_launch: tuple[int, ...]
    cached_bytes: int
    too_large: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One case on one card: the worst of its kernels, and the whole case's bytes.

    Attributes:
        bytes_ratio: traced bytes (and those of torch's operations between the launches) / ideal.
        unfused_ratio: bytes of the plain torch sequence / traced bytes; None where none is stated.
        peak_ratio: memory of the plain torch sequence / ours; None where none is stated.
        occupancy: resident warps over the most there could be.
        modelled_us: roofline time from bytes, flops and blocks; never a measurement; None for cards
            that none is stated for.
        unfused: the plain torch sequence, each operation with dtype and bytes.
        breaches: sentences, one for each number outside its bound.
    """

    op: str
    config: str
    sm: int
    card: str
    bytes_ratio: float | None
    bytes_bound: float
    moved_bytes: int | None
    ideal_bytes: int
    cached_bytes: int | None
    unfused_ratio: float | None
    unfused_bound: float | None
    peak_ratio: float | None
    peak_bound: float | None
    registers: int
    spill_bytes: int
    shared_bytes: int
    occupancy: float
    vector_load_share: float
    mma_count: int
    modelled_us: float | None
    why_few_blocks: str
    unfused: tuple[Step, ...]
    kernels: tuple[KernelRow, ...]
    breaches: tuple[str, ...]


def cases(op: str) -> list[Case]:
    """The shipped cases of an operator."""
    found: list[Case] = importlib.import_module(f"kernels.{op}.cases").cases()
    return found


def report(
    ops: Iterable[str] = OPS, sms: Iterable[int] = tuple(CARDS), trace: bool = True
) -> list[Row]:
    """Compiles every case for every card, traces its bytes and holds both to their bounds.

    Args:
        ops: operators, of `OPS`.
        sms: compute capabilities, of `CARDS`.
        trace: whether bytes are counted too, which takes the interpreter's time.
    Raises:
        ValueError: an unknown operator or card.
    """
    ops, sms = tuple(ops), tuple(sms)
    for name, given, known in (("op", ops, OPS), ("sm", sms, tuple(CARDS))):
        if unknown := [value for value in given if value not in known]:
            raise ValueError(f"kernels: {name}: expected some of {known}, got {unknown[0]!r}")
    workers = os.cpu_count() or 1
    with (
        _pool(workers, interpret=False) as compiler,
        _pool(workers, interpret=True) as interpreter,
    ):
        jobs: list[tuple[Case, Future[list[list[KernelRow]]], Future[Moved] | None]] = []
        for op in ops:
            for i, case in enumerate(cases(op)):
                # Traces take longest: they go first.
                moved = interpreter.submit(_trace, op, i) if trace else None
                jobs.append((case, compiler.submit(_compile, op, i, sms), moved))
        return [
            _row(case, sm, kernels, moved.result() if moved else None)
            for case, compiled, moved in jobs
            for sm, kernels in zip(sms, compiled.result(), strict=True)
        ]


def _pool(workers: int, *, interpret: bool) -> ProcessPoolExecutor:
    """Workers that compile kernels, or interpret them: a process can do only one of the two."""
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_enter, initargs=(interpret,)
    )


def _enter(interpret: bool) -> None:
    """Before any kernel module is imported in this process."""
    os.environ.pop("TRITON_INTERPRET", None)
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


def _trace(op: str, i: int) -> Moved:
    """Bytes of one case, in the interpreter."""
    case = cases(op)[i]
    with tracing() as launches:
        case.run(torch.device("cpu"))
    operands = [operand for launch in launches for operand in launch.operands]
    large = {o.name for o in operands if o.name in case.cached and o.size_bytes >= CACHED_BYTES}
    return Moved(
        tuple(launch.moved_bytes(case.cached) for launch in launches),
        sum(launch.cached_bytes(case.cached) for launch in launches),
        tuple(sorted(large)),
    )


def _compile(op: str, i: int, sms: tuple[int, ...]) -> list[list[KernelRow]]:
    """The kernels of one case for each card."""
    case = cases(op)[i]
    with recording() as launches:
        case.run(torch.device("meta"))
    return [[_kernel(compile_launch(launch, sm), case) for launch in launches] for sm in sms]


def _kernel(built: Compiled, case: Case) -> KernelRow:
    launch, resources = built.launch, built.resources
    _, occupancy = CARDS[built.sm].occupancy(
        resources.registers, resources.shared_bytes, launch.num_warps
    )
    narrow = {
        name
        for name, access in built.accesses
        if not access.store and access.width_bytes < 16 and name not in case.gathered
    }
    return KernelRow(
        launch.name,
        launch.grid,
        launch.num_warps,
        launch.num_stages,
        resources.registers,
        resources.local_bytes,
        resources.shared_bytes,
        round(occupancy, 3),
        round(built.vector_load_share(case.gathered), 4),
        tuple(sorted(narrow)),
        built.dots,
        built.mma_count,
    )


def _row(case: Case, sm: int, kernels: list[KernelRow], moved: Moved | None) -> Row:
    total = None if moved is None else sum(moved.by_launch) + case.torch_bytes
    ratio = None if total is None else total / case.ideal_bytes
    unfused = case.unfused_bytes / total if total and case.unfused else None
    peak = (
        case.unfused_peak_bytes / case.peak_bytes
        if case.peak_bytes and case.unfused_peak_bytes
        else None
    )
    breaches = [*_byte_breaches(case, ratio, unfused, peak), *_card_breaches(case, sm, kernels)]
    for name in moved.too_large if moved else ():
        breaches.append(f"{name} counts as cached, and has {CACHED_BYTES} bytes or more")
    return Row(
        op=case.op,
        config=case.config,
        sm=sm,
        card=CARDS[sm].name,
        bytes_ratio=_rounded(ratio),
        bytes_bound=case.bytes_bound,
        moved_bytes=total,
        ideal_bytes=case.ideal_bytes,
        cached_bytes=None if moved is None else moved.cached_bytes,
        unfused_ratio=_rounded(unfused),
        unfused_bound=case.unfused_bound,
        peak_ratio=_rounded(peak),
        peak_bound=case.peak_bound,
        registers=max(k.registers for k in kernels),
        spill_bytes=max(k.spill_bytes for k in kernels),
        shared_bytes=max(k.shared_bytes for k in kernels),
        occupancy=min(k.occupancy for k in kernels),
        vector_load_share=min(k.vector_load_share for k in kernels),
        mma_count=sum(k.mma_count for k in kernels),
        modelled_us=_modelled_us(case, sm, kernels, moved) if moved and sm in MODELLED else None,
        why_few_blocks=case.why_few_blocks,
        unfused=case.unfused,
        kernels=tuple(kernels),
        breaches=tuple(f"{case.op} {case.config} sm_{sm}: {breach}" for breach in breaches),
    )


def _byte_breaches(
    case: Case, ratio: float | None, unfused: float | None, peak: float | None
) -> Iterable[str]:
    if ratio is not None and ratio > case.bytes_bound:
        yield f"bytes_ratio {ratio:.3f} above {case.bytes_bound}"
    if case.unfused_bound and unfused is not None and unfused < case.unfused_bound:
        yield f"unfused_ratio {unfused:.2f} below {case.unfused_bound}"
    if case.peak_bound and peak is not None and peak < case.peak_bound:
        yield f"peak_ratio {peak:.1f} below {case.peak_bound}"


def _card_breaches(case: Case, sm: int, kernels: list[KernelRow]) -> Iterable[str]:
    card = CARDS[sm]
    for kernel in kernels:
        blocks = math.prod(kernel.grid)
        if kernel.spill_bytes:
            yield f"{kernel.name}: {kernel.spill_bytes} bytes of local memory a thread"
        if kernel.shared_bytes > card.block_shared_bytes:
            yield f"{kernel.name}: {kernel.shared_bytes} bytes shared, {card.name} has fewer"
        if kernel.vector_load_share < 1:
            yield f"{kernel.name}: loads narrower than 16 bytes of {', '.join(kernel.narrow_loads)}"
        if kernel.dots and not kernel.mma_count:
            yield f"{kernel.name}: a matrix product without tensor cores"
        if blocks < card.multiprocessors and not case.why_few_blocks:
            yield f"{kernel.name}: {blocks} blocks for {card.multiprocessors} multiprocessors"


def _modelled_us(case: Case, sm: int, kernels: list[KernelRow], moved: Moved) -> float:
    """Roofline: the slower of bytes and flops, each stretched by the busiest multiprocessor."""
    card = CARDS[sm]
    bytes_s = case.torch_bytes / card.bytes_per_s
    for kernel, moved_bytes in zip(kernels, moved.by_launch, strict=True):
        blocks = math.prod(kernel.grid)
        stretch = -(-blocks // card.multiprocessors) * card.multiprocessors / blocks
        bytes_s += moved_bytes / card.bytes_per_s * stretch
    return round(max(bytes_s, case.flops / card.flops_per_s) * 1e6, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def as_json(rows: Iterable[Row]) -> list[dict[str, object]]:
    """Rows as plain values."""
    return [asdict(row) for row in rows]
