"""Make the flags of a command from options; `launchers.values` reads their values."""

from __future__ import annotations

from dgbench.cli import Parser
from dgbench.plan.options import Groups


def add_options(parser: Parser, groups: Groups) -> None:
    """Add the flags of options to a parser, each group below its heading."""
    for title, options in groups.items():
        for option in options:
            parser.group(title).add_argument(f"--{option.name}", **option.argument)
