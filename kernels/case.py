"""Cases: the shapes that an operator ships for, and the numbers that it is held to."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Step:
    """One operation of the unfused torch sequence: its name, and the bytes it reads and writes."""

    op: str
    bytes: int


@dataclass(frozen=True)
class Case:
    """One shape class of an operator.

    Attributes:
        op: folder of the operator, for instance "attention".
        config: name of the shape class, for instance "pooled fp16 B32 L201 H8 d96".
        prepare: makes inputs on a device and gives the call of the operator's Triton backend on
            them: on "meta" to record launches, on "cpu" in the interpreter to count bytes, on
            "cuda" to time.
        ideal_bytes: every streamed operand in once and out once, every cached table once.
        bytes_bound: the most that traced bytes / ideal_bytes may be.
        flops: multiply-adds count two; matrix products only.
        cached: kernel argument names of tables under 1 MB: counted once, their traffic beside.
        torch_bytes: bytes moved by torch between the launches (sorting, final sums), from shapes.
        unfused: the plain torch sequence that a user would write, operation by operation.
        unfused_bound: the least that unfused bytes / traced bytes may be; None where none is set.
        peak_bytes, unfused_peak_bytes: memory that lives at once besides inputs, from shapes.
        peak_bound: the least that unfused_peak_bytes / peak_bytes may be.
        gathered: kernel argument names whose loads are scattered or scalar by nature (ids, offsets,
            bit words): exempt from the rule that every load is 16 bytes wide.
        why_few_blocks: why a grid smaller than the card is right here; "" demands a full card.
    """

    op: str
    config: str
    prepare: Callable[[torch.device], Callable[[], object]]
    ideal_bytes: int
    bytes_bound: float
    flops: int
    cached: frozenset[str] = frozenset()
    torch_bytes: int = 0
    unfused: tuple[Step, ...] = ()
    unfused_bound: float | None = None
    peak_bytes: int | None = None
    unfused_peak_bytes: int | None = None
    peak_bound: float | None = None
    gathered: frozenset[str] = field(default_factory=frozenset)
    why_few_blocks: str = ""

    def run(self, device: torch.device) -> object:
        """One call on inputs of its own."""
        return self.prepare(device)()

    @property
    def unfused_bytes(self) -> int:
        """Bytes of the whole unfused sequence."""
        return sum(step.bytes for step in self.unfused)
