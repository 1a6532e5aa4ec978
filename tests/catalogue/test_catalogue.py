from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.cards import AlgorithmCard
from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.space import choice, power
from dgbench.methods.algorithm import Algorithm

ALGORITHM = '''
from __future__ import annotations
from dataclasses import dataclass
from dgbench.methods import algorithm
from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.space import choice, hparam, power

class _Base(algorithm.Algorithm):
    """Without a card, and nobody sees it."""

class {name}(_Base):
    """min of something.

    More about it.
    """
    card = AlgorithmCard(
        paper="mine, {year}", forwards=1.5, min_domains=3, needs=("classes", Need("images", when={{"form": "b"}}))
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        weight: float = hparam(1.0, power(10, -1.23456789, 1), help="much", variants={{"small_images": (2.0, None)}})
        form: str = hparam("a", choice("a", "b"))

    def loss(self, batches):
        return self.joint_loss(batches)
'''
DATASET = '''
from dgbench.core.data_cards import DatasetCard
from dgbench.data.dataset import Dataset

class Stars(Dataset):
    """{doc}"""
    card = DatasetCard(source="sky", licence="free", input_shape=(3, 8, 8), counts={{"north": 7}}, domains=("north",))
'''


@pytest.fixture
def algorithm_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(ALGORITHM.format(name="Mine", year=2025))
    return path


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the index of the package's own entries."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert Catalogue().entries
    return folder


