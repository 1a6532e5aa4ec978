"""Save and restore an object that was not written to be saved, as tensors and plain values by their places in it.

A place is the path of attributes and keys that leads from the object to a value. Kept are tensors, arrays, numbers and
text, and lists, tuples, dicts and deques of them; optimizers, with the parameters that they step; and all of this in
the modules, schedulers and helpers that the object holds, as far as torch or the object's own package defines them. Not
kept are gradients, generators of random numbers, and objects of other packages.

Restoring needs an object built in the same way, and sets values in place where something else may hold them too: an
optimizer its parameters, a scheduler its optimizer's groups.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Place: TypeAlias = tuple[str | int, ...]
"""Attributes and keys that lead from the object to a value."""

_SCALARS = (bool, int, float, str, type(None))
_DICTS = (dict, OrderedDict, defaultdict)
_LISTS = (list, tuple, deque)
_ARRAY = "numpy's"
"""Marks an array, or a scalar, of numpy's: (marker, tensor)."""
_KEPT_APART = ("param_groups", "state", "defaults")
"""Attributes of an optimizer that hold parameters, or refer to them: `_of_optimizer` saves them."""
_PLUMBING = ("_modules", "_parameters", "_buffers")
"""Attributes of a module that names of its parts leave out."""


def capture_state(root: nn.Module) -> dict[str, Any]:
    """Return the state of `root` for a checkpoint: types, values and optimizers by place; its tensors are live."""
    found = _Places(root)
    names = found.tensors()
    return {
        "types": found.types(),
        "values": {place: _plain(holder[place[-1]]) for place, holder in found.values.items()},
        "optimizers": {place: _of_optimizer(optimizer, names) for place, optimizer in found.optimizers.items()},
    }


def restore_state(root: nn.Module, taken: Mapping[str, Any]) -> list[str]:
    """Restore a state that `capture_state` took of an object built as `root` was.

    Args:
        root: Changed in place.
        taken: The state.

    Returns:
        Names, with dots, of objects that the state has and `root` lacks, or has with another type or length. Nothing
        below them is restored.
    """
    found = _Places(root)
    types = found.types()
    lost = [place for place, name in taken["types"].items() if types.get(place) != name]
    for place, value in taken["values"].items():
        if place[:-1] not in lost:
            _give_value(found.holders[place[:-1]], place[-1], value)
    # Looked up again: tensors of other shapes have been replaced, and optimizers must step the new ones.
    found = _Places(root)
    tensors = {name: tensor for tensor, name in found.tensors().items()}
    for place, state in taken["optimizers"].items():
        if place not in lost and not _give_optimizer(found.optimizers[place], state, tensors):
            lost.append(place)
    return [
        ".".join(str(key) for key in place if key not in _PLUMBING)
        for place in lost
        if not any(place[:length] in lost for length in range(len(place)))
    ]


