from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dgbench import cli
from dgbench.check import main
from dgbench.conformance.examine import Finding
from dgbench.conformance.problems import problem_lines
from tests.support.places import EXAMPLES, SHOWN


def run(*words: str) -> int:
    return cli.run(main, words)


def test_a_good_file_passes_and_its_row_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(SHOWN / "smooth.py"), "--draws", "0") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("1/1 Smooth ... 27 answers, 0 wrong, ")
    header, row, *rest = captured.out.splitlines()
    assert header.split()[:3] == ["learns", "moves", "weights"]
    assert row.split()[0] == "Smooth"
    assert "WRONG" not in row
    assert rest[-1] == "1 algorithm on cpu, defaults and 0 random draws: 27 answers, 0 wrong"


def test_what_is_wrong_is_told_and_the_exit_code_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "waits.py"
    source = (EXAMPLES / "broken.py").read_text()
    head, *classes = source.split("\n\n\nclass ")
    file.write_text("\n\n\nclass ".join([head, next(text for text in classes if text.startswith("Waits"))]))
    assert run(str(file), "--draws", "0", "--markdown") == 1
    out = capsys.readouterr().out
    assert "| Waits | 3 ok |" in out
    assert "| 3/3 WRONG |" in out
    told = [line for line in out.splitlines() if line.startswith("Waits: ")]
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if ".item()" in text)
    assert told == [
        "Waits: no sync (1-3 domains, defaults): step 0 reads values on the host: aten::_local_scalar_dense "
        f"({file}:{line})"
    ]


LAST = '''
from dgbench import Merger, MergerCard


class Last(Merger):
    """The last member."""

    card = MergerCard(paper="none")

    def merge(self, members, tools):
        return members[-1].load()
'''


def test_a_merger_of_a_file_and_ours_have_a_table_and_the_line_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "last.py"
    file.write_text(LAST)
    assert run("Last", "T3A", "DiWA", "--include", str(file), "--draws", "0") == 1
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if " ok" in line] == ["Last", "DiWA", "T3A"]
    (told,) = (line for line in out.splitlines() if line.startswith("Last: "))
    assert told.startswith("Last: order (4 members, defaults): with members in another order it is off by ")
    assert told.endswith(f"({file}:10, merge)")
    assert "2 mergers on cpu, defaults and 0 random draws: 26 answers, 1 wrong" in out
    assert out.endswith("1 adapter on cpu, defaults and 0 random draws: 12 answers, 0 wrong\n")


TYPO = '''
from dgbench.methods.algorithm import Algorithm
from dgbench.core.cards import AlgorithmCard


class Typo(Algorithm):
    """Its loss names what is not there."""

    card = AlgorithmCard(paper="none")

    def loss(self, batches):
        return joint_los(batches)
'''


def test_what_goes_wrong_everywhere_is_told_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "typo.py").write_text(TYPO)
    assert run(str(tmp_path / "typo.py"), "--draws", "2") == 1
    out = capsys.readouterr().out
    (told,) = (line for line in out.splitlines() if "NameError" in line)
    assert told.startswith(
        "Typo: learns, moves, resumes, uneven (1-3 domains, defaults, draws 1-2); "
        "alone, no sync, repeats (1-3 domains, defaults); passes, features (2 domains, defaults); "
        "inputs, cost (3 domains, defaults): NameError: name 'joint_los' "
    )


