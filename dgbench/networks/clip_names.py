"""Read names of CLIP's networks, and look up their configuration, without building or importing any.

A name is `clip:ARCHITECTURE.TAG`, an architecture of open_clip and the tag of its published weights
(`clip:ViT-B-32.openai`), `clip:ARCHITECTURE` for weights of a file, or `clip:FOLDER`, where the folder holds
`open_clip_config.json` and the weights as open_clip writes them. Configurations are JSON files that lie in the package,
which itself takes seconds to import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name

PREFIX = "clip:"
"""Beginning of the names."""
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
"""Names of weights in a folder or repository, the preferred one first."""
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's mean and deviation of each channel, which hold where a configuration names no others."""


class ClipName(NamedTuple):
    """The parts of a name."""

    architecture: str
    """open_clip's name; empty for a folder."""
    tag: str = ""
    """open_clip's name of published weights; empty if the name has none."""
    folder: str = ""
    """Path of the folder; empty for an architecture."""


def is_clip(name: str) -> bool:
    """Return whether a backbone's name is of this form."""
    return name.startswith(PREFIX)


def parse(name: str) -> ClipName:
    """Return the parts of a name, for which `is_clip` is true."""
    rest = name.removeprefix(PREFIX)
    if "/" in rest:
        return ClipName("", folder=rest)
    architecture, _, tag = rest.partition(".")
    return ClipName(architecture, tag)


def package() -> Path:
    """Return the folder of open_clip; raise `UserError` if it is not installed."""
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("backbones of CLIP need the package open_clip_torch: pip install 'dgbench[clip]'")
    return Path(spec.submodule_search_locations[0])


@cache
def import_open_clip() -> Any:
    """Import open_clip without transformers, which it would import for text towers that dgbench doesn't build.

    This takes 2 seconds instead of 8.
    """
    package()
    hidden = "transformers" not in sys.modules
    if hidden:
        # None makes an import fail as if the package were not installed, which open_clip expects.
        sys.modules["transformers"] = None  # type: ignore[assignment]
    try:
        import open_clip
    finally:
        if hidden:
            del sys.modules["transformers"]
    return open_clip


def architectures() -> list[str]:
    """Return the names of open_clip's architectures, sorted."""
    return sorted(path.stem for path in (package() / "model_configs").glob("*.json"))


def configuration(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a network: `embed_dim`, `vision_cfg`, `text_cfg` and further keys.

    Raises:
        UserError: open_clip is not installed, it has no such architecture, there is no such folder, or the network is
            of a kind that dgbench doesn't build.
    """
    found = dict(_read(name).get("model_cfg", {}) if parse(name).folder else _of_package(name))
    if unfit := [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in found]:
        raise UserError(f"the configuration of backbone {name!r} lacks {', '.join(unfit)}")
    if "multimodal_cfg" in found:
        raise UserError(f"backbone {name!r} is a CoCa, which has a decoder beside its two towers: choose a CLIP")
    if found["text_cfg"].get("hf_model_name"):
        raise UserError(
            f"the text tower of backbone {name!r} is a model of transformers: choose one of open_clip's own"
        )
    return found


def _of_package(name: str) -> dict[str, Any]:
    """Return the configuration of an architecture."""
    architecture = parse(name).architecture
    path = package() / "model_configs" / f"{architecture}.json"
    if not architecture or not path.is_file():
        known = [f"{PREFIX}{other}" for other in architectures()]
        raise UserError(unknown_name("backbone", f"{PREFIX}{architecture}", known))
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _read(name: str) -> dict[str, Any]:
    """Return the content of a folder's configuration."""
    package()
    path = Path(parse(name).folder, _CONFIG)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"backbone {name!r} names a folder with {_CONFIG}, which can't be read: {why}") from None
    return content if isinstance(content, dict) else {}


def check_clip(name: str) -> None:
    """Raise `UserError` if there is no such network, or if open_clip has no weights of the name's tag."""
    configuration(name)
    published(name)


