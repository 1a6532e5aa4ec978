"""Parse the words of a command, flags in either spelling, and report wrong input in full with exit code 2."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from dgbench.core.errors import UNWRITABLE, Problems, UserError
from dgbench.core.paths import check_path
from dgbench.core.startup import INTERRUPTED, end_guard
from dgbench.core.wording import printable_lines, shorten, unknown_name

WRONG_INPUT = 2
"""Exit code of a command that refused what it was asked for."""

_EXAMPLES = "examples:"
_UNNAMEABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)


class _Folder(argparse.Action):
    """The plain words of a command line that name folders; `Parser.add_folder` makes it."""

    def __init__(self, *args: Any, flag: str, prog: str, several: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flag, self.prog, self.several = flag, prog, several

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values)

    def folders(self, words: Sequence[str], flagged: Path | Sequence[Path] | None) -> Path | list[Path]:
        """Combine plain words with the value of the flag; raise `UserError` if none, or different ones, are given."""
        by_flag = [flagged] if isinstance(flagged, Path) else list(flagged or ())
        # `runs/a/` and `runs/a` are one folder; the first spelling is kept for messages.
        plain, typed = ({os.path.abspath(p): p for p in paths} for paths in (map(Path, words), by_flag))
        if not plain | typed:
            raise UserError(
                f"name the sweep's folder, as in `{self.prog} runs/mine` or by --{self.flag}; a plain argument goes "
                "before flags that take several words"
            )
        if plain and typed and plain.keys() != typed.keys():
            both = " and ".join(", ".join(map(str, given.values())) for given in (plain, typed))
            raise UserError(f"the folder is given twice, and differs: {both} (--{self.flag})")
        found = list((plain or typed).values())
        if not self.several and len(found) > 1:
            raise UserError(f"`{self.prog}` takes one folder, not {', '.join(map(str, found))}")
        return found if self.several else found[0]


class _Help(argparse.HelpFormatter):
    """The layout of `--help`: prose is wrapped, examples keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES) else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """An argument parser that takes `--input_dir` and `--input-dir` alike and raises `UserError`, never exits.

    Flags are not abbreviated. Unknown flags are reported all at once, each with the nearest that exists.
    """

    def __init__(self, *args: Any, doc: str | None = None, **kwargs: Any) -> None:
        """Make a parser.

        Args:
            args: As for argparse.
            doc: A docstring. `--help` begins with its first paragraph, and ends with its lines that are commands.
            kwargs: As for argparse.
        """
        told = {"description": doc.partition("\n\n")[0], "epilog": examples(doc)} if doc else {}
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": _Help, **told, **kwargs})
        self._negative_number_matcher = re.compile(r"-\.?\d")  # domains may be called -90%

    def group(self, title: str) -> argparse._ArgumentGroup:
        """Return the group of arguments with that heading in `--help`, a new one at the first call."""
        found = next((group for group in self._action_groups if group.title == title), None)
        return found or self.add_argument_group(title)

    def add_folder(self, name: str, help: str, *, several: bool = False) -> None:
        """Declare a sweep's folder, which is given as a plain argument or by its flag.

        Args:
            name: The flag without dashes; `parse_args` puts a `Path` under this name, or a list where there may be
                several.
            help: What `--help` says of it.
            several: Whether several folders may be given.
        """
        self.usage = f"%(prog)s DIR{' ...' if several else ''} [options]"
        many: dict[str, Any] = {"nargs": "+"} if several else {}
        words: dict[str, Any] = {"flag": name, "prog": self.prog, "several": several}
        plain = self.add_argument("folder", nargs="*", action=_Folder, metavar="DIR", help=help, **words)
        self.set_defaults(_folder=plain)  # of several subcommands, parsing then finds that of the one that was called
        self.add_argument(f"--{name}", type=Path, metavar="DIR", help="the same, by a flag", **many)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; raise a `UserError` that names each word without a flag, and each impossible path."""
        found, rest = self.parse_known_args(args, namespace)
        plain: _Folder | None = vars(found).pop("_folder", None)
        if rest and (plain is None or any(word.startswith("-") for word in rest)):
            options = sorted(set(_long_options(self)))
            raise UserError(*(_unrecognised(word, options) for word in rest))
        problems = Problems()
        if plain:
            # Python before 3.13 matches `*` with nothing if a flag comes first; the folder is left over then.
            words = [*vars(found).pop("folder"), *rest]
            with problems.collecting():
                setattr(found, plain.flag, plain.folders(words, getattr(found, plain.flag)))
        for flag, path in _paths(self, found):
            with problems.collecting():
                check_path(path, flag)
        problems.raise_if_any()
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, with each flag in the spelling in which it was declared."""
        words = sys.argv[1:] if args is None else list(args)
        declared = {_folded(option): option for option in self._option_string_actions if option.startswith("--")}
        return super().parse_known_args([_respelled(word, declared) for word in words], namespace)

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` with argparse's own message; argparse calls this."""
        raise UserError(message)


def examples(doc: str) -> str:
    r"""Return the lines of a docstring that are commands under a heading, as `--help` ends with them.

    >>> examples("Do it.\n\n    dgbench do\n\nMore.")
    'examples:\n  dgbench do'
    """
    # Not by their indentation, which Python 3.13 strips where all lines but the first share it.
    found = [f"  {line.strip()}" for line in doc.splitlines() if line.strip().startswith("dgbench ")]
    return "\n".join([_EXAMPLES, *found]) if found else ""


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Call `main` with the words of the command line; return its exit code, or 2 after printing a `UserError`.

    `main` is free to raise `UserError` anywhere; a disk that is full or read-only is told as one. A reader of the
    output who has gone away ends the command quietly, Ctrl-C in a word.
    """
    try:
        end_guard()
        with redirect_stdout(cast(TextIO, _Printable(sys.stdout))):
            code = main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        for problem in error.problems:
            print(f"dgbench: error: {printable_lines(shorten(problem))}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("dgbench: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (*UNWRITABLE, *_UNNAMEABLE):
            raise
        path = Path(os.fsdecode(error.filename or ""))
        where = f"{path if error.errno in _UNNAMEABLE else path.parent} can't be used: " if error.filename else ""
        print(f"dgbench: error: {printable_lines(shorten(where))}{error.strerror}", file=sys.stderr)
        return WRONG_INPUT


class _Printable:
    """Escape control characters that a terminal would obey, such as an escape code in the name of a domain or file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text with its control characters escaped."""
        return self._stream.write(printable_lines(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _folded(option: str) -> str:
    return "--" + option[2:].replace("-", "_")


def _respelled(word: str, declared: dict[str, str]) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return declared.get(_folded(flag), flag) + equals + value


def _unrecognised(word: str, options: Sequence[str]) -> str:
    if word.startswith("-"):
        return unknown_name("flag", word.partition("=")[0], options)
    return f"unexpected argument {word!r}"


def _paths(parser: argparse.ArgumentParser, found: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Yield the paths that were given, each with its flag."""
    for action in _actions(parser):
        value = getattr(found, action.dest, None) if action.type is Path else None
        for path in value if isinstance(value, list) else [value]:
            if path is not None:
                yield action.option_strings[-1] if action.option_strings else str(action.metavar), path


def _long_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in _actions(parser):
        yield from (option for option in action.option_strings if option.startswith("--"))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of those of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)
