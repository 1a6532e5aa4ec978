"""Writes tiny copies of Glyphs and of its features, as `download` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dgbench.datasets import glyphs, glyphs_features
from dgbench.datasets._glyphs_items import CLASSES, Item
from dgbench.datasets._packed import write_packed


def write_glyphs(data_dir: Path, n: int = 5) -> tuple[Item, ...]:
    """Glyphs with n items of noise, other noise in each style; the first two are one identity."""
    items = _items(n)
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"items": _lines(items)}
    for domain in glyphs.Glyphs.card.domains:
        large = rng.integers(0, 256, (n, 3, 128, 128), np.uint8)
        arrays |= {f"{domain}_128": large, f"{domain}_64": glyphs.halved(large)}
    write_packed(data_dir, "Glyphs", glyphs.made_from(glyphs.Glyphs.card.domains, items), arrays)
    return items


def write_glyphs_features(data_dir: Path, n: int = 5) -> tuple[Item, ...]:
    """GlyphsFeatures with n items, whose features are noise."""
    items, card = _items(n), glyphs_features.GlyphsFeatures.card
    rng = np.random.default_rng(0)
    arrays = {domain: rng.random((n, *card.input_shape), np.float32) for domain in card.domains}
    made_from = glyphs_features.computed_from(glyphs.made_from(card.domains, items))
    write_packed(data_dir, card.folder, made_from, {"items": _lines(items), **arrays}, "features.npz")
    return items


WRITERS = {"Glyphs": write_glyphs, "GlyphsFeatures": write_glyphs_features}


def _items(n: int) -> tuple[Item, ...]:
    kinds = ["cat", "cat", *(f"thing {i}" for i in range(2, n))]
    return tuple(Item(f"{i:X}", CLASSES[max(0, i - 1) % 3], kind, f"{kind} {i}") for i, kind in enumerate(kinds))


def _lines(items: tuple[Item, ...]) -> Any:
    return np.array(["\t".join(item) for item in items])
