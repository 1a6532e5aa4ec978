"""Know networks of the user's own: classes of included files, named `Class@digest` by the content of their file.

The digest makes a changed file another network, so it is part of each run's id; and it makes this table of files, which
a process fills as it includes them, true for every catalogue. A network is any `torch.nn.Module` that turns inputs
(B, ...) into features (B, D). `D`, and all else that planning asks, is found by building it and passing two inputs.

Imports torch only inside functions: names are checked without it.
"""

from __future__ import annotations

import ast
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dgbench.core.errors import UserError
from dgbench.core.imports import digest_of, import_file
from dgbench.core.wording import printable

_NAME = re.compile(r"([^\W\d]\w*)@([0-9a-f]{12})")
_OFFERED: Mapping[str, Callable[[Sequence[int]], Any]] = {
    "in_channels": lambda shape: shape[0],
    "in_chans": lambda shape: shape[0],
    "input_shape": tuple,
}
"""Parameter of `__init__` -> its value, of the shape of an input."""


@dataclass(frozen=True)
class _Source:
    """An included file, as it was when it was included."""

    file: Path
    classes: tuple[str, ...]
    """Names of the classes that it defines."""


_SOURCES: dict[str, _Source] = {}
"""Digest -> the file with that content."""


@dataclass(frozen=True)
class OwnFacts:
    """Facts about a network of the user's own on inputs of one shape, found by building it."""

    width: int
    """Number of features."""
    has: frozenset[str]
    """Keys of `needs.NEEDS` that it meets. Its stages and the layers that read the input are not known."""
    trained: bool
    """Whether it brings weights: most of those that train are the same each time it is built."""


def is_own(name: str) -> bool:
    """Return whether a name is the full name of a network of the user's own."""
    return _NAME.fullmatch(name) is not None


def add_source(file: Path) -> str:
    """Make the classes of a Python file known as networks; return the digest of its content."""
    content = file.read_bytes()
    digest = digest_of(content)
    try:
        body = ast.parse(content).body
    except (SyntaxError, ValueError):  # told by the catalogue, which imports the file
        body = []
    _SOURCES[digest] = _Source(file, tuple(node.name for node in body if isinstance(node, ast.ClassDef)))
    return digest


def full_name(name: str, digests: Sequence[str], known: Sequence[str]) -> str:
    """Return the full name of a class that one of the files defines; a name that none of them defines as it is.

    Args:
        name: A name as the user gives it.
        digests: Digests of the files.
        known: Names of other networks.

    Raises:
        UserError: Several files define the class, or another network has its name.
    """
    found = {own: file for own, file in classes_of(digests).items() if own.partition("@")[0] == name}
    if found and name in known:
        raise UserError(
            f"backbone {name!r} is one of dgbench's own, and a class of {next(iter(found.values()))}: rename the "
            f"class, or say {next(iter(found))} if you mean it"
        )
    if len(found) > 1:
        files = " and ".join(f"{file} ({own})" for own, file in found.items())
        raise UserError(f"several files define the network {name!r}: {files}; say the name in brackets")
    return next(iter(found), name)


def classes_of(digests: Sequence[str]) -> dict[str, Path]:
    """Return the full name of each class that files define, with its file.

    Args:
        digests: Digests of the files.
    """
    return {f"{cls}@{digest}": _SOURCES[digest].file for digest in digests for cls in _SOURCES[digest].classes}


def check_own(name: str) -> None:
    """Raise `UserError` if no included file has the content that a full name means, or it lacks the class."""
    cls, digest = name.split("@")
    source = _SOURCES.get(digest)
    if source is None:
        now = [f"{other.file} now has {cls}@{key}" for key, other in _SOURCES.items() if cls in other.classes]
        raise UserError(
            f"backbone {name!r} is a class of a file that is not included, or that has changed: "
            + (f"{', '.join(now)}. Put the file back, or use another folder" if now else "give it by --include FILE.py")
        )
    if cls not in source.classes:
        raise UserError(f"backbone {name!r}: {source.file} defines no class {cls}")


def make_own(name: str, input_shape: Sequence[int]) -> Any:
    """Build a network of the user's own, on the CPU, with weights from torch's global generator.

    Maps (B, D, H, W) become features by their mean over positions.

    Args:
        name: Full name.
        input_shape: Shape of one input, without the batch axis.

    Raises:
        UserError: The class is unknown, is no module, or can't be built; with the line of the user's file.
    """
    import torch

    cls, file = _class_of(name)
    arguments = _arguments(name, cls, input_shape)
    # Also within a block for another device, such as one without memory, on which `__init__` may not compute.
    with torch.device("cpu"):
        try:
            module = cls(**arguments)
        except Exception as error:
            raise UserError(f"backbone {name!r} can't be built: {_told(error, file)}") from error
        if any(isinstance(part, torch.nn.modules.lazy.LazyModuleMixin) for part in module.modules()):
            _outputs(name, module, torch.zeros(2, *input_shape), file)
    module.register_forward_hook(_pooled)
    return module


