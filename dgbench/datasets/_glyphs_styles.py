"""The six styles of `Glyphs`: the npm package of each, and functions that draw an item of it at 128 x 128 on white.

Packages hold SVG files, SVG fragments in JSON, or transparent images; `drawer` hides the difference.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.datasets._glyphs_items import Item, without_fe0f
from dgbench.datasets._npm import Package, contents

SIDE = 128
"""Side of a drawn image in pixels."""
Draw = Callable[[Item], NDArray[np.uint8]]
"""Item -> its image (SIDE, SIDE, 3), RGB."""

OPENMOJI = Package(
    "openmoji@17.0.0", "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w=="
)
_TWEMOJI = Package(
    "@twemoji/svg@15.0.0", "ZSPef2B6nBaYnfgdTbAy4jgW95o7pi2xPGwGCU+WMTxo7J6B1lMPTWwSq/wTuiMq+N0khQ90CcvYp1wFoQpo/w=="
)
_NOTO = Package(
    "@iconify-json/noto@1.2.9",
    "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
)
_FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d@1.1.0",
    "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
_FLUENT_HC = Package(
    "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
)

PACKAGES: Mapping[str, Package] = {
    "noto": _NOTO,
    "twemoji": _TWEMOJI,
    "flu_3d": _FLUENT_3D,
    "om_black": OPENMOJI,
    "om_color": OPENMOJI,
    "flu_hc": _FLUENT_HC,
}
"""Style -> its package. OpenMoji's package also holds the list of names that decides the items."""


def openmoji_list(tarball: Path) -> list[dict[str, Any]]:
    """Return the entries of OpenMoji's list of names."""
    found: list[dict[str, Any]] = json.loads(contents(tarball, "data/openmoji.json")[""])
    return found


def check_installed() -> None:
    """Raise UserError if the library that draws SVG is not installed."""
    if importlib.util.find_spec("resvg_py") is None:
        raise UserError("drawing SVG needs resvg-py, which is not installed: pip install 'dgbench[glyphs]'")


def drawer(style: str, tarball: Path) -> Draw:
    """Return the function that draws the items of a style from its package.

    Args:
        style: A key of `PACKAGES`.
        tarball: The style's package.
    """
    if style in ("noto", "flu_hc"):
        return _icons(contents(tarball, "icons.json")[""], contents(tarball, "chars.json")[""])
    if style == "flu_3d":
        return _pictures(contents(tarball, "assets/"))
    folders = {"twemoji": "", "om_black": "black/svg/", "om_color": "color/svg/"}
    return _drawings(contents(tarball, folders[style]))


def _icons(icons: bytes, chars: bytes) -> Draw:
    """Return a function that draws items of a JSON icon set: `chars` maps code to name, `icons` name to SVG body."""
    of_set = json.loads(icons)
    names = {without_fe0f(code): name for code, name in json.loads(chars).items()}

    def draw(item: Item) -> NDArray[np.uint8]:
        icon = of_set["icons"][names[item.code]]
        width, height = icon.get("width", of_set["width"]), icon.get("height", of_set["height"])
        head = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return _rasterize(f'<svg {head} viewBox="0 0 {width} {height}">{icon["body"]}</svg>')

    return draw


def _drawings(files: Mapping[str, bytes]) -> Draw:
    """Return a function that draws items from SVG files named by their code."""
    by_code = {without_fe0f(name.removesuffix(".svg")): content for name, content in files.items() if "/" not in name}
    return lambda item: _rasterize(by_code[item.code].decode())


def _pictures(files: Mapping[str, bytes]) -> Draw:
    """Return a function that draws items from transparent images named by their code, of a multiple of SIDE pixels."""
    by_code = {without_fe0f(name.rpartition(".")[0]): content for name, content in files.items()}

    def draw(item: Item) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(by_code[item.code])) as file:
            image = file.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return np.asarray(white.convert("RGB").reduce(image.width // SIDE))

    return draw


def _rasterize(svg: str) -> NDArray[np.uint8]:
    """Draw an SVG at (SIDE, SIDE, 3) on white, without the machine's fonts, so that all machines draw the same."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, background="#ffffff", skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.asarray(image.convert("RGB"))