def check_clip_weights(name: str) -> None:
    """Raise `UserError` if a name stands for no weights; the hub is not contacted."""
    if parse(name).folder:
        local_weights(name)
    else:
        repository(name)


def preprocessing(name: str) -> Mapping[str, Any]:
    """Return `mean`, `std` and `interpolation` of the images that a network's weights were made with."""
    of = parse(name)
    found = _read(name).get("preprocess_cfg", {}) if of.folder else published(name)
    filled = {"mean": _MEAN, "std": _STD, "interpolation": "bicubic"}
    return filled | {key: found[key] for key in filled if found.get(key)}


def published(name: str) -> Mapping[str, Any]:
    """Return open_clip's facts about the published weights of a name with a tag; empty for others.

    Raises:
        UserError: open_clip has no weights of that tag.
    """
    of = parse(name)
    if not of.tag:
        return {}
    configuration(name)
    pretrained = import_open_clip().pretrained
    facts: dict[str, Any] = pretrained.get_pretrained_cfg(of.architecture, of.tag)
    if not facts:
        known = [
            f"{PREFIX}{of.architecture}.{tag}" for tag in pretrained.list_pretrained_tags_by_model(of.architecture)
        ]
        raise UserError(unknown_name("weights of a backbone", name, known))
    return facts


def published_names(word: str) -> list[str]:
    """Return the names, with tags of published weights, of CLIPs that dgbench builds and whose architecture has a word.

    There are none where open_clip is not installed. A tag counts as a word if an architecture's name stands before it.
    """
    architecture = word.casefold().partition(".")[0]
    # From the names of files, since most searches are for networks of timm, and importing open_clip takes seconds.
    if find_spec("open_clip") is None or not any(architecture in f"{PREFIX}{of}".casefold() for of in architectures()):
        return []
    names = [f"{PREFIX}{of}.{tag}" for of, tag in import_open_clip().pretrained.list_pretrained()]
    return [name for name in names if word.casefold() in name.casefold() and _is_built(name)]


def _is_built(name: str) -> bool:
    try:
        check_clip(name)
    except UserError:
        return False
    return True


def images_of(name: str) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images that a network was made for."""
    size = configuration(name)["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return 3, int(height), int(width)


def weights_of(name: str) -> str:
    """Return the repository on the hub, or the file, of a network's weights; `none` if its name stands for none."""
    try:
        return str(local_weights(name)) if parse(name).folder else repository(name)[0]
    except UserError:
        return "none"


def local_weights(name: str) -> Path:
    """Return the file of weights in a name's folder; raise `UserError` if it has none."""
    folder = Path(parse(name).folder)
    for file in _WEIGHTS:
        if (folder / file).is_file():
            return folder / file
    raise UserError(
        f"backbone {name!r} names a folder without weights ({' or '.join(_WEIGHTS)}): give a file by "
        "--backbone_weights, or train from scratch with --set pretrained=false"
    )


def repository(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the repository on the hub with a name's published weights, and the names that their file may have.

    Raises:
        UserError: The name has no tag, an unknown one, or one whose weights are on no hub.
    """
    of = parse(name)
    if not of.tag:
        raise UserError(
            f"backbone {name!r} names no weights: add open_clip's tag ({name}.openai, for one), give a file by "
            "--backbone_weights, or train from scratch with --set pretrained=false"
        )
    place = str(published(name).get("hf_hub") or "")
    owner, _, rest = place.partition("/")
    repository, _, file = rest.partition("/")
    if not repository:
        raise UserError(f"the weights of backbone {name!r} are on no hub: give their file by --backbone_weights")
    return f"{owner}/{repository}", (file,) if file else _WEIGHTS


def zero_shot_problem(name: str) -> str:
    """Return the reason why class names can't be read by a network's text tower; empty if they can."""
    if not is_clip(name):
        return f"names of classes are read by a CLIP's text tower (backbone 'clip:ViT-B-32.openai'), not by {name!r}"
    if configuration(name)["text_cfg"].get("hf_tokenizer_name"):
        return f"the tokenizer of backbone {name!r} is a model of transformers: choose a CLIP with open_clip's own"
    return ""
