"""The pages: commands run, links lead somewhere, the site builds without a network and shows its formulas."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import dgbench
from docs._pages.docstrings import escaped, parse
from docs._pages.hooks import relinked
from tests.support.pages import FENCE, PAGES, Block, Reader, blocks, headings, links
from tests.support.places import ROOT

TEXT = {name: (ROOT / name).read_text() for name in PAGES}
BLOCKS = {name: [block for block in blocks(text) if block.is_followed] for name, text in TEXT.items()}
SKIPPED: dict[str, tuple[str, ...]] = {
    "README.md": ("pip install .",),
    "CONTRIBUTING.md": ("make check",),
    "docs/faq.md": (
        "dgbench launch /shared/runs/pacs --sweep pacs --data_dir /data --launcher slurm gpus=1 time=24:00:00",
    ),
    "docs/launching.md": (
        "dgbench launch runs/queued --algorithms ERM VREx --datasets RotatedDigits --test_envs 75 --quick \\",
    ),
}
"""Page -> the first lines of its blocks that aren't executed. The comment above each says why: review changes."""
IN_BROWSER = ("rules/SAM", "algorithms/UDIM", "averages/SWAD", "mergers/DiWA", "adapters/T3A")
"""Pages of the built site that a browser opens."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name, found in BLOCKS.items() if found])
def test_a_reader_can_follow_the_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preloaded_python: str
) -> None:
    monkeypatch.setattr(sys, "executable", preloaded_python)  # for blocks of Python that launch
    checkout = name == "CONTRIBUTING.md" or "<!-- test: checkout -->" in TEXT[name]
    reader = Reader(tmp_path / "reader", checkout, preloaded_python)
    monkeypatch.chdir(reader.folder)
    with reader.sharing_names():
        for block in BLOCKS[name]:
            if not block.skip:
                reader.follow(block)


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=f"{name}:{block.line}") for name in TEXT for block in BLOCKS[name] if block.skip]
)
def test_a_block_that_no_test_executes(block: Block) -> None:
    pytest.skip(block.skip)


def test_the_blocks_that_no_test_executes_were_reviewed() -> None:
    found = {name: tuple(block.head for block in own if block.skip) for name, own in BLOCKS.items()}
    assert {name: heads for name, heads in found.items() if heads} == SKIPPED


@pytest.mark.parametrize("name", TEXT)
def test_commands_stand_in_fenced_blocks(name: str) -> None:
    assert (
        re.findall(r"^(?: {4,}|\t)\$? ?(?:dgbench|python3?|pip|make) .*", FENCE.sub("", TEXT[name]), re.MULTILINE) == []
    )


def test_comments_say_how_a_block_is_tested() -> None:
    text = """
<!-- test: first: dgbench train -->
<!-- test: --steps 20 -->

```console
$ dgbench collect \\
      runs/a
a table
$ ls
```

<!-- test: skip: too large -->
```bash
dgbench download PACS
```
```python title="mine.py" hl_lines="1"
x = 1
```
```toml
x = 1
```
"""
    collect, download, mine, toml = blocks(text)
    assert (collect.first, collect.flags, collect.skip) == (("dgbench train",), "--steps 20", "")
    assert collect.commands == "dgbench collect \\\n      runs/a\nls"
    assert (download.skip, download.flags, download.head) == ("too large", "", "dgbench download PACS")
    assert (mine.file, mine.code, mine.is_followed) == ("mine.py", "x = 1\n", True)
    assert not toml.is_followed
    with pytest.raises(ValueError, match="steps 20"):
        list(blocks("<!-- test: steps 20 -->\n```bash\nls\n```\n"))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_files_at_the_root_lead_somewhere(name: str) -> None:
    if not (ROOT / name).exists():
        pytest.skip("not written yet")
    for link in links((ROOT / name).read_text()):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert "." in parts.netloc, link
            continue
        target = (ROOT / unquote(parts.path)) if parts.path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        assert target.resolve().is_relative_to(ROOT), f"{name}: {link}"
        if parts.fragment:
            assert parts.fragment in headings(target.read_text()), f"{name}: {link}"


@pytest.mark.parametrize("name", TEXT)
def test_files_that_a_page_names_exist(name: str) -> None:
    for path in re.findall(r"`((?:dgbench|examples|tests|benchmarks|docs|\.ci)/[\w./-]+)`", TEXT[name]):
        assert (ROOT / path).exists() or "NAME" in path, f"{name}: {path}"


def test_every_public_name_is_in_the_reference_once() -> None:
    text = "".join(text for name, text in TEXT.items() if name.startswith("docs/api/"))
    assert sorted(re.findall(r"^::: dgbench\.(\w+)$", text, re.MULTILINE)) == sorted(
        {*dgbench.__all__} - {"__version__"}
    )


def test_docstrings_become_markdown() -> None:
    doc = parse(r"""Minimize a
    thing.

    $$
    Reference: x_1
    $$

    With $x_1$.

    Reference:
        Someone, "Title".

    Departures from the paper: two:
    - one
      that is long
    - another
    DomainBed: has no such.
    """)
    assert doc.summary == "Minimize a thing."
    assert doc.text == "$$\nReference: x_1\n$$\n\nWith $x_1$."
    assert doc.sections == {
        "Reference": 'Someone, "Title".',
        "Departures from the paper": "two:\n\n- one\n  that is long\n- another",
        "DomainBed": "has no such.",
    }
    assert escaped("a_b * `c_d` [e] <f>") == r"a\_b \* `c_d` &#91;e] &lt;f>"


def test_links_of_the_root_hold_on_their_pages() -> None:
    text = "[a](docs/rows.md#x) [b](CHANGELOG.md) [c](LICENSE) [d](https://e.org) [f](#g) [h](results/i.md)"
    assert relinked(text, "README.md", "index.md") == (
        "[a](rows.md#x) [b](changelog.md) c [d](https://e.org) [f](#g) [h](results/i.md)"
    )
    assert relinked("[a](quickstart.md) [b](../README.md)", "results/x.md", "results/x.md") == (
        "[a](quickstart.md) [b](../index.md)"
    )


# The built site.


def without_network() -> list[str]:
    """Return the words before a command that run it where no network is; none where the system doesn't allow that."""
    words = ["unshare", "--net"]
    allowed = (
        shutil.which("unshare") and not subprocess.run([*words, "true"], capture_output=True, check=False).returncode
    )
    return words if allowed else []


