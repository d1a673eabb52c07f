"""TensorRT's own Python plugin layer over a core that only records.

The bindings wheel of TensorRT holds `tensorrt.plugin` as Python; the library below it is not on any
package registry. Here that Python runs unchanged: it checks signatures, evaluates shapes and hands
kernels over. The classes that it takes from the library are empty, but for sizes, which count.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

BINDINGS = "tensorrt_bindings"


class DimensionOperation(Enum):
    SUM = 0
    SUB = 1
    PROD = 2
    FLOOR_DIV = 3
    CEIL_DIV = 4
    MAX = 5
    MIN = 6
    EQUAL = 7
    LESS = 8


class IDimensionExpr:
    """A size that is known, or only will be: the plugin layer may not look at it then."""

    def __init__(self, value: int, constant: bool) -> None:
        self.value = value
        self.constant = constant

    def is_constant(self) -> bool:
        return self.constant

    def get_constant_value(self) -> int:
        assert self.constant, "a dynamic size was looked at"
        return self.value


class ExprBuilder:
    def constant(self, value: int) -> IDimensionExpr:
        return IDimensionExpr(value, True)

    def operation(
        self, operation: DimensionOperation, a: IDimensionExpr, b: IDimensionExpr
    ) -> IDimensionExpr:
        x, y = a.value, b.value
        value = {
            DimensionOperation.SUM: lambda: x + y,
            DimensionOperation.SUB: lambda: x - y,
            DimensionOperation.PROD: lambda: x * y,
            DimensionOperation.FLOOR_DIV: lambda: x // y,
            DimensionOperation.CEIL_DIV: lambda: -(-x // y),
            DimensionOperation.MAX: lambda: max(x, y),
            DimensionOperation.MIN: lambda: min(x, y),
        }[operation]()
        return IDimensionExpr(value, a.constant and b.constant)


class DimsExprs(list[Any]):
    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class Logger:
    WARNING = "warning"

    def log(self, severity: str, message: str) -> None:
        assert severity == self.WARNING


class Registry:
    """The library's plugin registry."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        self.creators[creator.name, creator.plugin_version, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[name, version, namespace]


