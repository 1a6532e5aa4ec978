"""Find the permutations of a network's units that change none of its outputs, by tracing its operations.

`find_symmetries` records the tensor operations of one forward pass and follows each axis of each tensor through them.
Axes that must be permuted alike, such as the outputs of a layer and the inputs of the next, make one `Symmetry`. Axes
of the inputs and the outputs stay as they are. An operation that the module does not know is refused, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from dgbench.core.errors import UserError


class Axis(NamedTuple):
    """An axis of a tensor along which units lie."""

    tensor: str
    """Name of the tensor."""
    dim: int
    """The axis."""
    repeats: int
    """Entries that belong to each unit, one after the other: more than 1 behind a flattened feature map."""


@dataclass(frozen=True)
class Symmetry:
    """Units of a network that may change places: together on all axes, they leave its outputs as they are."""

    size: int
    """Number of units."""
    blocks: int
    """Number of equal blocks, such as the groups of group norm, each of which stays together; 1: no such condition."""
    axes: tuple[Axis, ...]
    """Where the units are."""


@dataclass
class _Units:
    """A set of axes that are known to be permuted alike so far."""

    size: int
    axes: list[Axis] = field(default_factory=list)
    blocks: int = 1
    fixed: bool = False
    """Whether something rules out all permutations but the identity."""
    merged: _Label | None = None
    """The set that it has become part of, with the entries that a unit of that one owns for each of this one's."""


class _Label(NamedTuple):
    """Units along an axis of an intermediate result."""

    units: _Units
    repeats: int

    def resolved(self) -> _Label:
        """Return the label with the set that its units are part of by now."""
        units, repeats = self
        while into := units.merged:
            units, repeats = into.units, repeats * into.repeats
        return _Label(units, repeats)


_Labels = tuple["_Label | None", ...]
"""A label an axis; None: nothing on it may be permuted."""

_SAME = {
    *("relu", "relu_", "gelu", "silu", "silu_", "tanh", "sigmoid", "leaky_relu", "elu", "hardtanh", "hardtanh_"),
    *("hardswish", "hardswish_", "hardsigmoid", "clone", "detach", "alias", "_to_copy", "dropout", "contiguous", "neg"),
}
"""Operations on each number of one tensor by itself."""
_PAIRED = {"add", "add_", "sub", "mul", "mul_", "div"}
"""Operations on each pair of numbers of two tensors, which may be broadcast."""
_POOLS = {"max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d"}
_BATCH_NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm"}


