"""Find a network's tensors in a checkpoint, under all names and at any depth that other projects nest them.

A file is flattened to names with dots: `{"teacher": {"backbone.conv1.weight": ...}}` has the tensor
`teacher.backbone.conv1.weight`. The network's own names, `conv1.weight` and so on, then show the prefix below which it
is: `teacher.backbone.`. So the formats of DINO, MoCo, WILDS, DomainBed, Lightning and others need no table.

Imports torch only inside functions, so that commands can name a file without it.
"""

from __future__ import annotations

import io
import pickle
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.core.errors import UserError
from dgbench.core.wording import group_values, printable

if TYPE_CHECKING:
    from torch import Tensor

_SECOND = {"student", "encoder_k", "momentum_encoder", "target_encoder", "target_network", "ema", "model_ema"}
_SECOND |= {"state_dict_ema"}
"""Words in the prefix of a network that is beside the intended one: a teacher's student, the slow copy of a fast
network."""
_CONTAINERS = ("state_dict", "model_state_dict", "model_dict", "model", "teacher", "algorithm")
"""Names of dicts that hold a network's tensors, in checkpoints with other content beside them."""
_WRAPPERS = (*_CONTAINERS, "module", "_orig_mod", "network", "backbone", "encoder")
"""Prefixes to strip if a checkpoint's names are not the network's, which then show no prefix. All tensors must be below
it, except that what is beside a container is no part of the network."""
_COUNTS = "num_batches_tracked"
"""Buffer that old checkpoints lack."""
_SHOWN = 8
"""Names that a message lists."""
_TO_SAFE = (
    "import sys, torch; t = lambda c: c.state_dict() if hasattr(c, 'state_dict') else {k: t(v) for k, v in c.items() "
    "if hasattr(v, 'items') or hasattr(v, 'state_dict') or torch.is_tensor(v)} if hasattr(c, 'items') else c; "
    "torch.save(t(torch.load(sys.argv[1], map_location='cpu', weights_only=False)), sys.argv[2])"
)
"""Program that writes the tensors of a trusted file to a safe one, for the message that refuses the file."""


def parse_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, without unpickling objects.

    Args:
        content: Bytes of the file: safetensors, or tensors in mappings of any depth by `torch.save`.
        path: Path of the file, for its extension and for messages.

    Returns:
        Names with dots -> tensors, on the CPU.

    Raises:
        UserError: The file can't be read; or it holds other objects, with the way to a file that does not; or no
            tensors, with its keys.
    """
    import torch
    from safetensors.torch import load

    try:
        if path.suffix == ".safetensors":
            found: Any = load(content)
        else:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch raises one class for damaged files and for refused objects; only the text differs.
        if "eights only load failed" not in str(error):
            raise _unreadable(path, error) from None
        raise UserError(_with_objects(content, path)) from None
    except Exception as error:
        raise _unreadable(path, error) from None
    tensors = dict(_flat(found, ""))
    if not tensors:
        keys = f"it has the keys {_listed(map(str, found))}" if isinstance(found, Mapping) else f"it is {type(found)}"
        raise UserError(f"--backbone_weights {path} holds no named tensors: {keys}")
    return tensors


def _unreadable(path: Path, error: Exception) -> UserError:
    """Word the error of a file that can't be read."""
    why = printable(str(error).partition("\n")[0])
    return UserError(f"--backbone_weights {path} can't be read as tensors ({type(error).__name__}: {why})")


def _with_objects(content: bytes, path: Path) -> str:
    """Word the refusal of a file that holds objects, with a command that converts it."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        names = f" ({_listed(sorted(get_unsafe_globals_in_checkpoint(io.BytesIO(content))))})"
    except Exception:  # files of old versions of torch can't be inspected
        names = ""
    safe = path.with_name(f"{path.stem}-tensors.pth")
    command = f'python -c "{_TO_SAFE}" {shlex.quote(str(path))} {shlex.quote(str(safe))}'
    return (
        f"--backbone_weights {path} holds Python objects{names}, which can run any code when they are read. If you "
        f"trust its source, write its tensors to a safe file, and give that one: {command}"
    )


def _flat(found: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (name with dots, tensor) of nested mappings."""
    import torch

    if isinstance(found, torch.Tensor):
        yield name, found
    elif isinstance(found, Mapping):
        for key, value in found.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))


def select_network(tensors: Mapping[str, Tensor], own: Iterable[str], source: str) -> dict[str, Tensor]:
    """Return the tensors of one network, under their names in it; all others are left out.

    Args:
        tensors: All tensors of a file.
        own: Names of the network's tensors.
        source: Name of the file, for messages.

    Raises:
        UserError: The file has several networks with different weights; with their prefixes.
    """
    places = _places(tensors, [name for name in own if not name.endswith(_COUNTS)])
    first = [place for place in places if not _SECOND.intersection(place.split("."))] or places
    found = [_below(tensors, place) for place in first]
    if any(not _equal(found[0], other, own) for other in found[1:]):
        raise UserError(f"{source} holds several networks, below {_listed(first)}: save one of them alone")
    if found:
        return found[0]
    # No prefix fits: the names are another project's. Strip wrappers, and leave the rest to the caller, who knows of
    # renamings.
    rest = dict(tensors)
    while word := next((word for word in _WRAPPERS if _is_wrapped(rest, word)), None):
        rest = _below(rest, f"{word}.")
    return rest


def _is_wrapped(names: Iterable[str], word: str) -> bool:
    """Return whether a prefix can be stripped: all names have it, or some do and it is a container's."""
    inside = [name.startswith(f"{word}.") for name in names]
    return any(inside) if word in _CONTAINERS else bool(inside) and all(inside)


def _places(tensors: Mapping[str, Tensor], own: Sequence[str]) -> list[str]:
    """Return the prefixes under which all names of a network are present."""
    # One name is enough to suggest prefixes, and the longest is the least likely to be found by chance.
    longest = max(own, key=len, default="")
    ends = [name.removesuffix(longest) for name in tensors if longest and f".{name}".endswith(f".{longest}")]
    return [place for place in ends if all(place + name in tensors for name in own)]


def _below(tensors: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """Return the tensors below a prefix, without it."""
    return {name.removeprefix(place): tensor for name, tensor in tensors.items() if name.startswith(place)}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor], own: Iterable[str]) -> bool:
    """Return whether two networks have equal tensors, of those that both have."""
    import torch

    return all(torch.equal(one[name], other[name]) for name in own if name in one and name in other)


def describe_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Summarize a file by the first words of its names: `'head' (2 tensors), 'visual' (150 tensors)`."""
    words = group_values((name.partition(".")[0], name) for name in tensors)
    return ", ".join(f"{_listed([word])} ({len(names)} tensors)" for word, names in list(words.items())[:_SHOWN])


def _listed(names: Iterable[str]) -> str:
    """Quote names for a message, and count those that are too many to list."""
    shown = [f"'{printable(name)}'" for name in names]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
