"""Print a commented file that works as it is: an algorithm, average, merger, adapter, analysis, data set or network.

dgbench new algorithm MyMethod > my_method.py
dgbench new algorithm MyMethod --like adversary > my_method.py
dgbench check my_method.py
dgbench train --include my_method.py --algorithm MyMethod --dataset RotatedDigits --test 75
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import KINDS as ENTRIES
from dgbench.core.errors import Problems
from dgbench.core.wording import unknown_name, with_article

TEMPLATES = Path(__file__).with_name("templates")
"""The files that are printed, `KIND.py` each. Their classes are called `MyKind`, their commands name `mine.py`."""
KINDS = (*ENTRIES, "network")
"""Kinds of files: of the catalogue's entries, and of networks, which are found by file alone."""
LIKE: Mapping[str, str] = {
    "adversary": "a critic trained against the network, each by its own optimizer",
    "schedule": "learning rates that follow a schedule of the method's own",
    "state": "a running mean that is remembered between steps",
}
"""Kind of algorithm that has a file of its own, `NAME.py` -> what that file shows."""


def parser() -> cli.Parser:
    """Declare the arguments of the command."""
    found = cli.Parser(prog="dgbench new", doc=__doc__)
    found.add_argument("kind", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    found.add_argument("name", metavar="NAME", help="the class, and how rows or --datasets name it")
    shown = "; ".join(f"{name}: {what}" for name, what in LIKE.items())
    found.add_argument("--like", metavar="EXAMPLE", help=f"of algorithms, another file to begin with ({shown})")
    return found


def main(argv: Sequence[str]) -> int:
    """Print the file of a kind for a name; return 0."""
    args, problems = parser().parse_args(argv), Problems()
    if args.kind not in KINDS:
        problems.add(unknown_name("kind", args.kind, KINDS))
    if args.like is not None and args.like not in LIKE:
        problems.add(unknown_name("example", args.like, LIKE))
    elif args.like and args.kind != "algorithm":
        problems.add(f"--like {args.like} is an example of an algorithm: leave it out")
    if wrong := wrong_name(args.name):
        problems.add(wrong)
    problems.raise_if_any()
    sys.stdout.write(new_file(args.kind, args.name, args.like or ""))
    return 0


def wrong_name(name: str) -> str | None:
    """Return the reason why an entry can't have this name, or None if it can."""
    if not name.isidentifier() or keyword.iskeyword(name) or not name[0].isupper():
        return f"{name!r} can't name a class: it is one word of letters and digits that begins with a capital"
    if entry := Catalogue().entries.get(name):
        return f"{name} is {with_article(entry.kind)} already, and names are unique over all kinds"
    # A template's own imports, which a class of that name would hide.
    if any(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in TEMPLATES.glob("*.py")):
        return f"{name} is a name that the file itself uses: choose another"
    return None


def new_file(kind: str, name: str, like: str = "") -> str:
    """Return the text of a file that defines a working entry.

    Args:
        kind: One of `KINDS`.
        name: Of its class.
        like: A key of `LIKE`; empty: the plain file of the kind.
    """
    text = (TEMPLATES / f"{like or kind}.py").read_text(encoding="utf-8")
    return text.replace(f"My{kind.capitalize()}", name).replace("mine.py", f"{_snake(name)}.py")


def _snake(name: str) -> str:
    """Write a class' name as that of its file: `MyERM2` as `my_erm2`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


if __name__ == "__main__":
    sys.exit(cli.run(main))