def in_another_process(cache: Path, *include: Path) -> tuple[dict[str, str], bool]:
    """Name -> summary of all entries as a fresh process sees them, and whether it imported torch."""
    code = (
        "import json, sys; from dgbench.catalogue.catalogue import Catalogue; "
        "found = {name: entry.summary for name, entry in Catalogue(sys.argv[1:]).entries.items()}; "
        "print(json.dumps([found, 'torch' in sys.modules]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *map(str, include)],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    ).stdout
    found, imported = json.loads(said)
    return found, imported


def test_entries_of_every_kind_are_found(catalogue: Catalogue) -> None:
    for kind, name in {
        "algorithm": "ERM",
        "average": "SWAD",
        "merger": "DiWA",
        "adapter": "T3A",
        "dataset": "RotatedDigits",
    }.items():
        entry = catalogue.get(kind, name)
        assert entry.kind == kind
        assert entry.summary
        assert catalogue.of_kind(kind)[name] is entry
        assert entry.load().__name__ == name
        assert entry.load().card == entry.card
    assert catalogue.baseline == "ERM"
    assert list(catalogue.entries) == sorted(catalogue.entries, key=str.lower)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("algorithm", "VRex", "unknown algorithm 'VRex': did you mean 'VREx'?"),
        ("dataset", "RotatedDigit", "unknown data set 'RotatedDigit': did you mean 'RotatedDigits'?"),
        (
            "adapter",
            "XYZQ",
            "unknown adapter 'XYZQ': a class of yours needs --include FILE.py; there are AdaNPC, ",
        ),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(kind: str, name: str, message: str, catalogue: Catalogue) -> None:
    with pytest.raises(UserError) as caught:
        catalogue.get(kind, name)
    assert str(caught.value).startswith(message)


def test_an_included_file_adds_its_classes(algorithm_file: Path) -> None:
    found = Catalogue([algorithm_file])
    entry = found.get("algorithm", "Mine")
    assert "_Base" not in found.entries
    assert (entry.file, entry.module, entry.summary) == (str(algorithm_file), "", "min of something.")
    needs = ("classes", Need("images", when={"form": "b"}))
    assert entry.card == AlgorithmCard(paper="mine, 2025", forwards=1.5, min_domains=3, needs=needs)
    assert Catalogue([algorithm_file]).get("algorithm", "Mine").card == entry.card, "as the index has it, too"
    assert [spec.name for spec in entry.space][-3:] == ["resnet_dropout", "weight", "form"]
    weight, form = entry.space[-2:]
    assert (weight.type, weight.default, weight.help) == ("float", 1.0, "much")
    assert weight.draw == power(10, -1.23456789, 1)
    assert weight.variants == {"small_images": (2.0, None)}
    assert form.draw == choice("a", "b")
    cls = entry.load()
    assert issubclass(cls, Algorithm)
    assert cls is Catalogue([str(algorithm_file)]).entries["Mine"].load(), "one class however often it is asked for"
    assert cls.Hparams().weight == 1.0


def test_what_the_index_says_is_what_the_class_says(algorithm_file: Path) -> None:
    first, second = (Catalogue([algorithm_file]).entries for _ in range(2))
    assert first == second


def test_files_that_are_missing_are_all_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Catalogue([tmp_path / "a.py", __file__, tmp_path / "b.py"])
    assert caught.value.problems == tuple(
        f"--include {tmp_path / name}: there is no such file" for name in ("a.py", "b.py")
    )


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.txt: not a Python file"):
        _ = Catalogue([tmp_path / "notes.txt"]).entries


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("x = 1\ndef (\n", r"mine\.py:2: SyntaxError: invalid syntax"),
        ("import json\n\njson.nothing()\n", r"mine\.py:3: AttributeError: .*has no attribute 'nothing'"),
        ("import nowhere_at_all\n", r"mine\.py:1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_the_line(tmp_path: Path, source: str, problem: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(UserError, match=problem):
        _ = Catalogue([tmp_path / "mine.py"]).entries


def test_a_name_clash_names_both_files(tmp_path: Path) -> None:
    (tmp_path / "sam.py").write_text(ALGORITHM.format(name="SAM", year=2025))
    with pytest.raises(UserError, match=r"two files claim the name 'SAM': \S+/rules/sam\.py and \S+/sam\.py"):
        _ = Catalogue([tmp_path / "sam.py"]).entries


def test_one_file_twice_is_no_clash(algorithm_file: Path) -> None:
    link = algorithm_file.with_name("link.py")
    link.symlink_to(algorithm_file)
    assert "Mine" in Catalogue([algorithm_file, link, algorithm_file]).entries


@pytest.mark.parametrize("card", ["", 'card = "mine"'])
def test_a_class_without_its_card_is_told(card: str, tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text(f"from dgbench.methods.algorithm import Algorithm\nclass Bare(Algorithm):\n    'x'\n    {card}\n")
    with pytest.raises(UserError, match=r"bare\.py: Bare\.card must be an AlgorithmCard"):
        _ = Catalogue([path]).entries


def test_a_card_whose_inputs_are_not_of_their_kind_is_refused() -> None:
    with pytest.raises(UserError, match="a data set's card says input_kind 'images', and inputs of 7 are none"):
        DatasetCard(source="sky", licence="free", input_shape=(7,))
    with pytest.raises(UserError, match="unknown input_kind of a data set 'graph': did you mean 'graphs'"):
        DatasetCard(source="sky", licence="free", input_shape=(40, 10), input_kind="graph")


def test_an_analysis_counts_by_its_own_hyperparameters_alone(tmp_path: Path) -> None:
    (tmp_path / "counts.py").write_text(
        "from dgbench import Analysis, AnalysisCard\n\n\nclass Counts(Analysis):\n"
        '    card = AnalysisCard(paper="none", measures={}, examples="most", passes=((2, "models"), (3, "steps")))\n'
    )
    with pytest.raises(UserError, match=r"counts\.py: card of Counts counts by most, steps, which it has not"):
        _ = Catalogue([tmp_path / "counts.py"]).entries


def test_what_extends_the_baseline_without_a_card_is_no_second_baseline(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from dgbench.algorithms import ERM\n\nclass Mine(ERM):\n    pass\n")
    found = Catalogue([tmp_path / "mine.py"])
    assert found.baseline == "ERM"
    assert not found.get("algorithm", "Mine").card.baseline


def test_two_baselines_are_told(tmp_path: Path) -> None:
    path = tmp_path / "better.py"
    path.write_text("from dgbench.algorithms.erm import ERM\nclass Better(ERM):\n    card = ERM.card\n")
    with pytest.raises(UserError, match=r"Better in \S+better\.py and ERM in \S+erm\.py"):
        _ = Catalogue([path]).baseline


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dgbench.algorithms]\nany = plugin_for_dgbench\n")
    module = tmp_path / "plugin_for_dgbench.py"
    module.write_text(ALGORITHM.format(name="Plugged", year=2025))
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = Catalogue().get("algorithm", "Plugged")
    assert (entry.file, entry.module) == (str(module), "plugin_for_dgbench")
    assert entry.load().__module__ == "plugin_for_dgbench"


def test_entries_are_gathered_once_for_the_same_files(algorithm_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Catalogue([algorithm_file])
    assert found.including([str(algorithm_file)]) is found
    assert found.including([]).include == ()
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(metadata, "distributions", lambda **how: asked.append(how) or ())
    assert found.entries is found.entries
    assert len(asked) == 1, "the metadata of all that is installed are read once, whatever the number of groups"


@pytest.mark.parametrize("module", ["no_such_module", "no_such_package.module"])
def test_an_entry_point_to_nothing_is_told(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dgbench.datasets]\nany = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=f"entry point any of group dgbench.datasets: there is no module {module}"):
        _ = Catalogue().entries


def test_a_second_process_imports_no_torch(warm_cache: Path, catalogue: Catalogue) -> None:
    found, imported = in_another_process(warm_cache)
    assert found == {name: entry.summary for name, entry in catalogue.entries.items()}
    assert not imported


def test_a_changed_file_is_noticed(warm_cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "stars.py"
    for doc in ("Few.", "Few.", "Many."):
        path.write_text(DATASET.format(doc=doc))
        found, imported = in_another_process(warm_cache, path)
        assert found["Stars"] == doc
        assert not imported


@pytest.mark.parametrize(
    "content", [b"", b"[{", b"null", b'{"kind": 1}', b'[{"kind": "dataset", "space": 3}]', b"\xff"]
)
def test_a_broken_index_is_made_again(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm_file: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = Catalogue([algorithm_file]).entries
    files = sorted((tmp_path / "dgbench" / "cards").iterdir())
    before = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(content)
    assert Catalogue([algorithm_file]).entries == whole
    assert [file.read_bytes() for file in files] == before
    assert sorted((tmp_path / "dgbench" / "cards").iterdir()) == files, "nothing half-written is left"


def test_a_cache_that_cannot_be_written_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Catalogue().entries == catalogue.entries


def test_an_entry_that_extends_another_is_read_again_when_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgbench.catalogue import entry, index

    before = index._base_digest()
    for kind_folder, *_ in index.KINDS.values():
        (tmp_path / kind_folder).mkdir()
        for file in (entry.PACKAGE / kind_folder).glob("*.py"):
            (tmp_path / kind_folder / file.name).write_bytes(file.read_bytes())
    for room in ("catalogue", "core", "data", "methods"):
        (tmp_path / room).mkdir()
        for file in (entry.PACKAGE / room).glob("*.py"):
            (tmp_path / room / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(index, "PACKAGE", tmp_path)
    digest = index._base_digest.__wrapped__
    assert digest() == before
    for name in ("rules/sam.py", "datasets/_digits.py", "methods/algorithm.py", "methods/hparams.py", "core/space.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
        assert digest() != before, name
        before = digest()
