"""Pages of the commands, from their parsers: usage, groups of flags, defaults."""

from __future__ import annotations

import argparse
import importlib
import textwrap
from collections.abc import Iterator, Sequence

from dgbench.__main__ import COMMANDS, OF_SWEEPS, module_of
from docs._pages.docstrings import inline, table


def pages() -> dict[str, str]:
    """Return the path in docs/ -> Markdown of the page of each command, and of their list."""
    found = {f"commands/{name}.md": _page(importlib.import_module(module_of(name)).parser()) for name in COMMANDS}
    short = [(f"[`dgbench {name}`](sweep.md#{name})", inline(text)) for name, text in OF_SWEEPS.items()]
    rows = [*short, *((f"[`dgbench {name}`]({name}.md)", inline(text)) for name, text in COMMANDS.items())]
    found["commands/index.md"] = "\n\n".join(
        [
            "# Commands",
            "`dgbench COMMAND …` is the same as `python -m dgbench.COMMAND …`. Flags may be spelled with dashes too.",
            table(("command", "does"), rows),
        ]
    )
    return found


def _page(parser: argparse.ArgumentParser) -> str:
    return "\n\n".join([f"# {parser.prog}", *_body(parser, "##")]) + "\n"


def _body(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    if parser.description:
        yield _prose(parser.description)
    yield f"```text\n{_usage(parser)}\n```"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        flags = [
            action for action in actions if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        ]
        if flags:
            usual = group.title in ("options", "optional arguments", "positional arguments")
            yield f"**{(group.title or '').capitalize()}**" if not usual else ""
            yield _prose(group.description or "")
            yield _options(flags)
        for action in actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, child in action.choices.items():
                    yield f"{heading} {name}"
                    helps = {choice.dest: choice.help for choice in action._choices_actions}
                    yield "" if child.description else _sentence(helps.get(name) or "")
                    yield from _body(child, f"{heading}#")
    if parser.epilog:
        yield f"```text\n{textwrap.dedent(parser.epilog % {'prog': parser.prog}).strip()}\n```"


def _usage(parser: argparse.ArgumentParser) -> str:
    """Wrap the parser's usage to the width of a page, whatever the terminal's width."""
    formatter = argparse.HelpFormatter(parser.prog, width=76)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    return formatter.format_help().strip()


def _options(flags: Sequence[argparse.Action]) -> str:
    head: Sequence[str] = ("flag" if flags[0].option_strings else "argument", "default", "meaning")
    rows: list[tuple[str, ...]] = [_row(flag) for flag in flags]
    if not any(default for _, default, _ in rows):
        head, rows = (head[0], head[2]), [(row[0], row[2]) for row in rows]
    return table(head, rows, "options")


def _row(action: argparse.Action) -> tuple[str, str, str]:
    name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
    if action.option_strings and action.nargs != 0:
        words = (
            f"{{{','.join(map(str, action.choices))}}}"
            if action.choices
            else str(action.metavar or action.dest.upper())
        )
        several = " …" if action.nargs in ("+", "*") else ""
        name = f"{name} `{words}{several}`"
    required = "**required**" if action.required and action.option_strings else ""
    no_default = action.default in (None, False, (), argparse.SUPPRESS) or not action.option_strings
    help_text = inline((action.help or "").replace("%%", "%"))
    return name, required or ("" if no_default else f"`{action.default}`"), help_text


def _prose(text: str) -> str:
    """Return a description as Markdown: blocks that are indented are shown as code."""
    blocks = textwrap.dedent(text).strip("\n").split("\n\n")
    return "\n\n".join(
        f"```text\n{textwrap.dedent(block)}\n```" if block.startswith("    ") else inline(block)
        for block in blocks
        if block
    )


def _sentence(text: str) -> str:
    return f"{inline(text[:1].upper() + text[1:])}." if text else ""
