"""An ONNX graph that can be edited: by name instead of by position, in any order, tidied once at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class GraphEditor:
    """A copy of a model's graph. Nodes may be added and inputs rewired in any order; `finish` sorts and
    prunes.

    Attributes:
        nodes: those of the graph; the order means nothing before `finish`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.nodes = [node for node in graph.node if node.output[0] not in self._constants]
        self._inputs = {value.name for value in graph.input}
        self._outputs = [value.name for value in graph.output]
        self._shapes = _shapes(self._model)
        self._taken = {name for node in self.nodes for name in (*node.input, *node.output)} | set(
            self._constants
        )
        self._index()

    def producer(self, name: str) -> NodeProto | None:
        """The node that gives a tensor; None for constants and the graph's inputs."""
        return self._producers.get(name)

    def users(self, name: str) -> list[NodeProto]:
        """The nodes that read a tensor, each once."""
        return list({id(node): node for node in self._users.get(name, [])}.values())

    def only_user(self, name: str) -> NodeProto | None:
        """The one node that reads a tensor, where there is exactly one and the graph does not give the tensor
        out.
        """
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self._outputs else None

    def constant(self, name: str) -> Array | None:
        """The values of a constant; None for all other tensors."""
        return self._constants.get(name)

    def needed(self, name: str) -> Array:
        """The values of a constant. Raises ValueError for all other tensors."""
        if (values := self.constant(name)) is None:
            raise ValueError(f"{name} is no constant")
        return values

    def of_type(self, op: str) -> list[NodeProto]:
        """The nodes of one operator, now."""
        return [node for node in self.nodes if node.op_type == op]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape that a tensor of the model, as it came, has; None for tensors that were added since."""
        return self._shapes.get(name)

    def is_input(self, name: str) -> bool:
        """Whether the graph gets a tensor from outside."""
        return name in self._inputs

    def is_output(self, name: str) -> bool:
        """Whether the graph gives a tensor out."""
        return name in self._outputs

    def add_constant(self, values: Array, name: str) -> str:
        """A new constant, under this name or one made from it; an equal one of the same name is used
        again.
        """
        held = self._constants.get(name)
        if held is not None and held.dtype == values.dtype and np.array_equal(held, values):
            return name
        name = self._free(name)
        self._constants[name] = values
        return name

    def add(self, op: str, inputs: Iterable[str], name: str, domain: str = "", **attributes: Any) -> str:
        """A new node with one output; returns the output's name."""
        name = self._free(name)
        node = helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes)
        self.nodes.append(node)
        self._register(node)
        return name

    def add_many(
        self, op: str, inputs: Iterable[str], name: str, outputs: int, **attributes: Any
    ) -> list[str]:
        """A new node with several outputs; returns their names."""
        names = [self._free(f"{name}/{index}") for index in range(outputs)]
        node = helper.make_node(op, list(inputs), names, name=names[0], **attributes)
        self.nodes.append(node)
        self._register(node)
        return names

    def rewire(self, node: NodeProto, old: str, new: str) -> None:
        """Let one node read another tensor."""
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        self._users[old] = [user for user in self._users.get(old, []) if user is not node]
        self._users.setdefault(new, []).append(node)

    def replace(self, old: str, new: str) -> None:
        """Let everyone who reads one tensor read another. The maker of the other goes on reading the
        first.
        """
        if old in self._outputs:
            raise ValueError(f"{old} is an output of the graph")
        maker = self.producer(new)
        for node in self.users(old):
            if node is not maker:
                self.rewire(node, old, new)

    def drop(self, node: NodeProto) -> None:
        """Forget a node that nobody reads any more."""
        self.nodes = [kept for kept in self.nodes if kept is not node]
        for name in node.input:
            self._users[name] = [user for user in self._users.get(name, []) if user is not node]
        for name in node.output:
            self._producers.pop(name, None)

    def prune(self) -> None:
        """Forget every node that leads to no output of the graph."""
        self.nodes = list(self._sorted())
        self._index()

    def finish(self) -> onnx.ModelProto:
        """The edited model: nodes in order, without those that lead nowhere and the constants that nobody
        reads.
        """
        graph = self._model.graph
        self.prune()
        used = {name for node in self.nodes for name in node.input}
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.initializer[:]
        graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(values) if values.ndim else values, name)
            for name, values in self._constants.items()
            if name in used
        )
        del graph.value_info[:]
        if any(node.domain == MICROSOFT for node in self.nodes) and all(
            o.domain != MICROSOFT for o in self._model.opset_import
        ):
            self._model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        return self._model

    def _sorted(self) -> Iterator[NodeProto]:
        done: set[str] = set()
        stack = [
            (node, False) for name in reversed(self._outputs) if (node := self.producer(name)) is not None
        ]
        while stack:
            node, ready = stack.pop()
            if node.output[0] in done:
                continue
            if ready:
                done.update(node.output)
                yield node
                continue
            stack.append((node, True))
            stack.extend(
                (maker, False) for name in reversed(node.input) if (maker := self.producer(name)) is not None
            )

    def _index(self) -> None:
        self._producers: dict[str, NodeProto] = {}
        self._users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            self._register(node)

    def _register(self, node: NodeProto) -> None:
        for name in node.input:
            self._users.setdefault(name, []).append(node)
        for name in node.output:
            self._producers[name] = node

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    for held in node.attribute:
        if held.name == name:
            return helper.get_attribute_value(held)
    return default


def attributes(node: NodeProto) -> dict[str, Any]:
    """All attributes of a node, by name."""
    return {held.name: helper.get_attribute_value(held) for held in node.attribute}


def count_ops(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator a graph has."""
    return Counter(node.op_type for node in model.graph.node)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
