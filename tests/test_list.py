from __future__ import annotations

from pathlib import Path

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.list import KINDS, main
from tests.support.places import SWEEPS


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("what", KINDS)
def test_every_entry_is_listed_with_its_objective_paper_and_hyperparameters(
    what: str, capsys: pytest.CaptureFixture[str], catalogue: Catalogue
) -> None:
    blocks = {block.partition("\n")[0]: block for block in listed(capsys, what).strip().split("\n\n")}
    entries = catalogue.of_kind(KINDS[what])
    assert list(blocks) == list(entries)
    for name, entry in entries.items():
        assert f"\n    {entry.summary}\n" in blocks[name]
        assert entry.card.paper in blocks[name]
        for spec in entry.space:
            assert f"\n    {spec.name} = {spec.default}" in blocks[name]
            assert spec.draw is None or f"~ {spec.draw}" in blocks[name]


@pytest.mark.parametrize(
    ("what", "lines"),
    [
        ("algorithms", ["cost: 2 forward, 2 backward passes a step", "needs 2 training domains"]),
        ("averages", ["evaluated: when training is over; cost: 8 copies of the model in memory"]),
        (
            "mergers",
            [
                "merges: at least 2 runs of a trial, of models averaged by SMA, into several networks, logits averaged",
                "merges: at least 2 runs of a trial, of models at their best validation, into one network",
            ],
        ),
        ("adapters", ["cost: 1 forward, 0 backward a batch at test time"]),
        (
            "datasets",
            [
                "domains: 0, 15, 30, 45, 60, 75",
                "10 classes; images 1 x 8 x 8; 301 steps, evaluated every 50",
                "examples: 1,797 (300, 300, 300, 299, 299, 299)",
                "domains: the folders or values found",
                "lies in: DATA_DIR/PACS",
                "protocol: leave one domain out; scored by accuracy",
                "protocol: Test is tested, the others train; scored by accuracy",
                "examples: 24,330 (4,741, 9,736, 3,970, 5,883): "
                "the generation of 24,330 images (annotations of 2021 and later)",
                "known: sketch/dog/n02103406_4068-1.png: Dassl leaves it out, DomainBed does not",
                "or from: https://sviro.kl.dfki.de",
                "note: 586,575 images; the 596,006 of the archives hold duplicates, which `download` removes",
            ],
        ),
    ],
)
def test_what_is_said_of_each_kind(what: str, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = listed(capsys, what).splitlines()
    for line in lines:
        assert f"    {line}" in said


def test_a_data_set_with_splits_of_its_own_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "split.py"
    file.write_text(
        "from dgbench.core.cards import DatasetCard\nfrom dgbench.data.dataset import Dataset\n"
        "class Split(Dataset):\n    'Cut.'\n    card = DatasetCard(source='sky', licence='free', "
        "input_shape=(3, 8, 8), domains=('official',), parts={'train': 5, 'test': 2}, metric='F1')\n"
    )
    said = listed(capsys, "datasets", "--include", str(file))
    assert "\nSplit\n" in said
    assert "    protocol: its own split into train, test; scored by F1\n" in said


def test_included_files_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stars.py"
    file.write_text(
        "from dgbench.core.cards import DatasetCard\nfrom dgbench.data.dataset import Dataset\n"
        "class Stars(Dataset):\n    'Bright.'\n    card = DatasetCard(source='sky', licence='free', "
        "input_shape=(3, 8, 8))\n"
    )
    assert "\nStars\n    Bright.\n" in listed(capsys, "datasets", "--include", str(file))


def test_sweeps_are_listed_with_what_their_files_say_first_and_ask_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.toml").write_text(
        '# Second.\n# More.\nalgorithms = ["ERM", "SAM"]\ndatasets = ["RotatedDigits"]\nn_trials = 1\n# not this\n'
    )
    (tmp_path / "a.toml").write_text("n_trials = 1\n")
    assert listed(capsys, "sweeps", "--sweeps_dir", str(tmp_path)) == (
        f"{tmp_path}/a.toml\n\n{tmp_path}/b.toml\n    Second.\n    More.\n    algorithms: ERM, SAM\n"
        "    datasets: RotatedDigits\n    training runs: 840\n\n"
    )


def test_the_shipped_sweeps_are_listed_from_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = listed(capsys, "sweeps")
    assert {file.stem for file in SWEEPS.glob("*.toml")} == {block.split("\n")[0] for block in said.split("\n\n")} - {
        ""
    }
    assert "\npacs\n    PACS (9,991 images" in said
    assert "    training runs: 1,920\n" in said


def test_what_there_is_none_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        main(["sweeps", "--sweeps_dir", str(tmp_path / "no")])
    with pytest.raises(UserError, match="algorithm"):
        main(["algorithm"])