def stepped(root: nn.Module) -> set[Tensor]:
    """Return the parameters that the optimizers in `root` step."""
    optimizers = _Places(root).optimizers.values()
    return {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


class _Places:
    """The places of an object: where it, and all that it is made of, keep values."""

    def __init__(self, root: nn.Module) -> None:
        self.code = ("torch", type(root).__module__.partition(".")[0])
        """Packages whose objects are entered."""
        self.holders: dict[Place, Any] = {}
        """Place of an object or container -> its attributes or items."""
        self.values: dict[Place, Any] = {}
        """Place of a plain value -> its holder."""
        self.optimizers: dict[Place, Optimizer] = {}
        """Place of an optimizer -> it."""
        self._owners: dict[int, tuple[Place, Any]] = {}
        """`id` of an object or container -> its first place, and itself, so that no other gets that id."""
        self._enter(root, ())

    def types(self) -> dict[Place, str]:
        """Return, by place of an object or container, its type; of a list or tuple with its length."""
        return {place: _kind(owner) for place, owner in self._owners.values()}

    def _enter(self, owner: Any, place: Place) -> None:
        """Visit an object or container below `place`, once each, and note the places in it."""
        if id(owner) in self._owners:
            return
        self._owners[id(owner)] = (place, owner)
        holder = self.holders[place] = owner if isinstance(owner, dict | list | tuple) else vars(owner)
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if type(key) not in (str, int) or (isinstance(owner, Optimizer) and key in _KEPT_APART):
                continue
            if isinstance(value, Optimizer) and id(value) not in self._owners:
                self.optimizers[(*place, key)] = value
            if _is_plain(value):
                self.values[(*place, key)] = holder
            elif isinstance(value, dict | list | tuple | nn.Module | Optimizer) or self._own(value):
                self._enter(value, (*place, key))

    def _own(self, value: object) -> bool:
        """Return whether an object is of a class whose attributes are looked through."""
        ours = type(value).__module__.partition(".")[0] in self.code
        return ours and hasattr(value, "__dict__") and not isinstance(value, Enum)

    def tensors(self) -> dict[Tensor, Place]:
        """Return every tensor among the values, with the first of its places."""
        found: dict[Tensor, Place] = {}
        for place, holder in self.values.items():
            for inside, tensor in _tensors(holder[place[-1]]):
                found.setdefault(tensor, (*place, *inside))
        return found


def _kind(owner: object) -> str:
    """Return the name of an object's type, by which a restored place is checked."""
    length = f" of {len(owner)}" if isinstance(owner, list | tuple) else ""
    return f"{type(owner).__module__}.{type(owner).__qualname__}{length}"


def _tensors(value: Any) -> Iterator[tuple[Place, Tensor]]:
    """Yield the tensors in a plain value, with their places in it."""
    if isinstance(value, Tensor):
        yield (), value
    elif isinstance(value, _DICTS + _LISTS):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            for inside, tensor in _tensors(item):
                yield (key, *inside), tensor


def _is_plain(value: Any) -> bool:
    """Return whether a value is one that a checkpoint can hold."""
    if type(value) in _DICTS:
        return all(type(key) in _SCALARS and _is_plain(item) for key, item in value.items())
    if type(value) in _LISTS:
        return all(map(_is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf"
    return type(value) in _SCALARS or isinstance(value, Tensor)


def _plain(value: Any) -> Any:
    """Return a plain value in types that `torch.load(weights_only=True)` reads."""
    if type(value) in _DICTS:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in _LISTS:
        return (tuple if type(value) is tuple else list)(map(_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return (_ARRAY, torch.from_numpy(np.array(value)))
    return value if not isinstance(value, Tensor) or value.is_leaf else value.detach()


def _give_value(holder: Any, key: Any, value: Any) -> None:
    """Set the value at a key of its holder."""
    if isinstance(holder, dict):
        holder[key] = _put(holder.get(key), value)
    elif isinstance(holder, list):
        holder[key] = _put(holder[key], value)
    else:
        _put(holder[key], value)  # of a tuple only the contents of its items change


def _put(old: Any, new: Any) -> Any:
    """Return the value to put in place of `old`: `old` itself, with new content, where others may hold it."""
    if isinstance(new, Tensor):
        return _put_tensor(old, new)
    if isinstance(new, tuple) and new[:1] == (_ARRAY,):
        # The index makes a numpy scalar of an array without axes, and leaves others as they are.
        return new[1].cpu().numpy()[()]
    if isinstance(new, dict) and isinstance(old, dict):
        content = {key: _put(old.get(key), item) for key, item in new.items()}
        old.clear()
        old.update(content)
        return old
    if isinstance(old, deque):
        return deque(new, old.maxlen)
    if isinstance(new, list | tuple) and type(old) is type(new) and len(old) == len(new):
        items = [_put(before, item) for before, item in zip(old, new, strict=True)]
        return _refilled(old, items) if isinstance(old, list) else tuple(items)
    return _refilled(old, new) if isinstance(new, list) and isinstance(old, list) else new


def _refilled(old: list[Any], items: list[Any]) -> list[Any]:
    """Replace the content of a list in place."""
    old[:] = items
    return old


@torch.no_grad()
def _put_tensor(old: Any, new: Tensor) -> Any:
    """Copy `new` into `old` if it is a leaf of the same shape and type; otherwise return `new`."""
    if not isinstance(old, Tensor) or old.shape != new.shape or old.dtype != new.dtype or not old.is_leaf:
        return new
    old.copy_(new)
    return old.requires_grad_(new.requires_grad)


def _of_optimizer(optimizer: Optimizer, names: Mapping[Tensor, Place]) -> dict[str, Any]:
    """Return an optimizer's groups and its memory of each parameter, with parameters given by place.

    A parameter that has no place (None) makes the optimizer unrestorable.
    """
    groups = []
    for group in optimizer.param_groups:
        options = {key: _plain(value) for key, value in group.items() if key != "params" and _is_plain(value)}
        groups.append({**options, "params": [names.get(parameter) for parameter in group["params"]]})
    state = {
        names[parameter]: {key: _plain(value) for key, value in remembered.items() if _is_plain(value)}
        for parameter, remembered in optimizer.state.items()
        if parameter in names
    }
    return {"groups": groups, "state": state}


def _give_optimizer(optimizer: Optimizer, taken: Mapping[str, Any], tensors: Mapping[Place, Tensor]) -> bool:
    """Restore an optimizer; return False, and change nothing, if it steps parameters that `tensors` lacks."""
    if not all(name in tensors for group in taken["groups"] for name in group["params"]):
        return False
    groups = optimizer.param_groups
    # In place, since schedulers and wrapped optimizers (Lookahead, SAM) share the list and the groups.
    groups[:] = [*groups, *({} for _ in taken["groups"])][: len(taken["groups"])]
    for group, options in zip(groups, taken["groups"], strict=True):
        group.update({**options, "params": [tensors[name] for name in options["params"]]})
    optimizer.state.clear()
    for name, remembered in taken["state"].items():
        optimizer.state[tensors[name]] = dict(remembered)
    return True
