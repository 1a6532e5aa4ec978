"""A CLIP small enough for tests, as open_clip writes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
"""Two towers of two layers. The vocabulary is that of open_clip's tokenizer."""


def save_clip(folder: Path, **changes: Any) -> str:
    """Write a tiny CLIP with random weights; its name as a backbone."""
    import torch
    from safetensors.torch import save_file

    from dgbench.networks.clip_names import import_open_clip

    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | changes
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = import_open_clip().CustomTextCLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return f"clip:{folder}"