@cache
def inspect_own(name: str, input_shape: tuple[int, ...]) -> OwnFacts:
    """Return the facts about a network; raise `UserError` if it can't take such inputs or gives no features.

    Args:
        name: Full name.
        input_shape: Shape of one input, without the batch axis.
    """
    import torch

    _, file = _class_of(name)
    made = []
    # Building draws, so the caller's generator is put back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for seed in (0, 1):
            torch.manual_seed(seed)
            made.append(make_own(name, input_shape))
        features = _outputs(name, made[0], torch.rand(2, *input_shape), file)
    if not isinstance(features, torch.Tensor):
        raise UserError(f"backbone {name!r} returns {type(features).__name__}, not a tensor of features (B, D)")
    if features.dim() != 2 or len(features) != 2:
        shape = " x ".join(map(str, features.shape))
        raise UserError(f"backbone {name!r} returns {shape} of 2 inputs, not features (2, D), or maps (2, D, H, W)")
    return OwnFacts(int(features.shape[1]), frozenset(_met(made[0])), _trained(*made))


def _met(module: Any) -> Iterator[str]:
    """Yield the needs of methods that a network meets."""
    from torch import nn

    from dgbench.networks.norms import batch_norms, norms  # imports torch

    if any(parameter.requires_grad for parameter in module.parameters()):
        yield "learning_features"
    if any(isinstance(part, nn.Conv2d) for part in module.modules()):
        yield "convolutions"
    if norms(module):
        yield "norm"
    if batch_norms(module):
        yield "batch_norm"


def _class_of(name: str) -> tuple[Any, str]:
    """Return the class of a full name, imported from its file, and the name of the file in tracebacks."""
    from torch import nn

    check_own(name)
    cls, digest = name.split("@")
    source = _SOURCES[digest]
    if digest_of(source.file.read_bytes()) != digest:
        raise UserError(f"backbone {name!r}: {source.file} has changed since: put it back, or use another folder")
    try:
        # By its content, so that in a notebook an edited file is imported anew.
        module = import_file(source.file, f"dgbench_network_{digest}")
    except Exception as error:
        raise UserError(f"backbone {name!r} can't be imported: {_told(error, str(source.file))}") from error
    found = getattr(module, cls, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"backbone {name!r}: {cls} of {source.file} is no torch.nn.Module")
    return found, str(module.__file__)


def _arguments(name: str, cls: Any, input_shape: Sequence[int]) -> dict[str, Any]:
    """Return the arguments to build a class with; raise `UserError` if it needs others."""
    taken = [p for p in inspect.signature(cls).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if lacking := [p.name for p in taken if p.default is p.empty and p.name not in _OFFERED]:
        raise UserError(
            f"backbone {name!r} needs {', '.join(lacking)} to be built: give defaults to all that __init__ takes but "
            "in_channels and input_shape, or write a class that does"
        )
    return {p.name: _OFFERED[p.name](input_shape) for p in taken if p.name in _OFFERED}


def _outputs(name: str, module: Any, inputs: Any, file: str) -> Any:
    """Return the outputs of a module, without gradients; raise `UserError` if it fails."""
    import torch

    mode = module.training
    try:
        with torch.no_grad():
            return module.eval()(inputs)
    except Exception as error:
        shape = " x ".join(map(str, inputs.shape[1:]))
        raise UserError(f"backbone {name!r} can't take inputs of {shape}: {_told(error, file)}") from error
    finally:
        module.train(mode)


def _told(error: Exception, file: str) -> str:
    """Format an exception in a line, with the last line of the user's file that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f"{file}:{lines[-1]}: " if lines else ""
    return printable(f"{place}{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _pooled(_module: Any, _inputs: Any, features: Any) -> Any:
    """Return the mean of maps over positions, and all else as it is; a forward hook."""
    return features.mean((2, 3)) if getattr(features, "ndim", 0) == 4 else None


def _trained(one: Any, other: Any) -> bool:
    """Return whether most parameters that train, other than constants, are the same in two networks."""
    import torch

    pairs = [pair for pair in zip(one.parameters(), other.parameters(), strict=True) if pair[0].requires_grad]
    drawn = [(a, b) for a, b in pairs if a.numel() > 1 and bool((a != a.flatten()[0]).any())]
    same = sum(a.numel() for a, b in drawn if torch.equal(a, b))
    return bool(2 * same > sum(a.numel() for a, _ in drawn))
