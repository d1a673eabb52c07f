"""Limits of each compute capability and data-sheet figures of one card that has it.

Sources: CUDA programming guide, "Technical specifications per compute capability"; NVIDIA's A100
80 GB SXM, H100 SXM, B200 and RTX 5090 data sheets (dense fp16 with fp32 accumulation).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One graphics card; sizes are a multiprocessor's unless they say block.

    Attributes:
        shared_bytes: shared memory, of which each resident block takes `RESERVED_BYTES` more.
        bytes_per_s, flops_per_s: memory and fp16 tensor-core peaks of the card.
    """

    name: str
    sm: int
    multiprocessors: int
    warps: int
    blocks: int
    shared_bytes: int
    block_shared_bytes: int
    bytes_per_s: float
    flops_per_s: float

    def occupancy(self, registers: int, shared_bytes: int, num_warps: int) -> tuple[int, float]:
        """Resident blocks of a multiprocessor, and resident warps over the most there could be.

        Args:
            registers: per thread.
            shared_bytes: static and dynamic, per block.
        """
        per_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
        by_registers = REGISTERS // per_warp // num_warps
        by_shared = self.shared_bytes // (shared_bytes + RESERVED_BYTES)
        blocks = min(self.blocks, self.warps // num_warps, by_registers, by_shared)
        return blocks, blocks * num_warps / self.warps


REGISTERS = 65536  # 32-bit registers of a multiprocessor, on all of these
REGISTER_UNIT = 256  # a warp's registers are given in such units
RESERVED_BYTES = 1024  # shared memory that the system takes of every resident block
KIB = 1024

CARDS = {
    80: Card("A100", 80, 108, 64, 32, 164 * KIB, 163 * KIB, 2.039e12, 312e12),
    90: Card("H100", 90, 132, 64, 32, 228 * KIB, 227 * KIB, 3.35e12, 989e12),
    100: Card("B200", 100, 148, 64, 32, 228 * KIB, 227 * KIB, 8.0e12, 2250e12),
    120: Card("RTX 5090", 120, 170, 48, 24, 100 * KIB, 99 * KIB, 1.792e12, 209.5e12),
}
MODELLED = (80, 90)  # the cards that a roofline time is stated for
