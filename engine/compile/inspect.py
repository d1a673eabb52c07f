"""What a parsed TensorRT network computes in which type: the proof that no layer fell to fp32."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from engine.errors import CompileError
from engine.runtime.sidecar import PlanPrecision

_HALF = {"fp16": "HALF", "bf16": "BF16"}
# fp32 on purpose (engine.compile.graph): statistics of layer norm, softmax, and what casts to them.
# Constants and shuffles only hold or reshape what another layer reads.
_FP32_KINDS = {"CAST", "CONSTANT", "SHUFFLE", "NORMALIZATION", "SOFTMAX"}
# The search of a fused plan adds δ to the vectors and scores in fp32, by layers of these scopes.
_FP32_SCOPES = ("scan/", "stars/score_topk_")


@dataclass(frozen=True)
class NetworkTensor:
    """An output of a layer: name and kind of the layer, its type and shape (-1 is dynamic)."""

    layer: str
    kind: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NetworkReport:
    """Every tensor of a network, inputs and outputs by name."""

    tensors: tuple[NetworkTensor, ...]
    inputs: dict[str, str]
    outputs: dict[str, str]

    def by_dtype(self) -> dict[str, int]:
        """Tensors by type."""
        return dict(Counter(tensor.dtype for tensor in self.tensors))

    def products(self) -> list[NetworkTensor]:
        """The matrix products."""
        return [tensor for tensor in self.tensors if tensor.kind == "MATRIX_MULTIPLY"]

    def check(self, precision: PlanPrecision, half: PlanPrecision = "fp16") -> None:
        """Holds the network to its precision.

        Args:
            precision: asked for.
            half: with int8, the type of what is not quantised.
        Raises:
            CompileError: a product in another type, an fp32 layer that nobody meant, or int8
                without quantised layers; names the layer.
        """
        if precision == "fp32":
            wanted = "FLOAT"
        else:
            wanted = _HALF.get(half if precision == "int8" else precision, "FLOAT")
        for tensor in self.products():
            if tensor.dtype != wanted:
                raise CompileError(
                    f"network: layer {tensor.layer}: expected a product in {wanted}, "
                    f"got {tensor.dtype}"
                )
        kinds = Counter(tensor.kind for tensor in self.tensors)
        if precision == "int8" and not kinds["QUANTIZE"]:
            raise CompileError("network: expected quantised layers for int8, got none")
        if wanted == "FLOAT":
            return
        sums = 0
        for tensor in self.tensors:
            if tensor.dtype != "FLOAT" or tensor.kind in _FP32_KINDS:
                continue
            if tensor.layer.startswith(_FP32_SCOPES):
                continue
            # Logits and bias are added in fp32: one sum for each softmax.
            sums += tensor.kind == "ELEMENTWISE"
            if tensor.kind != "ELEMENTWISE" or sums > kinds["SOFTMAX"]:
                raise CompileError(
                    f"network: layer {tensor.layer} ({tensor.kind.lower()}): expected {wanted}, "
                    "got FLOAT"
                )


def inspect_network(network: Any) -> NetworkReport:
    """The report of a TensorRT or TensorRT-RTX network definition, before it is built."""
    tensors = []
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        for o in range(layer.num_outputs):
            output = layer.get_output(o)
            tensors.append(
                NetworkTensor(layer.name, layer.type.name, output.dtype.name, tuple(output.shape))
            )
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return NetworkReport(
        tuple(tensors),
        {tensor.name: tensor.dtype.name for tensor in inputs},
        {tensor.name: tensor.dtype.name for tensor in outputs},
    )
