"""Pages of the settings and presets, and of the sweeps that are shipped."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from dgbench.core import setting
from dgbench.core.setting import PRESETS, Setting
from docs._pages.docstrings import indented, inline, table


def pages(root: Path) -> dict[str, str]:
    """Return the path in docs/ -> Markdown of both pages; `root` is the repository's."""
    return {"settings.md": _settings(), "sweeps.md": _sweeps(root)}


def _settings() -> str:
    default, *others = PRESETS.values()
    meanings = _attribute_docstrings()
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
            f"is empty, the preset has the value of `{default.preset}`.",
            table(("setting", "values", *(f"`{name}`" for name in PRESETS), "meaning"), rows, "settings"),
        ]
    )


def _values(hint: Any) -> str:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(kind) is Literal:
        return ", ".join(f"`{option}`" for option in get_args(kind))
    return f"{kind.__name__}"


def _attribute_docstrings() -> dict[str, str]:
    """Read the strings below the fields of `Setting`."""
    tree = ast.parse(Path(setting.__file__).read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == Setting.__name__)
    documented = dict[str, str]()
    for field, below in zip(found.body, found.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                documented[name] = text
    return documented


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
