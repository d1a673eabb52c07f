"""The ladder of models: each differs from the one it comes after by one thing."""

from dataclasses import dataclass
from typing import Any

from .config import Content, Gate, SarmConfig


@dataclass(frozen=True)
class Rung:
    """A model of the comparison."""

    name: str
    adds: str
    after: str | None
    content: Content
    auxiliary: bool = False
    sequence: bool = False
    identity: bool = False
    gate: Gate = "none"

    def of(self, base: SarmConfig) -> SarmConfig:
        """The configuration: shape and training of `base`, the parts of this rung."""
        ranker: dict[str, Any] = {
            "content": self.content, "identity": self.identity, "sequence": self.sequence,
            "auxiliary": base.ranker.auxiliary if self.auxiliary else 0.0,
        }  # fmt: skip
        return base.model_copy(
            update={
                "ranker": base.ranker.model_copy(update=ranker),
                "encoder": base.encoder.model_copy(update={"gate": self.gate}),
            }
        )


def _sarm(name: str, adds: str, after: str, **parts: Any) -> Rung:
    return Rung(name, adds, after, "encoder", **parts)


BASE = Rung("base", "features and ids", None, "none")
TAGS = Rung("tags", "the six fields as categories", "base", "tags")
FROZEN = Rung("frozen", "a frozen embedding of the anchor", "base", "frozen")
ENCODER = _sarm("encoder", "the trained encoder's h_CLS", "base")
AUXILIARY = _sarm("auxiliary", "the author-only head on click", "encoder", auxiliary=True)
SEQUENCE = _sarm(
    "sequence", "h_UIN of the authors last clicked", "auxiliary", auxiliary=True, sequence=True
)
IDENTITY = _sarm(
    "identity", "h_TAR", "sequence", auxiliary=True, sequence=True, identity=True
)  # fmt: skip
SUM = _sarm(
    "sum", "domain tokens without a gate", "identity",
    auxiliary=True, sequence=True, identity=True, gate="sum",
)  # fmt: skip
FULL = _sarm(
    "full", "domain tokens, gated", "identity",
    auxiliary=True, sequence=True, identity=True, gate="gate",
)  # fmt: skip
FROZEN_SEQUENCE = Rung(
    "frozen_sequence", "a frozen embedding with the user sequence", "frozen", "frozen",
    sequence=True,
)  # fmt: skip
LADDER = (BASE, TAGS, FROZEN, FROZEN_SEQUENCE, ENCODER, AUXILIARY, SEQUENCE, IDENTITY, FULL)
GATE = (IDENTITY, SUM, FULL)
