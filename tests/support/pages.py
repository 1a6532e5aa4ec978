"""The Markdown pages of the repository as a reader follows them: blocks of code, executed in order, and links."""

from __future__ import annotations

import linecache
import os
import re
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.support.layouts import write_csv, write_folders
from tests.support.places import ROOT

_FILES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
PAGES = tuple(str(file.relative_to(ROOT)) for file in _FILES if file.exists())
FENCE = re.compile(
    r"(?P<comments>(?:^[ ]*<!-- test: .*? -->\n+)*)"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"<!-- test: (.*?) -->", re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_OF_LAUNCH = re.compile(r"--(?:n_(?:hparams|trials)(?:_from)? \S+|single_test_envs|test_envs \S+)")
"""Flags that `train` doesn't have."""
_LINKED = ("benchmarks", "dgbench", "examples", "sweeps", "tests", "Makefile", "pyproject.toml")

_SHIM = """\
#!/bin/bash
# Stands for `dgbench` or `python`: adds the flags of the block under test to commands that train.
case "{first} $*" in
    "dgbench train "*|"python -m dgbench train "*|"python -m dgbench.train "*) extra=$TRAIN_FLAGS ;;
    "dgbench launch "*|"python -m dgbench launch "*) extra=$LAUNCH_FLAGS ;;
    "dgbench sweep launch "*|"python -m dgbench sweep launch "*) extra=$LAUNCH_FLAGS ;;
    "python -m dgbench.sweep launch "*) extra=$LAUNCH_FLAGS ;;
    *) extra="" ;;
esac
eval "set -- \\"\\$@\\" $extra"
exec {python} {module} "$@"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and what the comments above it say of its test."""

    line: int
    language: str
    code: str
    file: str = ""
    """The file that its title names; empty if it is executed."""
    flags: str = ""
    first: tuple[str, ...] = ()
    """Commands that are run before it."""
    skip: str = ""
    """Why it is not executed; empty if it is."""
    exit: int = 0

    @property
    def is_followed(self) -> bool:
        """Whether a reader does something with it."""
        return bool(self.file) or self.language in ("bash", "console", "python")

    @property
    def head(self) -> str:
        """Its first line, without a comment at the end."""
        return self.code.strip().partition("\n")[0].partition(" #")[0].strip()

    @property
    def commands(self) -> str:
        """The code; of a console session the lines after `$ `, and those that a backslash goes on to."""
        if self.language != "console":
            return self.code
        lines, goes_on = list[str](), False
        for line in self.code.splitlines():
            if goes_on or line.startswith("$ "):
                lines.append(line if goes_on else line[2:])
                goes_on = line.endswith("\\")
        return "\n".join(lines)


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a page in order; raises ValueError for a comment that says nothing known."""
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("indent")) + 1
        said = dict[str, str]()
        first = []
        for comment in _COMMENT.findall(match["comments"]):
            word, _, rest = comment.strip().partition(" ")
            if word == "first:":
                first.append(rest)
            elif word in ("skip:", "exit") and rest.strip():
                said[word.strip(":")] = rest.strip()
            elif word.startswith("--"):
                said["flags"] = comment.strip()
            elif word != "checkout":
                raise ValueError(f"line {line}: a block can't be tested by {comment!r}")
        title = _TITLE.search(match["options"])
        yield Block(
            line=line,
            language=match["language"],
            code=textwrap.dedent(match["code"]),
            file=title[1] if title else "",
            flags=said.get("flags", ""),
            first=tuple(first),
            skip=said.get("skip", ""),
            exit=int(said.get("exit", 0)),
        )


class Reader:
    """Someone who follows one page from its top, in a folder that holds nothing but small data.

    `data/PACS`, `data/birds` and `data/birds.csv` lie there, and `/data` stands for that folder. With `checkout`, the
    repository's own folders are there too. Commands are run by `python`, which finds the repository's package, or if it
    is another interpreter than this one, the package that is installed for it.
    """

    def __init__(self, folder: Path, checkout: bool, python: str = sys.executable) -> None:
        self.folder = folder
        self._package = str(ROOT) if python == sys.executable else ""
        self.module = ModuleType("page_under_test")
        self._bin = folder.parent / f"{folder.name}-bin"
        self._bin.mkdir()
        write_data(folder / "data")
        for name in _LINKED if checkout else ():
            if (ROOT / name).exists():
                (folder / name).symlink_to(ROOT / name)
        for name, module in (("dgbench", "-m dgbench"), ("python", ""), ("python3", "")):
            shim = self._bin / name
            shim.write_text(_SHIM.format(first=name.rstrip("3"), python=python, module=module))
            shim.chmod(shim.stat().st_mode | stat.S_IXUSR)

    @contextmanager
    def sharing_names(self) -> Iterator[None]:
        """Have the page's Python blocks share their names, as those of one module, in the body of the `with`."""
        sys.modules[self.module.__name__] = self.module
        try:
            yield
        finally:
            del sys.modules[self.module.__name__]

    def follow(self, block: Block) -> None:
        """Write the block's file, or execute the block; raises AssertionError if it ends otherwise than it must."""
        code = re.sub(r"(?<![\w./])/data(?=[/\s'\"])", str(self.folder / "data"), block.commands)
        if block.file:
            (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.file).write_text(block.code)
        elif block.language == "python":
            name = f"block at line {block.line}"
            linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # as a notebook does
            exec(compile(code, name, "exec"), vars(self.module))
        else:
            for command in block.first:
                self._run(command, block.line, "", 0)
            self._run(code, block.line, block.flags, block.exit)

    def _run(self, script: str, line: int, flags: str, expected: int) -> None:
        env = {
            **os.environ,
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "PYTHONPATH": self._package,
            "LAUNCH_FLAGS": flags,
            "TRAIN_FLAGS": _OF_LAUNCH.sub("", flags),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        printed = f"line {line}: exit code {done.returncode}\n{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == expected, printed


def write_data(folder: Path) -> None:
    """Write the small data that pages name."""
    classes = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    write_folders(
        folder / "PACS", dict.fromkeys(("art_painting", "cartoon", "photo", "sketch"), 9 * len(classes)), classes
    )
    birds = write_folders(folder / "birds", dict.fromkeys(("field", "garden", "zoo"), 60), ("crow", "finch", "owl"))
    rows = [
        (f"birds/{path.relative_to(birds)}", path.parts[-3], path.parts[-2]) for path in sorted(birds.rglob("*.jpg"))
    ]
    write_csv(folder / "birds.csv", rows)


def headings(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    without_code = FENCE.sub("", text)
    found, seen = set(), dict[str, int]()
    for title in re.findall(r"^#{1,6} (.+?)\s*#*$", without_code, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        anchor = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        count = seen[anchor] = seen.get(anchor, -1) + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def links(text: str) -> list[str]:
    """Return the targets of the links and pictures of a page."""
    without_code = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", without_code) + re.findall(
        r'(?:src|href)="([^"]+)"', without_code
    )
