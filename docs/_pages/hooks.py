"""The hook of mkdocs that adds the generated pages: catalogues, commands, settings, sweeps, files of the root."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dgbench.catalogue.catalogue import Catalogue
from docs._pages import commands, entries, settings

ROOT = Path(__file__).parents[2]
HOMES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results": "results/index.md",
}
"""File or folder of the repository -> its page; the files of results/ keep their names."""
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and list them in the navigation where mkdocs.yml names their folder."""
    pages = make_pages()
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    config.nav = _filled(config.nav, pages)
    return files


def make_pages() -> dict[str, str]:
    """Return the path in docs/ -> Markdown of each page."""
    results = [f"results/{file.name}" for file in sorted((ROOT / "results").glob("*.md"))]
    homes = {**HOMES, **{file: file for file in results}}
    files = {file: page for file, page in homes.items() if (ROOT / file).is_file()}
    pages = {page: relinked((ROOT / file).read_text(), file, page) for file, page in files.items()}
    pages["index.md"] = "---\nhide: [navigation]\n---\n" + pages["index.md"]
    listed = [f"* [{PurePosixPath(page).stem}]({PurePosixPath(page).name})" for page in results]
    pages["results/index.md"] = "\n".join(
        ["# Results", "", "Tables of sweeps that were run, and measurements.", "", *listed]
    )
    return pages | entries.pages(Catalogue()) | commands.pages() | settings.pages(ROOT)


def relinked(text: str, file: str, page: str) -> str:
    """Return a file of the repository with links that hold on its page; links to files that have no page lose theirs.

    Args:
        text: The Markdown.
        file: Its path from the repository's root.
        page: The page's path in docs/.
    """

    def replaced(match: re.Match[str]) -> str:
        target, hash_sign, anchor = match["target"].partition("#")
        if "://" in target or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), target))
        home = HOMES.get(path, path.removeprefix("docs/"))
        if not (path in HOMES or path.startswith(("docs/", "results/"))):
            return match["text"]
        return f"[{match['text']}]({posixpath.relpath(home, posixpath.dirname(page) or '.')}{hash_sign}{anchor})"

    return _LINK.sub(replaced, text)


def _filled(nav: Any, pages: dict[str, str]) -> Any:
    """Return the navigation with the pages of a folder in place of each `FOLDER/`, its index first."""
    if isinstance(nav, list):
        return [_filled(item, pages) for item in nav]
    if isinstance(nav, dict):
        return {title: _filled(item, pages) for title, item in nav.items()}
    if isinstance(nav, str) and nav.endswith("/"):
        inside = [page for page in pages if page.startswith(nav)]
        return sorted(inside, key=lambda page: (not page.endswith("/index.md"), page.lower()))
    return nav
