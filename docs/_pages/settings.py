"""Pages of the settings, of the presets, and of the sweeps that are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from dgbench.core import setting
from dgbench.core.attribute_docs import attribute_docs
from dgbench.core.optimizers import LEFT_OUT, OPTIMIZERS
from dgbench.core.presets import DEFAULT, preset_names, read_preset
from dgbench.core.setting import PRESETS, Setting
from docs._pages.docstrings import indented, inline, table

_IN_TABLE = (DEFAULT, "domainbed-2020", "domainbed-2024")
"""Presets with a column in the table of settings."""


def pages(root: Path) -> dict[str, str]:
    """Return the path in docs/ -> Markdown of each page; `root` is the repository's."""
    return {"settings.md": _settings(), "presets.md": _presets(), "sweeps.md": _sweeps(root)}


def _settings() -> str:
    default, *others = (setting for name, setting in PRESETS.items() if name in _IN_TABLE)
    meanings = attribute_docs(Path(setting.__file__).read_text(), Setting.__name__)
    rows = []
    for name, hint in get_type_hints(Setting, include_extras=True).items():
        if name != "preset":
            own = getattr(default, name)
            values = (getattr(preset, name) for preset in others)
            departing = [f"`{value!r}`" if value != own else "" for value in values]
            rows.append((f"`{name}`", _values(hint), f"`{own!r}`", *departing, inline(meanings.get(name, ""))))
    return "\n\n".join(
        [
            "---\nhide: [toc]\n---",
            "# Settings",
            "All that decides a result beside the method, the data and the seeds. A preset fixes every one of them; a "
            "sweep file's table `[setting]` and flags change some. A table of results names each change. Where a cell "
            f"is empty, the preset has the value of `{default.preset}`. Papers' are on [their page](presets.md).",
            table(("setting", "values", *(f"`{name}`" for name in _IN_TABLE), "meaning"), rows, "settings"),
            "## Optimizers",
            "The values of `optimizer`, as `dgbench list optimizers` prints them.",
            table(("optimizer", "what it is"), [(f"`{name}`", inline(what)) for name, what in OPTIMIZERS.items()]),
            "These of timm and PyTorch are left out, each for a reason:",
            table(("optimizer", "it"), [(f"`{name}`", inline(why)) for name, why in LEFT_OUT.items()]),
        ]
    )


def _presets() -> str:
    sections = [
        "# Presets",
        "Settings of papers and suites under a name, `--preset NAME`, with the source of every value. How they work: "
        "[settings and presets](settings-and-presets.md#presets). Where a preset says nothing, the default of the "
        "[setting](settings.md) or of the method holds. A value with a data set's name in its place holds for that "
        "data set alone. Repositories are those of the papers' authors.",
    ]
    for preset in map(read_preset, preset_names()):
        rows = [(f"`{place}`", _value(value), inline(preset.source_of(place))) for place, value in preset.values()]
        sections += [
            f"## {preset.name}",
            f"{inline(preset.title[0].upper() + preset.title[1:])}.",
            inline(" ".join(preset.about.split())),
        ]
        if preset.unknown:
            sections += ["Not known, or not the same here:", "\n".join(f"* {inline(text)}" for text in preset.unknown)]
        if rows:
            sections.append(table(("value of", "is", "source"), rows))
    return "\n\n".join(filter(None, sections)) + "\n"


def _value(value: Any) -> str:
    """Return a preset's value as code; a list by its items."""
    return ", ".join(f"`{item}`" for item in value) if isinstance(value, list) else f"`{value}`"


def _values(hint: Any) -> str:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(kind) is Literal:
        return ", ".join(f"`{option}`" for option in get_args(kind))
    return f"{kind.__name__}"


def _sweeps(root: Path) -> str:
    sections = [
        "# Sweeps",
        "Declarations of sweeps that come with dgbench: launch one by `dgbench launch DIR --sweep NAME`.",
    ]
    folder = next(place for place in (root / "dgbench" / "sweeps", root / "sweeps") if place.is_dir())
    for file in sorted(folder.glob("*.toml")):
        lines = file.read_text().splitlines()
        comment = [
            line.lstrip("# ")
            for line in lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))]
        ]
        code = indented(f"```toml\n{file.read_text()}```")
        sections += [f"## {file.stem}", inline(" ".join(comment)), f'??? quote "{file.relative_to(root)}"\n\n{code}']
    return "\n\n".join(sections) + "\n"
