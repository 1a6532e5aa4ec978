"""Lists of examples: which example a path stands for, refusals, and the accuracy on listed examples and on others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from dgbench import load_results
from dgbench.collect import main
from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.predictions import main as predictions
from dgbench.report.predictions.examples import Example, ExampleList, match_examples, read_examples
from dgbench.store.predictions import find_steps, read
from tests.support.in_process import execute_all, sweep_of

DOG = Example("PACS", "photo", "photo/dog/1.jpg")
CAT = Example("PACS", "photo", "photo/cat/1.jpg")
OTHER_DOG = Example("Pets", "photo", "photo/dog/1.jpg")
FLAT = Example("Flat", "x", "1.jpg")
DIGIT = Example("Digits", "75", "75/12")


def matched(tmp_path: Path, *paths: str, among: tuple[Example, ...] = (DOG, CAT)) -> ExampleList:
    (tmp_path / "list.txt").write_text("\n".join(paths))
    return match_examples(tmp_path / "list.txt", among)


@pytest.mark.parametrize(
    ("path", "example"),
    [
        ("photo/dog/1.jpg", DOG),
        ("PACS/photo/dog/1.jpg", DOG),
        ("/data/pacs/kfold/photo/dog/1.jpg", DOG),
        ("./photo//dog/1.jpg", DOG),
        (r"PACS\photo\dog\1.jpg", DOG),
        ("75/12", DIGIT),
        ("Digits/75/12", DIGIT),
    ],
)
def test_a_path_stands_for_the_example_whose_name_it_ends_with(path: str, example: Example, tmp_path: Path) -> None:
    assert matched(tmp_path, path, among=(DOG, CAT, DIGIT)).examples == {example}


def test_part_of_a_name_and_other_names_match_nothing(tmp_path: Path) -> None:
    found = matched(tmp_path, "dog/1.jpg", "aphoto/dog/1.jpg", "photo/dog/1.jpg.bak", "photo/dog", "photo/cat/1.jpg")
    assert (found.paths, found.unmatched, found.examples) == (5, 4, {CAT})


def test_the_longest_name_counts(tmp_path: Path) -> None:
    assert matched(tmp_path, "photo/dog/1.jpg", "y/1.jpg", among=(FLAT, DOG)).examples == {DOG, FLAT}


def test_a_path_of_several_data_sets_counts_for_none_unless_it_names_one(tmp_path: Path) -> None:
    both = (DOG, OTHER_DOG, CAT)
    found = matched(tmp_path, "photo/dog/1.jpg", "photo/cat/1.jpg", among=both)
    assert (found.ambiguous, found.unmatched, found.examples) == (1, 0, {CAT})
    assert any(
        "1 path of" in line and "put the data set's name before them" in line for line in found.lines("PACS", [])
    )
    assert matched(tmp_path, "Pets/photo/dog/1.jpg", among=both).examples == {OTHER_DOG}
    with pytest.raises(UserError, match="could be of several data sets"):
        matched(tmp_path, "photo/dog/1.jpg", among=both)


def test_files_are_lines_or_a_column_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a/b c.jpg\r\n\n# x.jpg\na/b c.jpg\n", encoding="utf-8-sig")
    assert read_examples(tmp_path / "l.txt") == ("a/b c.jpg", "# x.jpg")
    (tmp_path / "l.csv").write_text('score,path\n0.1,"a/b, c.jpg"\n0.2\n')
    assert read_examples(tmp_path / "l.csv") == ("a/b, c.jpg",)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("l.csv", b"file\na.jpg\n", "in a column 'path'"),
        ("l.csv", b"", "in a column 'path'"),
        ("l.txt", b" \n\n", "is empty"),
        ("l.txt", b"\xff\xfe\x00", "can't be read"),
        ("gone.txt", None, "can't be read"),
        ("l.txt", b"a.jpg", "1 path, such as a.jpg, and no tested example among them; .* named like photo/dog/1.jpg"),
    ],
)
def test_wrong_lists_are_refused(name: str, content: bytes | None, why: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=why):
        match_examples(tmp_path / name, [DOG])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kept") / "s"
    asked = {"datasets": ["ColoredDigits"], "test_envs": ["+80%", "-90%"], "single_test_envs": True, "n_hparams": 1}
    site = Site(device="cpu", save_predictions="chosen")
    setting = {"setting": {"steps": 5, "checkpoint_freq": 4}}
    execute_all(sweep_of(root, "ERM", "ERM+SMA", site=site, **asked, n_trials=2, **setting))
    return root


def chosen_in(folder: Path, trial: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Positions in -90% of the tested examples, and whether ERM's chosen model is right on each."""
    picks = load_results(folder).picks("oracle")
    (pick,) = picks[(picks["row"] == "ERM") & (picks["held_out"] == "-90%") & (picks["trial"] == trial)].itertuples()
    path = find_steps(folder / "runs" / pick.run)[pick.predictor, pick.step]
    view = read(path, ["-90%/in"]).views["-90%/in"]
    return view.positions, view.logits.argmax(axis=1) == view.labels


