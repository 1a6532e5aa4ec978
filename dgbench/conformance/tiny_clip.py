"""Name a CLIP small enough to train in a moment, for methods that need one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
"""Configuration of the CLIP. The vocabulary is that of open_clip's tokenizer."""


@cache
def tiny_clip() -> str:
    """Return the name of a backbone of that configuration, without weights, whose folder ends with the process."""
    folder = _folder()
    Path(folder.name, "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    return f"clip:{folder.name}"


@cache
def _folder() -> TemporaryDirectory[str]:
    """Make the folder, which is removed with the object that this keeps."""
    return TemporaryDirectory(prefix="dgbench-clip-")
