"""Build CLIP's networks by open_clip, and the image tower as a featurizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.core.errors import UserError
from dgbench.networks.clip_names import configuration, import_open_clip, published
from dgbench.networks.norms import batch_norms, norms

_NO_IMAGES = {"patch_size": 8, "width": 8, "head_width": 8, "layers": 1}
_NO_TEXT = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
"""Configurations of towers that are dropped as soon as they are built."""


class ClipFeaturizer(nn.Module):
    """The image tower of a CLIP: images (B, 3, H, W) to the embeddings (B, n) that it compares with those of texts.

    Images of one channel are repeated to three.

    Args:
        visual: open_clip's image tower.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.unit = False
        """True if embeddings are scaled to length 1, so that a linear classifier sees cosines."""
        blocks = getattr(getattr(visual, "transformer", None), "resblocks", ())
        if blocks:
            self.feature_info = [{"module": f"visual.transformer.resblocks.{i}"} for i in range(len(blocks))]
            """Its stages, in the form that timm's networks list theirs."""

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings (B, n)."""
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        features: Tensor = self.visual(x)
        return F.normalize(features, dim=1) if self.unit else features


def clip_featurizer(name: str, input_shape: Sequence[int]) -> tuple[ClipFeaturizer, int]:
    """Build the featurizer of a CLIP with random weights, and return its number of features too.

    Args:
        name: Of the network.
        input_shape: (C, H, W), with 1 or 3 channels.

    Raises:
        UserError: There is no such network, or it can't take the images.
    """
    return ClipFeaturizer(build_clip(name, input_shape, text_tower=False).visual), int(configuration(name)["embed_dim"])


def build_clip(name: str, input_shape: Sequence[int], *, image_tower: bool = True, text_tower: bool = True) -> Any:
    """Build open_clip's model of a name for images of a size, with random weights.

    Args:
        name: Of the network.
        input_shape: (C, H, W), with 1 or 3 channels.
        image_tower: False: it is not used, so the smallest takes its place.
        text_tower: The same for the tower of texts.

    Returns:
        A `CustomTextCLIP`, whose towers are `visual` and `text`.

    Raises:
        UserError: There is no such network, or it can't take the images.
    """
    config = configuration(name)
    channels, *size = input_shape
    if channels not in (1, 3):
        raise UserError(f"backbone {name!r} takes images of 1 or 3 channels, and these have {channels}")
    text = config["text_cfg"] if text_tower else _NO_TEXT
    vision = config["vision_cfg"] if image_tower else _NO_IMAGES
    vision = {**vision, "image_size": size[0] if size[0] == size[1] else tuple(size)}
    if "timm_model_name" in vision:
        # Configurations may ask for timm's weights below CLIP's own, which would replace them at once.
        vision["timm_model_pretrained"] = False
    kept = ("quick_gelu", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale")
    further = {key: config[key] for key in kept if key in config}
    if "quick_gelu" in (facts := published(name)):  # depends on the weights, not on the architecture alone
        further["quick_gelu"] = facts["quick_gelu"]
    try:
        return import_open_clip().CustomTextCLIP(config["embed_dim"], vision, dict(text), **further)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(
            f"backbone {name!r} can't be built for images of {' x '.join(map(str, size))} ({why})"
        ) from error


def checkpoint_filter_fn(tensors: Mapping[str, Tensor], featurizer: nn.Module) -> dict[str, Tensor]:
    """Return those of a file's tensors that a featurizer has, under its names; `weights` looks for this name.

    Args:
        tensors: All tensors of the file.
        featurizer: A `ClipFeaturizer`.
    """
    found = in_open_clips_words(tensors, featurizer)
    return {name: tensor for name, tensor in found.items() if name.startswith("visual.")}


def in_open_clips_words(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return tensors under the names of `CustomTextCLIP`, with positions resampled for the model's size of images.

    Args:
        tensors: All tensors of a file, which may name those of the text tower without `text.` before.
        model: Has the image tower as `visual`.
    """
    open_clip = import_open_clip()
    known = open_clip.convert.convert_state_dict(model, dict(tensors))
    found: dict[str, Tensor] = open_clip.model.convert_to_custom_text_state_dict(known)
    open_clip.model.resize_pos_embed(found, model)
    return found


@cache
def inspect_clip(name: str, input_shape: tuple[int, ...]) -> frozenset[str]:
    """Return the keys of `needs.NEEDS`, and `backbones.EMBEDDING`, that a network meets, where it depends on that.

    Args:
        name: Of the network.
        input_shape: (C, H, W) of the images.

    Raises:
        UserError: There is no such network, or it can't take the images.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        featurizer, _ = clip_featurizer(name, input_shape)
        try:
            featurizer(torch.empty(1, *input_shape))
        except Exception as error:
            why = str(error).partition("\n")[0]
            size = " x ".join(map(str, input_shape))
            raise UserError(f"backbone {name!r} can't take images of {size} ({why}): set another image_size") from error
    transformer = hasattr(featurizer, "feature_info")
    has = {
        "stages": transformer,
        "stage_modules": transformer,
        "embedding": transformer,
        "norm": bool(norms(featurizer)),
        "batch_norm": bool(batch_norms(featurizer)),
        "convolutions": not transformer and any(isinstance(module, nn.Conv2d) for module in featurizer.modules()),
    }
    return frozenset(what for what, is_there in has.items() if is_there)