def build(*words: str) -> subprocess.CompletedProcess[str]:
    """Build a site by mkdocs; not with --quiet, under which its strict mode misses every warning."""
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [*without_network(), sys.executable, "-m", "mkdocs", "build", *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by `make docs`."""
    place = tmp_path_factory.mktemp("site")
    done = build("--site-dir", str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.mark.slow
def test_broken_links_end_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[a](none.md) [b](#none) [c](/absolute)")
    (tmp_path / "docs" / "beside.md").write_text("not in the navigation")
    config = tmp_path / "mkdocs.yml"
    own = {"docs_dir": "docs", "hooks": "[]", "plugins": "[search]", "watch": "[]", "nav": "[index.md]"}
    lines = [f"INHERIT: {ROOT / 'mkdocs.yml'}", *(f"{key}: {value}" for key, value in own.items())]
    config.write_text("\n".join(lines))
    done = build("--config-file", str(config), "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 1
    assert "Aborted with 4 warnings" in done.stdout + done.stderr


class Loaded(HTMLParser):
    """Gathers the addresses of all that a browser loads with a page: no links that a reader follows."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "link") and named.get("rel") not in (
            "canonical",
            "next",
            "prev",
        ):
            self.addresses += [address for name in ("src", "href") if (address := named.get(name))]


def loaded(site: Path) -> Iterator[tuple[Path, str]]:
    for file in site.rglob("*.html"):
        parser = Loaded()
        parser.feed(file.read_text())
        yield from ((file, address) for address in parser.addresses)
    for file in site.rglob("*.css"):
        addresses = re.findall(r"""(?:url\(|@import )["']?([^"')]+)""", file.read_text())
        yield from ((file, address) for address in addresses)


@pytest.mark.slow
def test_the_site_builds_without_a_network_and_loads_nothing_from_elsewhere(site: Path) -> None:
    found = list(loaded(site))
    assert len(found) > 1000
    for file, address in found:
        parts = urlsplit(address)
        assert parts.scheme in ("", "data"), f"{file}: {address}"
        assert not parts.netloc, f"{file}: {address}"
        if not parts.scheme and parts.path and not parts.path.endswith((".woff", ".ttf")) and file.name != "404.html":
            assert (file.parent / parts.path).exists(), f"{file}: {address}"


def opened(page: Path, profile: Path) -> str:
    """Return the document that Chromium makes of a page once its scripts have run."""
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    return subprocess.run([*words, page.as_uri()], capture_output=True, text=True, check=True, timeout=120).stdout


needs_browser = pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium can't be had")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("name", IN_BROWSER)
def test_a_browser_shows_the_formulas_of_a_page(name: str, site: Path, tmp_path: Path) -> None:
    shown = opened(site / f"{name}.html", tmp_path)
    assert 'class="katex-html"' in shown
    assert "katex-error" not in shown


@pytest.mark.slow
@needs_browser
def test_every_formula_is_one_that_katex_knows(site: Path, tmp_path: Path) -> None:
    formula = re.compile(r'<(div|span) class="arithmatex">.*?</\1>', re.DOTALL)
    formulas = {match[0]: file.name for file in site.rglob("*.html") for match in formula.finditer(file.read_text())}
    assert len(formulas) > 100
    page = site / "formulas.html"
    page.write_text(
        '<!doctype html><script src="assets/katex/katex.min.js"></script>'
        + "".join(f'<p id="{file}">{text}</p>' for text, file in formulas.items())
        + "<script>const document$ = { subscribe: (shown) => shown() }</script><script src='assets/site.js'></script>"
    )
    shown = opened(page, tmp_path / "profile").split("<p id=")[1:]
    page.unlink()
    assert len(shown) == len(formulas)
    assert [text for text in shown if "katex-error" in text or "katex-html" not in text] == []
