"""The declarations in sweeps/ say what their comments say."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.cards import needs_of
from dgbench.datasets._images import ImageDataset
from dgbench.plan.asking import count_training_runs, declare
from dgbench.plan.sweep_file import read_sweep_file
from tests.support import glyphs_layouts
from tests.support.commands import sweep
from tests.support.layouts import write_image, write_mnist
from tests.support.places import SWEEPS
from tests.support.wilds_layouts import WRITERS, fitted

SLOW = dict.fromkeys(("domainbed", "wilds"), pytest.mark.slow)
PER_CLASS = 20  # three classes of which fill every minibatch that may be drawn
MNIST = {"ColoredMNIST": 3, "RotatedMNIST": 6}
DIGITS = 3900
GLYPHS = 120


def rows(file: Path) -> list[str]:
    text = file.read_text().partition("algorithms = [")[2].partition("]")[0]
    return [word.strip().strip('"') for word in text.split(",") if word.strip()]


def declared(test: Any) -> Any:
    files = [pytest.param(f, id=f.stem, marks=SLOW.get(f.stem, ())) for f in sorted(SWEEPS.glob("*.toml"))]
    return pytest.mark.parametrize("file", files)(test)


def tiny(cls: Any, data_dir: Path, patch: pytest.MonkeyPatch) -> bool:
    """Write a small copy of a data set, and a card that says so; whether that is known how to do."""
    card = cls.card
    if cls.__name__ in MNIST:
        write_mnist(data_dir, train=DIGITS - 10, test=10)
        counts = dict.fromkeys(card.domains, DIGITS // MNIST[cls.__name__])
        patch.setattr(cls, "card", dataclasses.replace(card, counts=counts))
    elif cls.__name__ in WRITERS:
        patch.setattr(cls, "card", fitted(card, WRITERS[cls.__name__](data_dir)))
    elif cls.__name__ in glyphs_layouts.WRITERS:
        glyphs_layouts.WRITERS[cls.__name__](data_dir, GLYPHS)
    elif issubclass(cls, ImageDataset) and card.folder and not card.parts:
        classes = card.classes[:3]
        image = write_image(data_dir / ".one.jpg")
        for domain in card.domains:
            for name in classes:
                place = data_dir / card.folder / domain / name
                place.mkdir(parents=True)
                for n in range(PER_CLASS):
                    os.link(image, place / f"{domain}-{name}-{n}.jpg")
        counts = dict.fromkeys(card.domains, PER_CLASS * len(classes))
        generations = {"tiny": counts} if card.generations else {}
        changes = {"classes": classes, "counts": {} if generations else counts, "generations": generations}
        patch.setattr(cls, "card", dataclasses.replace(card, **changes))
    return cls.__name__ in (*MNIST, *WRITERS, *glyphs_layouts.WRITERS) or issubclass(cls, ImageDataset)


def test_the_catalogue_sweep_names_every_algorithm_and_rule(catalogue: Catalogue) -> None:
    """But for those that need a CLIP, which are in `clip.toml`."""
    of_clip = {
        name
        for name, entry in catalogue.algorithms.items()
        if {need.what for need in needs_of(entry.card)} & {"clip", "text_tower"}
    }
    assert sorted(rows(SWEEPS / "catalogue.toml")) == sorted({*catalogue.algorithms} - of_clip)
    assert of_clip <= {row.partition("+")[0] for row in rows(SWEEPS / "clip.toml")}


@declared
def test_every_declaration_can_be_planned(
    file: Path,
    catalogue: Catalogue,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = [catalogue.get("dataset", name) for name in read_sweep_file(file)["datasets"]]
    words = ["launch", "--sweep", str(file), "--output_dir", str(tmp_path / "out"), "--dry_run"]
    needed = [entry.load() for entry in entries if entry.card.folder]
    known = [tiny(cls, tmp_path / "data", monkeypatch) for cls in needed]
    code = cli.run(sweep.main, [*words, "--data_dir", str(tmp_path / "data")] if needed else words)
    said = capsys.readouterr()
    if all(known):
        assert code == 0, said.err
        assert " runs\n" in said.out
        stated = re.search(r"= ([\d,]+) training runs", file.read_text())
        trained = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+)  train  ", said.out))
        assert stated is None or stated[1] == f"{trained:,}"
        declaration, _ = declare(read_sweep_file(file), catalogue)
        assert count_training_runs(declaration, catalogue) in ((None,) if "train  KD" in said.out else (trained,))
    else:
        wrong = [line for line in said.err.splitlines() if str(tmp_path / "data") not in line]
        assert (code, wrong) == (2, []), "nothing is wrong but that the files are not there"


def test_the_part_of_domainbeds_sweep_that_is_launched_apart(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny(catalogue.get("dataset", "ColoredMNIST").load(), tmp_path / "data", monkeypatch)
    file = SWEEPS / "domainbed.toml"
    words = ["launch", "--sweep", str(file), "--output_dir", str(tmp_path / "out"), "--dry_run", "--data_dir"]
    more = [str(tmp_path / "data"), "--datasets", "ColoredMNIST", "--single_test_envs"]
    assert cli.run(sweep.main, [*words, *more]) == 0
    assert "2,520 runs" in capsys.readouterr().out
    assert "2,520 runs" in file.read_text()


@declared
def test_every_declaration_says_first_what_it_is_for(file: Path) -> None:
    first, second, *_ = file.read_text().splitlines()
    assert first.startswith("# ")
    assert second.startswith("# ")
