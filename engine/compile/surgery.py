"""Edits of an exported ONNX graph: look up by name, add, replace, drop what nothing needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engine.errors import CompileError


class GraphEditor:
    """A graph on its way to another; `finish` writes what was added and replaced.

    Attributes:
        graph: as it was, until `finish`; inputs and outputs are edited in place.
        inputs: of the graph as it was, by name.
        weights: by name.
        producers: the node that makes each tensor.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.nodes = {node.name: node for node in self.graph.node}
        self.producers = {output: node for node in self.graph.node for output in node.output}
        self.weights = {weight.name: weight for weight in self.graph.initializer}
        self.inputs = {value.name: value for value in self.graph.input}

    def node(self, name: str, n_inputs: int | None = None) -> onnx.NodeProto:
        """The node of this name, with so many inputs."""
        found = self.nodes.get(name)
        if found is None or n_inputs not in (None, len(found.input)):
            got = "none" if found is None else f"{len(found.input)}"
            wanted = "" if n_inputs is None else f" of {n_inputs} inputs, pooled causally"
            raise CompileError(f"graph: expected a node {name}{wanted}, got {got}")
        return found

    def producer(self, tensor: str, kind: str | None = None) -> onnx.NodeProto:
        """The node that makes a tensor, of this kind."""
        found = self.producers.get(tensor)
        if found is None or kind not in (None, found.op_type):
            got = "none" if found is None else f"{found.name} ({found.op_type})"
            raise CompileError(
                f"graph: {tensor}: expected the output of {kind or 'a node'}, got {got}"
            )
        return found

    def weight(self, name: str) -> NDArray[Any]:
        """A weight of the graph."""
        if name not in self.weights:
            raise CompileError(f"graph: expected a weight {name}, got none")
        value: NDArray[Any] = numpy_helper.to_array(self.weights[name])
        return value

    def constant(self, name: str, value: Any, dtype: int | None = None) -> str:
        """A weight of the fused graph, in this type or the value's own; returns its name."""
        array = np.asarray(value)
        if dtype is not None:
            array = array.astype(helper.tensor_dtype_to_np_dtype(dtype))
        name = f"fused/{name}"
        self.weights[name] = numpy_helper.from_array(array, name)
        return name

    def add(self, scope: str, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one new output; returns that."""
        (output,) = self.append(scope, kind, inputs, 1, attributes)
        return output

    def replace(
        self, tensor: str, scope: str, kind: str, inputs: Sequence[str], **attributes: Any
    ) -> None:
        """A node that makes `tensor`, in place of whatever made it."""
        made = self.add(scope, kind, inputs, **attributes)
        node = self.producers.pop(made)
        node.output[0] = tensor
        self.producers[tensor] = node

    def append(
        self,
        scope: str,
        kind: str,
        inputs: Sequence[str],
        n_outputs: int,
        attributes: Mapping[str, Any],
    ) -> list[str]:
        """A node with new outputs, named `scope/kind`; returns the outputs."""
        name, count = f"{scope}/{kind}", 0
        while name in self.nodes:
            count += 1
            name = f"{scope}/{kind}_{count}"
        outputs = [f"{name}/{i}" for i in range(n_outputs)]
        node = helper.make_node(kind, list(inputs), outputs, name=name, **attributes)
        self.nodes[name] = node
        self.producers |= dict.fromkeys(outputs, node)
        return outputs

    def finish(self) -> None:
        """Leaves the nodes, weights and inputs that an output needs, in an order that runs."""
        needed = self._needed([value.name for value in self.graph.output])
        ready = {*self.weights, *(value.name for value in self.graph.input), ""}
        left = {n.name: n for n in self.producers.values() if needed & set(n.output)}
        ordered: list[onnx.NodeProto] = []
        while left:
            runs = [node for node in left.values() if ready.issuperset(node.input)]
            if not runs:
                raise CompileError(
                    f"graph: expected an order of nodes, got a cycle in {list(left)}"
                )
            for node in runs:
                ordered.append(node)
                ready.update(node.output)
                del left[node.name]
        weights = [weight for name, weight in self.weights.items() if name in needed]
        inputs = [value for value in self.graph.input if value.name in needed]
        for field, kept in (("node", ordered), ("initializer", weights), ("input", inputs)):
            # Copies: what the graph holds is gone once its list is cleared.
            copies = [type(each).FromString(each.SerializeToString()) for each in kept]
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(copies)

    def _needed(self, stack: list[str]) -> set[str]:
        """Tensors that lead to those of `stack`."""
        needed: set[str] = set()
        while stack:
            name = stack.pop()
            if name and name not in needed:
                needed.add(name)
                stack += self.producers[name].input if name in self.producers else ()
        return needed
