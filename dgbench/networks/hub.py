"""Hugging Face's hub: what is in this machine's cache of it nobody is asked for; all else is fetched into it once.

The cache is `~/.cache/huggingface`, or what the environment's HF_HOME names: machines that share that folder share what
is in it. `launch` fetches before any run starts, so that runs need no network.
Imports torch, timm and huggingface_hub only inside functions: planning asks this module, and does without them.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dgbench.core.errors import UserError
from dgbench.networks.backbones import check_weights

_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights of a network of timm are called there, the better one first."""
_ANSWERS_WITHIN = 10.0
"""Seconds after which the hub counts as unreachable; its own loaders try again for a minute."""
_SILENT_FOR = 60.0
"""Seconds without a byte after which another host counts as gone."""


def timm_file(name: str) -> Path:
    """The file with timm's pretrained weights for the network of that name; raises `UserError` with the ways out."""
    import timm

    check_weights(name)
    facts: Any = timm.get_pretrained_cfg(name)
    try:
        return _of_hub(facts.hf_hub_id) if facts.hf_hub_id else _of_host(facts.url)
    except Exception as error:  # huggingface_hub's, those of the client that it asks by, the operating system's
        why = str(error).partition("\n")[0]
        raise UserError(
            f"the weights of backbone {name!r} could not be fetched ({type(error).__name__}: {why}). Fetch them once "
            "where there is a network and copy ~/.cache/huggingface here, or give a file by --backbone_weights, or "
            "train from scratch with --hparams '{\"pretrained\": false}'"
        ) from error


def from_hub(load: Callable[..., Any], name: str) -> Any:
    """What a loader of transformers, `load(name, local_files_only=...)`, makes of a folder or a name on the hub.

    Raises OSError with the reason in one line.
    """
    try:
        return load(name, local_files_only=True)
    except Exception as error:  # of many kinds where a file lacks
        if Path(name).is_dir():
            raise OSError(str(error).partition("\n")[0]) from error
    from huggingface_hub import model_info

    try:
        model_info(name, timeout=_ANSWERS_WITHIN)
        return load(name, local_files_only=False)
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}".partition("\n")[0]) from error


def cached_file(name: str, file: str) -> Path | None:
    """That file of a folder, or of what is cached of a name on the hub; None if it isn't there."""
    if Path(name).is_dir():
        return Path(name, file) if Path(name, file).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None


def _of_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download, model_info

    for file in _FILES:
        if path := cached_file(repository, file):
            return path
    there = {sibling.rfilename for sibling in model_info(repository, timeout=_ANSWERS_WITHIN).siblings or ()}
    found = next((file for file in _FILES if file in there), None)
    if found is None:
        raise FileNotFoundError(f"{repository} has neither {' nor '.join(_FILES)}")
    return Path(hf_hub_download(repository, found))


def _of_host(url: str) -> Path:
    """Of the few whose weights are not on the hub: where PyTorch keeps what it fetches."""
    import torch

    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)  # by PyTorch's custom the name holds the begin of the hash
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENT_FOR)  # PyTorch gives none, and would wait for ever for a host that fell silent
    try:
        torch.hub.download_url_to_file(url, str(path), named and named[1], progress=sys.stderr.isatty())
    finally:
        socket.setdefaulttimeout(before)
    return path
