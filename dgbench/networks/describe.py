"""Describe networks in lines of text: their aliases, inputs, weights, and unmet needs of methods."""

from __future__ import annotations

from collections.abc import Iterator

from dgbench.core.needs import NEEDS
from dgbench.networks.backbones import ALIASES, BUILTIN_BACKBONES, interpolation_of, lacking, resolve_backbone, takes
from dgbench.networks.clip_names import images_of, is_clip, weights_of


def alias_summaries() -> dict[str, str]:
    """Return the networks that each alias stands for, by the kind of inputs."""
    shapes = {
        "vectors": ("vectors", (1,)),
        "graphs": ("graphs", (1, 1)),
        "images of 28 x 28": ("images", (1, 28, 28)),
        "images under 112 pixels": ("images", (3, 64, 64)),
        "larger images": ("images", (3, 224, 224)),
    }
    return {
        name: ", ".join(f"{resolve_backbone(name, *shape)} for {what}" for what, shape in shapes.items())
        for name in ALIASES
    }


def describe_backbone(name: str) -> Iterator[str]:
    """Yield lines on a network: its inputs, its weights, and the needs of methods that it doesn't meet.

    Args:
        name: A built-in network, one of timm, or a CLIP of open_clip.
    """
    shape: tuple[int, ...] = (3, 64, 64)
    yield f"takes {' or '.join(takes(name))}"
    if is_clip(name):
        shape = images_of(name)
        yield f"made for images of {' x '.join(map(str, shape))}, resized by {interpolation_of(name)} interpolation"
        yield f"pretrained weights: {weights_of(name)}"
    elif name not in BUILTIN_BACKBONES:
        import timm  # with torch, so only for its networks

        if config := timm.get_pretrained_cfg(name):
            shape = tuple(config.input_size)
            yield f"made for images of {' x '.join(map(str, shape))}, resized by {interpolation_of(name)} interpolation"
            yield f"pretrained weights: {config.hf_hub_id or config.url or 'yes' if config.has_weights else 'none'}"
    missing = [NEEDS[need] for need in sorted(lacking(name, shape)) if need in NEEDS]
    yield f"has not what some methods need: {'; '.join(missing)}" if missing else "has what every method needs"