@dataclass
class ITensor:
    """A tensor of the network: its shape, of which -1 is dynamic, and its type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Started:
    """What TensorRT would start, and the shapes of what comes out."""

    kernel: str
    ptx: bytes
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    extra: tuple[int, ...]
    outputs: tuple[tuple[int, ...], ...]
    output_types: tuple[str, ...]


def available() -> bool:
    """Whether the bindings wheel is installed."""
    return importlib.util.find_spec(BINDINGS) is not None


@contextmanager
def tensorrt_plugin() -> Iterator[Any]:
    """`tensorrt.plugin` of the bindings wheel, over the recording core."""
    spec = importlib.util.find_spec(BINDINGS)
    assert spec is not None
    assert spec.origin is not None
    core = _Core("tensorrt")
    core.__path__ = [str(Path(spec.origin).parent)]
    before = {name: module for name, module in sys.modules.items() if _ours(name)}
    for name in before:
        del sys.modules[name]
    sys.modules["tensorrt"] = core
    try:
        yield importlib.import_module("tensorrt.plugin")
    finally:
        for name in [name for name in sys.modules if _ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def add_plugin(trtp: Any, plugin_id: str, tensors: Sequence[ITensor], at: Sequence[Any]) -> Started:
    """What `network.add_plugin(trtp.op.<id>(…), aot=True)` asks of the plugin, at given shapes.

    Args:
        tensors: the layer's inputs as the network declares them.
        at: their shapes when the engine runs.
    """
    core = sys.modules["tensorrt"]
    namespace, name = plugin_id.split("::")
    definition = getattr(getattr(trtp.op, namespace), name)
    inputs, _, plugin = definition(*tensors)(core.QuickPluginCreationRequest.STRICT_AOT)
    return _started(core, plugin, inputs, at)


def parse_plugin(node: Any, tensors: Sequence[ITensor], at: Sequence[Any]) -> Started:
    """What the ONNX parser asks of the plugin that a node names, at given shapes.

    As onnx-tensorrt does (createPlugin in importerUtils.cpp): the creator is looked up by
    operator, version and namespace, and `aot` makes the request.
    """
    core = sys.modules["tensorrt"]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    namespace = attributes["plugin_namespace"].s.decode()
    version = attributes["plugin_version"].s.decode()
    creator = core.registry.get_creator(node.op_type, version, namespace)
    requests = core.QuickPluginCreationRequest
    request = requests.STRICT_AOT if attributes["aot"].i else requests.STRICT_JIT
    phase = core.TensorRTPhase.BUILD
    plugin = creator.create_plugin(node.op_type, namespace, [], phase, request)
    return _started(core, plugin, tensors, at)


def _started(core: Any, plugin: Any, inputs: Sequence[ITensor], at: Sequence[Any]) -> Started:
    types = [tensor.dtype for tensor in inputs]
    output_types = plugin.get_output_data_types(types, [len(t.shape) for t in inputs])
    sizes = [
        [IDimensionExpr(size, declared >= 0) for size, declared in zip(shape, t.shape, strict=True)]
        for shape, t in zip(at, inputs, strict=True)
    ]
    outputs = plugin.get_output_shapes(sizes, [], ExprBuilder())
    described = [
        core.described(tuple(shape), dtype)
        for shape, dtype in [
            *zip(at, types, strict=True),
            *((tuple(e.value for e in o), t) for o, t in zip(outputs, output_types, strict=True)),
        ]
    ]
    plugin.configure_plugin(described[: len(types)], described[len(types) :])
    plugin.set_tactic(0)
    launch, extra = SimpleNamespace(), _Extra()
    plugin.get_launch_params(sizes, described, len(types), launch, extra, ExprBuilder())
    kernel, ptx = plugin.get_kernel(
        [d.desc for d in described[: len(types)]], [d.desc for d in described[len(types) :]]
    )

    def size(axis: str) -> int:
        value: int = getattr(launch, axis).expr.value
        return value

    return Started(
        kernel=kernel,
        ptx=ptx,
        grid=(size("grid_x"), size("grid_y"), size("grid_z")),
        block=(size("block_x"), size("block_y"), size("block_z")),
        shared_bytes=size("shared_mem"),
        extra=tuple(each.expr.value for each in extra.expressions),
        outputs=tuple(tuple(e.value for e in output) for output in outputs),
        output_types=tuple(output_types),
    )


class _Extra:
    """The library's setter of a kernel's integers."""

    def __init__(self) -> None:
        self.expressions: list[Any] = []

    @property
    def nbSymExprs(self) -> int:  # noqa: N802 - the library's name
        return len(self.expressions)

    @nbSymExprs.setter
    def nbSymExprs(self, n: int) -> None:  # noqa: N802
        self.expressions = [None] * n

    def __setitem__(self, i: int, expression: Any) -> None:
        assert expression.dtype == "INT32"
        self.expressions[i] = expression


class _Core(ModuleType):
    """The library: what counts is above, everything else is an empty class."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.registry = Registry()
        self.get_plugin_registry = lambda: self.registry
        self.DimensionOperation = DimensionOperation
        self.IDimensionExpr = IDimensionExpr
        self.DimsExprs = DimsExprs
        self.ITensor = ITensor
        self.Logger = Logger
        for name, members in {
            "QuickPluginCreationRequest": ("STRICT_AOT", "STRICT_JIT", "PREFER_AOT", "PREFER_JIT"),
            "TensorFormat": ("LINEAR",),
            "TensorRTPhase": ("BUILD",),
            "PluginArgType": ("INT",),
            "PluginFieldType": (
                "UNKNOWN", "CHAR", "INT8", "INT16", "INT32", "INT64", "FLOAT16", "FLOAT32",
                "FLOAT64",
            ),
            "DataType": (
                "FLOAT", "HALF", "BF16", "INT8", "INT32", "INT64", "BOOL", "UINT8", "FP8", "INT4",
                "FP4",
            ),
            "PluginArgDataType": ("INT8", "INT16", "INT32"),
        }.items():  # fmt: skip
            setattr(self, name, SimpleNamespace(**{member: member for member in members}))
        self.PluginFieldCollection = list
        self.Dims = type("Dims", (), {"MAX_DIMS": 8})

    def described(self, shape: tuple[int, ...], dtype: str) -> Any:
        """The library's description of one tensor of a running engine."""
        made = self.DynamicPluginTensorDesc()
        made.desc = SimpleNamespace(type=dtype, format="LINEAR", scale=1.0, dims=shape)
        made.min = made.max = made.opt = shape
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


def _ours(name: str) -> bool:
    return name == "tensorrt" or name.startswith("tensorrt.")
