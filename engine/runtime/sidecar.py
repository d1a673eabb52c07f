"""The JSON beside a plan or engine: what it was built with, and where it may be loaded.

A plan holds machine code for named cards and one version of TensorRT. Loaded elsewhere it fails
with a message about magic tags or, worse, runs slowly; so it is refused here first, in a sentence
that says what to rebuild.
"""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import BundleError

Target = Literal["tensorrt", "tensorrt-rtx"]
PlanPrecision = Literal["fp32", "fp16", "bf16", "int8"]

# First driver branch on Linux of each PTX version (release notes of the PTX ISA).
_PTX_DRIVERS = {
    80: 525, 81: 530, 82: 535, 83: 545, 84: 550, 85: 555, 86: 565, 87: 570, 88: 575, 90: 580,
}  # fmt: skip
_CUDA_DRIVERS = {12: 525, 13: 580}  # with CUDA's minor-version compatibility


class Bucket(NamedTuple):
    """A fixed shape that a plan is built for: sequences at once, and events in each."""

    batch: int
    length: int


class Machine(NamedTuple):
    """What would load a plan: version of the runtime's package, the card's SM, its driver."""

    version: str
    sm: int
    driver: int


class KernelContent(NamedTuple):
    """What a plan with kernels and item tables inside holds of them; fields as in Sidecar."""

    graph_sha256: str
    tables_sha256: str
    k_max: int
    ptx_version: int


class Sidecar(BaseModel):
    """What a plan was built with.

    Attributes:
        version: of TensorRT or TensorRT-RTX.
        version_compatible: built to load in later versions too.
        sm: cards it holds code for, 80 for compute capability 8.0.
        driver_floor: first driver branch that can load it.
        ptx_version: of the kernels inside it, 83 for 8.3; None where it has none.
        k_max: answers that it gives for each vector; None where it does not search.
        graph_sha256: of the ONNX file that it was built from, or, fused, was made from.
        tables_sha256: of the item tables inside it; None where it has none.
        plan_sha256: of the plan.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    target: Target
    version: str
    version_compatible: bool
    sm: tuple[int, ...] = Field(min_length=1)
    driver_floor: int
    ptx_version: int | None
    k_max: int | None = None
    precision: PlanPrecision
    buckets: tuple[Bucket, ...] = Field(min_length=1)
    graph_sha256: str
    tables_sha256: str | None = None
    plan_sha256: str

    def refusal(
        self, machine: Machine, graph_sha256: str | None = None, tables_sha256: str | None = None
    ) -> str | None:
        """Why this plan cannot be loaded on `machine`, and what to rebuild; None if it can."""
        if graph_sha256 is not None and graph_sha256 != self.graph_sha256:
            return (
                f"built from graph {self.graph_sha256[:12]}, the bundle has {graph_sha256[:12]}: "
                f"rebuild the {self.target} plan from this bundle's graph"
            )
        if None not in (tables_sha256, self.tables_sha256) and tables_sha256 != self.tables_sha256:
            return (
                f"holds the item tables {str(self.tables_sha256)[:12]}, the bundle has "
                f"{str(tables_sha256)[:12]}: rebuild the {self.target} plan from this bundle"
            )
        if not self._loads_in(machine.version):
            return (
                f"built with {self.target} {self.version}, this machine has {machine.version}: "
                "rebuild the plan with this version, or install the version it was built with"
            )
        if machine.sm not in self.sm:
            cards = ", ".join(f"sm_{sm}" for sm in self.sm)
            return (
                f"built for {cards}, this card is sm_{machine.sm}: "
                f"rebuild the plan with --sm {machine.sm} among the targets"
            )
        if machine.driver < self.driver_floor:
            reason = "" if self.ptx_version is None else f" (PTX {self.ptx_version / 10})"
            return (
                f"needs driver {self.driver_floor} or later{reason}, this machine has "
                f"{machine.driver}: update the driver, or rebuild the plan for an older CUDA"
            )
        return None

    def _loads_in(self, version: str) -> bool:
        if version == self.version:
            return True
        if not self.version_compatible:
            return False
        built, here = _numbers(self.version), _numbers(version)
        # Upwards only, and across majors from 10 to 11 alone (TensorRT's support matrix).
        return here >= built and (here[0] == built[0] or (built[0], here[0]) == (10, 11))


def driver_floor(cuda_major: int, ptx_version: int | None = None) -> int:
    """First driver branch for libraries of a CUDA major and, where there are any, kernels in PTX.

    Raises:
        ValueError: a CUDA or PTX version whose driver is not known here.
    """
    for name, table, key in (
        ("cuda_major", _CUDA_DRIVERS, cuda_major),
        ("ptx_version", _PTX_DRIVERS, ptx_version),
    ):
        if key is not None and key not in table:
            raise ValueError(f"driver_floor: {name}: expected one of {sorted(table)}, got {key}")
    ptx_driver = 0 if ptx_version is None else _PTX_DRIVERS[ptx_version]
    return max(_CUDA_DRIVERS[cuda_major], ptx_driver)


def sidecar_path(plan: Path) -> Path:
    """`encode.plan.json` beside `encode.plan`."""
    return plan.with_name(f"{plan.name}.json")


def write_plan(plan: Path, content: bytes, sidecar: Sidecar) -> None:
    """Writes a plan and its sidecar. Raises ValueError if the sidecar is of another plan."""
    if sha256(content) != sidecar.plan_sha256:
        raise ValueError(f"write_plan: {plan.name}: expected the sidecar of this plan")
    plan.write_bytes(content)
    sidecar_path(plan).write_text(sidecar.model_dump_json(indent=2), encoding="utf-8")


def read_plan(
    plan: Path,
    target: Target,
    machine: Machine,
    graph_sha256: str | None = None,
    tables_sha256: str | None = None,
) -> tuple[bytes, Sidecar]:
    """The plan and its sidecar, if this machine can load it.

    Args:
        graph_sha256, tables_sha256: of the graph and the item tables that the bundle holds; None
            skips that comparison.
    Raises:
        BundleError: the plan or its sidecar is missing, altered or for something else; says what
            to rebuild.
    """
    path = sidecar_path(plan)
    try:
        content, sidecar = plan.read_bytes(), Sidecar.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{plan}: expected a plan and {path.name} beside it, got {error}") from (
            error
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "sidecar"
        raise BundleError(f"{path}: {place}: {first['msg']}: rebuild the plan") from error
    if sidecar.target != target:
        raise BundleError(f"{plan}: built for {sidecar.target}: rebuild it for {target}")
    if sha256(content) != sidecar.plan_sha256:
        raise BundleError(f"{plan}: altered since it was built: rebuild it, or copy it again")
    reason = sidecar.refusal(machine, graph_sha256, tables_sha256)
    if reason is not None:
        raise BundleError(f"{plan}: {reason}")
    return content, sidecar


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    """10.13.2.6 as numbers; what is none (post1) ends it."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
