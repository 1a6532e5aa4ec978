from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset, split_datasets
from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.data.facts import facts_of
from tests.support.layouts import write_folders

OWN = """
from dgbench.core.data_cards import DatasetCard
from dgbench.data.dataset import Dataset

class Toy(Dataset):
    "Made up."
    card = DatasetCard(source="-", licence="-", input_shape=(3, 8, 8), domains={domains})

    def __init__(self, **places):
        self.domains = self.card.domains
"""


def refused(catalogue: Catalogue, *texts: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        split_datasets(texts, catalogue)
    return caught.value.problems


def test_names_with_and_without_a_path(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = split_datasets(["PACS", "folder:/data/mine/", "folder:here", "csv:/x/list.csv", "PACS"], catalogue)
    assert found == {
        "PACS": "",
        "folder:mine": "/data/mine",
        "folder:here": str(tmp_path / "here"),
        "csv:list.csv": "/x/list.csv",
    }


def test_everything_wrong_with_names_is_told_at_once(catalogue: Catalogue) -> None:
    assert refused(catalogue, "PACKS", "folder", "PACS:/data/PACS", "folder:/a/x", "folder:/b/x", "ERM") == (
        "unknown data set 'PACKS': did you mean 'PACS'?",
        "'folder' needs a path: write folder:/path/to/it",
        "'PACS' takes no path: use --data_dir for the folder that holds it",
        "two data sets would be called 'folder:x': /a/x and /b/x",
        *refused(catalogue, "ERM"),
    )


def test_a_folder_or_csv_file_is_told_how_it_is_called(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "shapes").mkdir(parents=True)
    (tmp_path / "list.csv").touch()
    assert refused(catalogue, "data/shapes", "list.csv", "data/gone" + 300 * "x")[:2] == (
        "unknown data set 'data/shapes': did you mean folder:data/shapes?",
        "unknown data set 'list.csv': did you mean csv:list.csv?",
    )


def test_a_site_is_read_as_it_was_written() -> None:
    site = Site(
        data_dir="/data",
        paths={"folder:x": "/x"},
        include=("/a.py", "/b.py"),
        skip_bad_images=True,
        device="cpu",
        workers=2,
        save_models="all",
        save_predictions="chosen",
        checkpoint_minutes=1.5,
    )
    assert Site.from_json(orjson.loads(orjson.dumps(site.to_json()))) == site
    earlier = Site.from_json({"save_models": True, "save_predictions": False})
    assert (earlier.save_models, earlier.save_predictions) == ("all", "")


def test_a_launch_without_places_finds_those_of_the_one_before(tmp_path: Path) -> None:
    here, there = str(tmp_path / "here.py"), str(tmp_path / "there.py")
    before = Site("/data", "/cache", {"folder:x": "/x", "folder:y": "/y"}, (here,), device="cuda", workers=3)
    now = Site(paths={"folder:y": "/new", "folder:z": "/z"}, include=(there,), device="cpu")
    paths = {"folder:x": "/x", "folder:y": "/new", "folder:z": "/z"}
    Path(here).touch()
    assert now.completed_by(before) == Site("/data", "/cache", paths, (here, there), device="cpu")
    moved = Site("/other", "/else").completed_by(before)
    assert (moved.data_dir, moved.cache_dir, moved.workers) == ("/other", "/else", None)
    assert Site().completed_by(Site(ttl=180)) == Site(ttl=180)
    assert Site(ttl=60).completed_by(Site(ttl=180)) == Site(ttl=60)


def test_an_included_file_that_moved_takes_its_old_place(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    gone, there, moved, other = (str(tmp_path / name) for name in ("old/a.py", "old/b.py", "new/a.py", "new/b.py"))
    for file in (there, moved, other):
        Path(file).touch()
    site = Site(include=(gone, f"{gone}:X", there))
    assert site.including(()).include == site.include
    assert site.including((moved,)).include == (f"{gone}:X", there, moved)
    assert site.including((f"{moved}:X", moved, other)).include == (there, f"{moved}:X", moved, other)


def test_a_data_set_is_opened_once_and_known_by_its_facts(catalogue: Catalogue) -> None:
    found = open_dataset("RotatedDigits", Site(), catalogue)
    assert open_dataset("RotatedDigits", Site(), catalogue) is found
    facts = facts_of("RotatedDigits", found)
    assert (facts.name, facts.num_classes, facts.input_shape) == ("RotatedDigits", 10, (1, 8, 8))
    assert facts.domains == ("0", "15", "30", "45", "60", "75")
    assert sum(facts.counts) == 1797
    assert "small_images" in facts.traits
    assert facts.fingerprint == found.fingerprint()


def test_another_catalogues_data_set_of_one_name_is_another(tmp_path: Path) -> None:
    opened = []
    for place, domains in (("first", ("a", "b")), ("second", ("c", "d", "e"))):
        file = tmp_path / place / "toy.py"
        file.parent.mkdir()
        file.write_text(OWN.format(domains=domains))
        catalogue = Catalogue([file])
        opened.append(open_dataset("Toy", Site(), catalogue))
        assert open_dataset("Toy", Site(), catalogue) is opened[-1]
    assert [found.domains for found in opened] == [("a", "b"), ("c", "d", "e")]


def test_a_path_is_opened_where_the_site_says(catalogue: Catalogue, tmp_path: Path) -> None:
    write_folders(tmp_path / "mine", ["a", "b"], ["x", "y", "z"])
    site = Site(paths={"folder:mine": str(tmp_path / "mine")})
    facts = facts_of("folder:mine", open_dataset("folder:mine", site, catalogue, image_size=32))
    assert (facts.name, facts.domains, facts.counts) == ("folder:mine", ("a", "b"), (6, 6))
    assert (facts.num_classes, facts.input_shape) == (3, (3, 32, 32))


def test_for_another_interpolation_the_files_are_not_listed_again(catalogue: Catalogue, tmp_path: Path) -> None:
    root = write_folders(tmp_path / "mine", ["a", "b"], ["x", "y"])
    site = Site(paths={"folder:mine": str(root)})
    plain = open_dataset("folder:mine", site, catalogue, 32)
    shutil.rmtree(root)
    other = open_dataset("folder:mine", site, catalogue, 32, interpolation="bicubic")
    assert (plain.interpolation, other.interpolation) == ("bilinear", "bicubic")
    assert facts_of("folder:mine", other) == facts_of("folder:mine", plain)
    assert open_dataset("folder:mine", site, catalogue, 32) is plain


def test_data_that_need_a_folder_say_so(catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PACS is read from PACS under --data_dir, which is not given"):
        open_dataset("PACS", Site(), catalogue)
    with pytest.raises(UserError, match="PACS"):
        open_dataset("PACS", Site(data_dir=str(tmp_path)), catalogue)
