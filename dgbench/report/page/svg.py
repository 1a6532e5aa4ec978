"""Turn a drawn figure into SVG that is part of a page: it follows the page's colors and explains its marks on hover."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dgbench.report.figures.style import COLOR_NAMES, SETTINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_TAG = re.compile(r"<[^>]*>")
"""An element's tag with its attributes; `>` in their values is escaped."""


def to_inline(figure: Figure, name: str, title: str, tips: Mapping[str, Sequence[str]]) -> str:
    """Return a figure as an `svg` element without namespaces, outside addresses or fixed colors.

    Args:
        figure: The figure.
        name: The prefix of its ids, which no other figure of the page has.
        title: The text alternative.
        tips: Group id of an artist -> the text for each of its marks, in the order of drawing.
    """
    import matplotlib  # an extra, which pages alone need

    file = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    text = re.sub(r"<!DOCTYPE[^>]*>|<\?xml[^>]*>", "", file.getvalue())
    root = ET.fromstring(text)
    for parent in root.iter():
        parent.tag = parent.tag.rpartition("}")[2]
        for key in [key for key in parent.attrib if key.startswith("{")]:
            parent.attrib[key.rpartition("}")[2]] = parent.attrib.pop(key)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(child)
    _add_tips(root, tips)
    _rename_ids(root, name)
    width, height = (root.attrib.pop(side).removesuffix("pt") for side in ("width", "height"))
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "style": f"--w:{width};--h:{height}"}
    label = ET.Element("title", {"id": f"{name}-title"})
    label.text = title
    root.insert(0, label)
    return _recolor(ET.tostring(root, encoding="unicode"))


def _add_tips(root: ET.Element, tips: Mapping[str, Sequence[str]]) -> None:
    """Give each mark of the named groups a title, which browsers show while the pointer is over it."""
    groups = {element.get("id"): element for element in root.iter("g")}
    for gid, texts in tips.items():
        marks = list(groups[gid].iter("use")) if gid in groups else []
        if len(marks) != len(texts):  # a mark that lies outside the axes is not drawn, so no text is safe to give
            continue
        shared = marks[0].get("style", "") if marks else ""
        groups[gid].set("style", shared)
        for mark, text in zip(marks, texts, strict=True):
            if mark.get("style") == shared:  # written once for the group instead of once a mark
                del mark.attrib["style"]
            ET.SubElement(mark, "title").text = text


def _rename_ids(root: ET.Element, name: str) -> None:
    """Prefix the ids that something refers to, and remove all others."""
    used = {element.get("href", "").removeprefix("#") for element in root.iter()} - {""}
    used |= {found for element in root.iter() for found in _REFERENCE.findall(element.get("clip-path", ""))}
    for element in root.iter():
        id = element.attrib.pop("id", "")
        if id in used:
            element.set("id", f"{name}-{id}")
        href = element.get("href", "")
        if href.startswith("#"):  # others are images, whose data they hold
            element.set("href", f"#{name}-{href.removeprefix('#')}")
        if path := element.get("clip-path"):
            element.set("clip-path", _REFERENCE.sub(rf"url(#{name}-\1)", path))


def _recolor(svg: str) -> str:
    """Replace the colors of the style by CSS variables, and numbers in attributes by two decimals."""
    for color, variable in COLOR_NAMES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return _TAG.sub(lambda tag: _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", tag[0]), svg)