def test_cases_that_differ_are_told_apart() -> None:
    at = [(1, 0), (1, 2), (2, 0), (2, 2), (3, 2)]
    found = [Finding("learns", domains, seed, "off") for domains, seed in at] + [Finding("moves", 1, 0, "off")]
    answers = [*found, Finding("alone", 2, 0, ""), Finding("moves", 2, 0, "way off")]
    assert list(problem_lines("Toy", answers)) == [
        "Toy: learns (1-2 domains, defaults, draw 2; 3 domains, draw 2); moves (1 domain, defaults): off",
        "Toy: moves (2 domains, defaults): way off",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "name methods or files to check, or say --all"),
        (("--datasets", "RotatedDigit"), "unknown data set 'RotatedDigit': did you mean 'RotatedDigits'?"),
        (("--datasets", "PACS"), "PACS is read from PACS under --data_dir, which is not given"),
        (("ERN",), "unknown method 'ERN': did you mean 'ERM'?"),
        (("SWAD",), "SWAD is an entry of kind average, which has no questions: name algorithms, mergers or adapters"),
        (("DiWAA",), "unknown method 'DiWAA': did you mean 'DiWA'?"),
        (("ERM", "--jobs", "0", "--draws", "-1"), "--draws must be at least 0, not -1\n"),
        (("ERM", "--jobs", "0", "--draws", "-1"), "--jobs must be at least 1, not 0\n"),
        (("ERM", "--device", "gpu"), "argument --device: invalid choice: 'gpu'"),
        (("nowhere.py",), "there is no such file"),
        ((str(Path(__file__)),), "holds no algorithm, merger, adapter or data set"),
    ],
)
def test_wrong_input_is_refused(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


def test_a_device_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("ERM", "--device", "cuda", "--datasets", "RotatedDigits") == 2
    assert capsys.readouterr().err == "dgbench: error: --device cuda: torch finds no GPU on this machine\n"


@pytest.mark.slow
def test_several_processes_give_the_same_rows_in_the_same_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("VREx", "ERM", "--draws", "0") == 0
    alone = capsys.readouterr()
    assert [line.split(" answers")[0] for line in alone.err.splitlines()] == ["1/2 VREx ... 20", "2/2 ERM ... 27"]
    assert run("VREx", "ERM", "--draws", "0", "--jobs", "2") == 0
    together = capsys.readouterr()
    assert together.out == alone.out
    assert sorted(line.split(" ... ")[1] for line in together.err.splitlines()) == [
        "20 answers, 0 wrong",
        "27 answers, 0 wrong",
    ]


def test_data_sets_are_checked_by_name_or_by_their_file(capsys: pytest.CaptureFixture[str]) -> None:
    arcs = str(SHOWN / "arcs.py")
    assert run("--datasets", "RotatedDigits", "Arcs", "--include", arcs) == 0
    captured = capsys.readouterr()
    header, *rows = captured.out.splitlines()[:3]
    assert header.split() == ["contract", "card", "reads", "repeats", "fingerprint"]
    assert [row.split() for row in rows] == [["RotatedDigits", *["ok"] * 5], ["Arcs", *["ok"] * 5]]
    assert captured.out.endswith("\n2 data sets: 10 answers, 0 wrong\n")
    assert [line.split(", 0:")[0] for line in captured.err.splitlines()] == [
        "1/2 RotatedDigits ... 5 answers, 0 wrong",
        "2/2 Arcs ... 5 answers, 0 wrong",
    ]
    assert run(arcs) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == rows[1].split()


FICKLE = '''
import itertools, uuid
import numpy as np
from dgbench import ArrayExamples, Dataset, DatasetCard


class Fickle(Dataset):
    """Other points at each call."""

    card = DatasetCard(
        source="here", licence="none", input_shape=(2,), input_kind="vectors", domains=("a", "b"), classes=("x", "y"),
        counts={"a": 4, "b": 5},
    )
    calls = itertools.count()

    def examples(self, domain, seed):
        points = np.full((4, 2), next(self.calls) % 1000, np.float32)
        return ArrayExamples(points, np.array([0, 1, 0, LABEL]))

    def counts(self):
        return [4, 4]

    def fingerprint(self):
        return uuid.uuid4().hex
'''


def test_what_is_wrong_with_a_data_set_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "fickle.py").write_text(FICKLE.replace("LABEL", "1"))
    assert run(str(tmp_path / "fickle.py"), "--markdown") == 1
    out = capsys.readouterr().out
    assert "| Fickle | ok | WRONG | ok | WRONG | WRONG |" in out
    assert [line for line in out.splitlines() if line.startswith("Fickle: ")] == [
        "Fickle: card: b has 4 examples, and the card says 5",
        "Fickle: repeats: examples('a', seed) gives other inputs at the second call",
        "Fickle: fingerprint: its fingerprint is another one when it is opened again",
    ]
    (tmp_path / "worse.py").write_text(FICKLE.replace("LABEL", "2").replace("Fickle", "Worse"))
    assert run(str(tmp_path / "worse.py")) == 1
    out = capsys.readouterr().out
    assert "Worse  WRONG     -     -      -        -\n" in out
    assert "Worse: contract: examples('a', seed) has labels from 0 to 2, and 2 classes" in out
