from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from dgbench import __main__ as console
from dgbench import cli
from dgbench.core.errors import UserError
from dgbench.core.version import __version__


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_alone_it_says_what_there_is(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert console.dispatch(words) == 0
    said = capsys.readouterr().out
    for name, text in (console.OF_SWEEPS | console.COMMANDS).items():
        assert f"  {name:<18} {text}\n" in said
    assert "\nexamples:\n" in said


def test_it_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.dispatch(["--version"]) == 0
    assert capsys.readouterr().out == f"dgbench {__version__}\n"


@pytest.mark.parametrize("command", console.OF_SWEEPS)
def test_commands_of_sweeps_go_without_that_word(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for words in ([command], ["sweep", command]):
        with pytest.raises(SystemExit) as end:
            console.dispatch([*words, "--help"])
        assert end.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].startswith(f"usage: dgbench {command} ")


def test_an_unknown_command_is_told_with_the_nearest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dgbench", "colect", "--x"])
    assert console.main() == cli.WRONG_INPUT
    assert capsys.readouterr().err == "dgbench: error: unknown command 'colect': did you mean 'collect'?\n"


def test_words_behind_the_command_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, Sequence[str]]] = []

    def imported(name: str) -> SimpleNamespace:
        return SimpleNamespace(main=lambda argv: called.append((name, argv)) or 7)

    monkeypatch.setattr(importlib, "import_module", imported)
    monkeypatch.setattr(sys, "argv", ["dgbench", "list", "sweeps", "--help"])
    assert console.main() == 7
    assert console.dispatch(["sweep"]) == console.dispatch(["status", "a"]) == 7
    assert called == [
        ("dgbench.list", ["sweeps", "--help"]),
        ("dgbench.sweep", []),
        ("dgbench.sweep", ["status", "a"]),
    ]


@pytest.mark.parametrize("command", console.COMMANDS)
def test_every_command_speaks_one_dialect(command: str) -> None:
    module = importlib.import_module(console.module_of(command))
    assert isinstance(module.parser(), cli.Parser)
    with pytest.raises(UserError):  # which `cli.run` alone tells
        module.main(["--no_such_flag"])


HELPS = [[name] for name in (*console.OF_SWEEPS, *console.COMMANDS)]


@pytest.mark.parametrize("words", [[], *HELPS], ids=" ".join)
def test_help_ends_with_examples_that_parse(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        console.dispatch([*words, "--help"])
    _, found, examples = capsys.readouterr().out.partition("\nexamples:\n")
    assert found
    lines = [re.split(r"\s{3,}", line.strip())[0] for line in examples.splitlines() if line.startswith("  dgbench ")]
    assert lines
    for line in lines:
        _, name, *rest = shlex.split(line.partition(" > ")[0])
        module, given = ("sweep", [name, *rest]) if name in console.OF_SWEEPS else (name, rest)
        assert importlib.import_module(console.module_of(module)).parser().parse_args(given)


@pytest.mark.parametrize("command", ["launch", "train"])
def test_help_groups_the_options_of_a_launch(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        console.dispatch([command, "--help"])
    titles = [line for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"\w[\w ]*:", line)]
    which = ["positional arguments:", "options:", "which runs:", "how they train:"]
    assert titles == [
        *(which if command == "launch" else ["options:", "which run:", "how it trains:"]),
        "data:",
        *(["where runs execute:"] if command == "launch" else []),
        *("this machine:", "output:", "examples:"),
    ]