def find_symmetries(
    predict: Callable[[dict[str, Tensor], Tensor], Tensor], weights: Mapping[str, Tensor], x: Tensor
) -> tuple[Symmetry, ...]:
    """Find all permutations of units that this module can prove to leave a network's outputs as they are.

    Args:
        predict: Computes outputs of weights and inputs, in evaluation mode.
        weights: Name -> tensor: all that may be permuted.
        x: Inputs, of any values: their shape counts.

    Returns:
        The symmetries with more than one unit, in the order of the network.

    Raises:
        UserError: The network has an operation whose symmetries are not known.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to import

    names = list(weights)
    with torch.no_grad():
        traced = make_fx(lambda tensors, x: predict(dict(zip(names, tensors, strict=True)), x))(
            [weights[name] for name in names], x
        )
    return _Follower(traced, names).follow()


class _Follower:
    """Follower of axes through the graph of one network."""

    def __init__(self, traced: fx.GraphModule, names: Sequence[str]) -> None:
        self.traced, self.graph, self.names = traced, traced.graph, names
        self.labels: dict[fx.Node, _Labels] = {}
        self.found: list[_Units] = []

    def follow(self) -> tuple[Symmetry, ...]:
        """Label every result in turn, and return the sets of axes that are left free."""
        holders = [node for node in self.graph.nodes if node.op == "placeholder"]
        for node, name in zip(holders, self.names, strict=False):
            self.labels[node] = self._begin(name, node.meta["val"].shape, used=bool(node.users))
        for node in holders[len(self.names) :]:
            self.labels[node] = (None,) * node.meta["val"].dim()
        for node in self.graph.nodes:
            if node.op == "call_function":
                self._label(node)
            elif node.op == "get_attr":  # a constant that the network holds besides its state
                self.labels[node] = (None,) * getattr(self.traced, str(node.target)).dim()
            elif node.op == "output":
                for result in node.all_input_nodes:
                    self._fix(*self.labels.get(result, ()))
        free = [units for units in self.found if units.merged is None and not units.fixed and units.size > 1]
        return tuple(Symmetry(units.size, units.blocks, tuple(units.axes)) for units in free)

    def _begin(self, name: str, shape: Sequence[int], *, used: bool) -> _Labels:
        """Label the axes of a tensor of the network, each by a set of its own."""
        made = [_Units(size, [Axis(name, dim, 1)], fixed=not used) for dim, size in enumerate(shape)]
        self.found += made
        return tuple(_Label(units, 1) for units in made)

    def _label(self, node: fx.Node) -> None:
        """Label the result of an operation by its inputs' labels; raise UserError where that is not known."""
        name = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
        inputs = [each for each in node.all_input_nodes if each in self.labels]
        if name == "getitem":
            # Of norms and pooling the first result is the output, and no other is used.
            self.labels[node] = self.labels[node.args[0]]  # type: ignore[index]
        elif not any(label for each in inputs for label in self.labels[each]):
            value = node.meta.get("val")
            self.labels[node] = (None,) * (value.dim() if isinstance(value, Tensor) else 0)
        elif rule := getattr(self, f"_of_{_RULES.get(name, '')}", None):
            self.labels[node] = rule(
                node, *(self.labels.get(each, ()) if isinstance(each, fx.Node) else each for each in node.args)
            )
        else:
            raise UserError(
                f"which units of the network may be permuted is not known, as it computes {name!r}: known are "
                "multilayer perceptrons and convolutional networks without attention and concatenation"
            )

    # -- rules: each returns the labels of a result, given the node and its arguments with labels in place of tensors --

    def _of_same(self, node: fx.Node, x: _Labels, *_: Any) -> _Labels:
        return x

    def _of_pair(self, node: fx.Node, x: _Labels, y: Any, *_: Any) -> _Labels:
        if not isinstance(y, tuple):  # a number
            return x
        left, right = node.args[0].meta["val"].shape, node.args[1].meta["val"].shape  # type: ignore[union-attr]
        found: list[_Label | None] = []
        for i in range(1, max(len(left), len(right)) + 1):
            one, other = x[-i] if i <= len(x) else None, y[-i] if i <= len(y) else None
            if i > len(left) or left[-i] == 1:
                found.append(other)
            elif i > len(right) or right[-i] == 1:
                found.append(one)
            else:
                found.append(self._join(one, other))
        return tuple(reversed(found))

    def _of_convolution(self, node: fx.Node, x: _Labels, weight: _Labels, bias: Any, *more: Any) -> _Labels:
        shape, groups = node.args[1].meta["val"].shape, more[-1]  # type: ignore[union-attr]
        if more[3]:
            self._fix(*x[1:], *weight)  # transposed
        elif groups == 1:
            self._join(x[1], weight[1])
        elif shape[1] == 1 and groups == shape[0]:
            self._join(x[1], weight[0])  # depthwise: a channel in, a channel out
        else:
            self._fix(x[1], *weight[:2])
        self._fix(*weight[2:], *x[2:])
        out = self._join(weight[0], bias[0]) if bias else weight[0]
        return (x[0], None if more[3] else out, *(None for _ in x[2:]))

    def _of_addmm(self, node: fx.Node, bias: _Labels, x: _Labels, weight: _Labels, *_: Any) -> _Labels:
        self._join(x[-1], weight[0])
        return (*x[:-1], self._join(bias[-1], weight[1]))

    def _of_mm(self, node: fx.Node, x: _Labels, weight: _Labels, *_: Any) -> _Labels:
        self._join(x[-1], weight[0])
        return (*x[:-1], weight[1])

    def _of_transpose(self, node: fx.Node, x: _Labels, *dims: Any) -> _Labels:
        order = list(range(len(x)))
        one, other = dims or (0, 1)
        if len(x) > 1:
            order[one], order[other] = order[other], order[one]
        return tuple(x[i] for i in order)

    def _of_strides(self, node: fx.Node, x: _Labels, *_: Any) -> _Labels:
        # Convolutions of maps with one position note other strides for the same numbers.
        if node.args[0].meta["val"].shape != node.meta["val"].shape:  # type: ignore[union-attr]
            self._fix(*x)
        return x if len(x) == node.meta["val"].dim() else (None,) * node.meta["val"].dim()

    def _of_permute(self, node: fx.Node, x: _Labels, dims: Sequence[int]) -> _Labels:
        return tuple(x[i] for i in dims)

    def _of_batch_norm(self, node: fx.Node, x: _Labels, *tensors: Any) -> _Labels:
        channels = x[1]
        for tensor in tensors[:4]:
            if isinstance(tensor, tuple) and tensor:
                channels = self._join(channels, tensor[0])
        return (x[0], channels, *x[2:])

    def _of_group_norm(self, node: fx.Node, x: _Labels, weight: Any, bias: Any, *more: Any) -> _Labels:
        found = self._of_batch_norm(node, x, weight, bias)
        if channels := found[1]:
            units, repeats = channels.resolved()
            units.fixed = units.fixed or repeats > 1 or units.blocks not in (1, more[3])
            units.blocks = more[3]
        return found

    def _of_layer_norm(
        self, node: fx.Node, x: _Labels, shape: Sequence[int], weight: Any, bias: Any, *_: Any
    ) -> _Labels:
        found = list(x)
        for i in range(1, len(shape) + 1):
            for tensor in (weight, bias):
                if tensor:
                    found[-i] = self._join(found[-i], tensor[-i])
        return tuple(found)

    def _of_pool(self, node: fx.Node, x: _Labels, *_: Any) -> _Labels:
        self._fix(*x[2:])
        return (*x[:2], *(None for _ in x[2:]))

    def _of_mean(self, node: fx.Node, x: _Labels, dims: Sequence[int], *keep: bool) -> _Labels:
        gone = {dim % len(x) for dim in dims}
        kept = (None if i in gone else label for i, label in enumerate(x) if i not in gone or (keep and keep[0]))
        return tuple(kept)

    def _of_view(self, node: fx.Node, x: _Labels, *_: Any) -> _Labels:
        before, after = node.args[0].meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
        found: list[_Label | None] = [None] * len(after)
        for old, new in _regrouped(before, after):
            labels = [x[i] for i in old]
            if len(old) == len(new) == 1:
                found[new[0]] = labels[0]
            elif len(new) == 1 and labels[0] and not any(labels[1:]):
                # Units that lay along the first of several axes: each now owns as many entries as the others have.
                rest = math.prod(before[i] for i in old[1:])
                found[new[0]] = _Label(labels[0].units, labels[0].repeats * rest)
            else:
                self._fix(*labels)
        return tuple(found)

    # -- sets of axes -------------------------------------------------------------------------------------------------

    def _fix(self, *labels: _Label | None) -> None:
        """Rule out all permutations along some axes."""
        for label in labels:
            if label:
                label.resolved().units.fixed = True

    def _join(self, one: _Label | None, other: _Label | None) -> _Label | None:
        """Make the permutations along two axes one, and return their label."""
        if one is None or other is None:
            self._fix(one, other)
            return None
        # A unit of the coarser axis owns several units of the finer one.
        coarse, fine = sorted((one.resolved(), other.resolved()), key=lambda label: label.units.size)
        kept, gone = coarse.units, fine.units
        if kept is gone:
            return coarse
        more, rest = divmod(coarse.repeats, fine.repeats)
        if rest or kept.size * more != gone.size:
            self._fix(one, other)
            return None
        kept.axes += [axis._replace(repeats=axis.repeats * more) for axis in gone.axes]
        # Blocks of the finer units say nothing simple about the coarser ones, and two conditions on blocks may clash.
        clash = gone.blocks > 1 and (more > 1 or kept.blocks not in (1, gone.blocks))
        kept.fixed = kept.fixed or gone.fixed or clash
        kept.blocks, gone.merged = max(kept.blocks, gone.blocks), _Label(kept, more)
        return coarse


_RULES = {
    **dict.fromkeys(_SAME, "same"),
    **dict.fromkeys(_PAIRED, "pair"),
    **dict.fromkeys(_POOLS, "pool"),
    **dict.fromkeys(_BATCH_NORMS, "batch_norm"),
    **dict.fromkeys(("t", "transpose"), "transpose"),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten"), "view"),
    **{name: name for name in ("convolution", "addmm", "mm", "permute")},
    **{"as_strided_": "strides", "native_group_norm": "group_norm", "native_layer_norm": "layer_norm", "mean": "mean"},
}
"""Operation -> the rule of `_Follower` for it."""


def _regrouped(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes of two shapes of one content: the smallest runs of axes with equal products, without those of 1."""
    old, new = ([i for i, size in enumerate(shape) if size != 1] for shape in (before, after))
    pairs = []
    while old and new:
        left, right = [old.pop(0)], [new.pop(0)]
        while (n := math.prod(before[i] for i in left)) != (m := math.prod(after[i] for i in right)):
            left, right = ([*left, old.pop(0)], right) if n < m else (left, [*right, new.pop(0)])
        pairs.append((left, right))
    return pairs
