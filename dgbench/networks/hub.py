"""Read pretrained weights and language models from this machine's copy of their hub, downloading missing files once.

The copy is the cache of Hugging Face's client, `~/.cache/huggingface` or the folder that HF_HOME names: machines that
share the folder share its content. If a file is cached, no request is made. A launch downloads before any run starts,
so that runs need no network.

Imports torch, timm and huggingface_hub only inside functions: planning imports this module and does without them.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.core.errors import UserError
from dgbench.networks.backbones import check_weights
from dgbench.networks.checkpoints import parse_tensors
from dgbench.networks.clip_names import local_weights, parse, repository

if TYPE_CHECKING:
    from torch import Tensor

_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights of a timm network on the hub, the preferred one first."""
_ANSWERS_WITHIN = 10.0
"""Seconds after which the hub counts as unreachable; its own loaders keep trying for a minute."""
_SILENT_FOR = 60.0
"""Seconds without a byte after which any other host counts as gone."""


def timm_file(name: str) -> Path:
    """Return the file with timm's pretrained weights of a network, downloaded first if need be.

    Raises:
        UserError: It can't be had; with the ways out.
    """
    import timm

    check_weights(name)
    facts: Any = timm.get_pretrained_cfg(name)
    try:
        return _of_hub(facts.hf_hub_id) if facts.hf_hub_id else _of_host(facts.url)
    except Exception as error:  # of huggingface_hub, of its HTTP client, of the operating system
        why = str(error).partition("\n")[0]
        raise UserError(
            f"the weights of backbone {name!r} could not be fetched ({type(error).__name__}: {why}). Fetch them once "
            "where there is a network and copy ~/.cache/huggingface here, or give a file by --backbone_weights, or "
            "train from scratch with --set pretrained=false"
        ) from error


def clip_file(name: str) -> Path:
    """Return the file with the weights of a CLIP: in its folder, or published by open_clip and downloaded if need be.

    Raises:
        UserError: It can't be had; with the ways out.
    """
    if parse(name).folder:
        return local_weights(name)
    place, files = repository(name)
    try:
        return _of_hub(place, files)
    except Exception as error:  # as in `timm_file`
        why = str(error).partition("\n")[0]
        raise UserError(
            f"the weights of backbone {name!r} could not be fetched ({type(error).__name__}: {why}). Fetch them once "
            "where there is a network and copy ~/.cache/huggingface here, or give a file by --backbone_weights"
        ) from error


def clip_tensors(name: str) -> tuple[dict[str, Tensor], str]:
    """Return all tensors of the weights of a CLIP, and the path of their file."""
    path = clip_file(name)
    return parse_tensors(path.read_bytes(), path), str(path)


def from_hub(load: Callable[..., Any], name: str) -> Any:
    """Return the result of a loader of transformers, from a folder, the cache, or at last the hub.

    Args:
        load: Called as `load(name, local_files_only=...)`.
        name: Of a folder, or of a repository on the hub.

    Raises:
        OSError: With the reason in one line.
    """
    try:
        return load(name, local_files_only=True)
    except Exception as error:  # of many kinds where a file is missing
        if Path(name).is_dir():
            raise OSError(str(error).partition("\n")[0]) from error
    from huggingface_hub import model_info

    try:
        model_info(name, timeout=_ANSWERS_WITHIN)
        return load(name, local_files_only=False)
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}".partition("\n")[0]) from error


def cached_file(name: str, file: str) -> Path | None:
    """Return the path of a file in a folder, or in the cached copy of a repository; None if it isn't there.

    Args:
        name: Of the folder or repository.
        file: Name of the file in it.
    """
    if Path(name).is_dir():
        return Path(name, file) if Path(name, file).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None


def _of_hub(repository: str, files: Sequence[str] = _FILES) -> Path:
    """Return the weights in a repository, the first of `files` that it has, from the cache or downloaded into it."""
    from huggingface_hub import hf_hub_download, model_info

    for file in files:
        if path := cached_file(repository, file):
            return path
    there = {sibling.rfilename for sibling in model_info(repository, timeout=_ANSWERS_WITHIN).siblings or ()}
    found = next((file for file in files if file in there), None)
    if found is None:
        raise FileNotFoundError(f"{repository} has neither {' nor '.join(files)}")
    return Path(hf_hub_download(repository, found))


def _of_host(url: str) -> Path:
    """Return the weights at a URL, for the few networks that are not on the hub, in PyTorch's own cache."""
    import torch

    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # PyTorch's convention: the name holds the first digits of the sha256, which the download is checked by.
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    before = socket.getdefaulttimeout()
    # PyTorch sets no timeout, and would wait for ever for a host that fell silent.
    socket.setdefaulttimeout(_SILENT_FOR)
    try:
        torch.hub.download_url_to_file(url, str(path), named and named[1], progress=sys.stderr.isatty())
    finally:
        socket.setdefaulttimeout(before)
    return path