def test_accuracy_is_of_listed_examples_and_of_others_in_their_domains(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = range(0, 600, 3)
    (tmp_path / "l.txt").write_text("\n".join([*(f"-90%/{n}" for n in numbers), "-90%/99999", "+90%/0"]))
    frame = load_results(folder).metrics("oracle", ["ece"], examples=tmp_path / "l.txt")
    assert set(frame["metric"]) == {"ece", "listed", "others"}
    assert set(frame[frame["metric"] != "ece"]["held_out"]) == {"-90%"}, "the other domain has no listed example"
    values = frame[frame["row"] == "ERM"].set_index(["metric", "held_out", "trial"])["value"].sort_index()
    for trial in (0, 1):
        positions, right = chosen_in(folder, trial)
        listed = np.isin(positions, numbers)
        assert 50 < listed.sum() < len(numbers), "some lie in the other part"
        assert values["listed", "-90%", trial] == pytest.approx(right[listed].mean())
        assert values["others", "-90%", trial] == pytest.approx(right[~listed].mean())
    args = ["--selector", "oracle", "--examples", str(tmp_path / "l.txt"), "--metrics", "worst_class"]
    assert main([str(folder), *args]) == 0
    section = capsys.readouterr().out.partition("Metrics of kept predictions")[2]
    (header,) = re.findall(r"^Algorithm.*", section, re.MULTILINE)
    assert header.split() == ["Algorithm", "worst_class", "listed", "others"]
    (line,) = re.findall(r"^ERM +\d.*", section, re.MULTILINE)
    mean = [100 * values[name, "-90%"].mean() for name in ("listed", "others")]
    assert [float(cell.split(" +/- ")[0]) for cell in re.split(r"\s{2,}", line)[2:]] == pytest.approx(mean, abs=0.051)
    n = len(np.union1d(*(np.intersect1d(chosen_in(folder, trial)[0], numbers) for trial in (0, 1))))
    assert f"listed: tested examples in {tmp_path / 'l.txt'}, -90% {n}; " in section
    assert "without any, and left out of both: +80%" in section
    assert f"{202 - n} of 202 paths in {tmp_path / 'l.txt'} are no tested example" in section


def test_a_trial_without_a_listed_example_gives_no_number(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = np.setdiff1d(chosen_in(folder, 0)[0], chosen_in(folder, 1)[0])[0]
    (tmp_path / "l.csv").write_text(f"path\n-90%/{only}\n")
    args = [str(folder), "--selector", "oracle", "--examples", str(tmp_path / "l.csv")]
    assert main([*args, "--format", "json"]) == 0
    (section,) = json.loads(capsys.readouterr().out)["sections"]
    listed, others = section["metrics"]["ERM"]
    assert (listed["metric"], listed["mean"]) == ("listed", None)
    assert listed["why"] == ["the tested part of -90% has no listed example in some trial"]
    assert others["mean"] > 0


def test_predictions_are_of_listed_examples_alone(folder: Path, tmp_path: Path) -> None:
    positions, right = chosen_in(folder, 0)
    chosen = positions[5:50]
    (tmp_path / "l.txt").write_text("\n".join(f"ColoredDigits/-90%/{n}" for n in chosen))
    args = ["--row", "ERM", "--trial", "0", "--selector", "oracle", "--examples", str(tmp_path / "l.txt")]
    assert predictions([str(folder), *args, "--output", str(tmp_path / "p.csv")]) == 0
    lines = pd.read_csv(tmp_path / "p.csv")
    assert lines["position"].tolist() == chosen.tolist()
    assert (lines["label"] == lines["predicted"]).tolist() == right[5:50].tolist()


def test_refusals_come_together(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        main([str(folder), "--examples", str(tmp_path / "gone.txt"), "--format", "csv", "--metrics", "EEC"])
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "--metrics",
        str(tmp_path / "gone.txt"),
        "--metrics goes with --format text, markdown, latex, json, not csv",
        "--examples goes with --format text, markdown, latex, json, not csv",
    ]
