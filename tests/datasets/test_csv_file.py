from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from dgbench.core.errors import UserError
from dgbench.data.dataset import Described, Named
from dgbench.datasets.csv_file import csv
from dgbench.datasets.folder import folder
from tests.support.layouts import truncate, write_csv, write_folders

DOMAINS, CLASSES = ("art", "photo"), ("cat", "dog")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "own", DOMAINS, CLASSES)


def rows_of(root: Path) -> list[tuple[str, str, str]]:
    paths = sorted(path.relative_to(root) for path in root.glob("*/*/*"))
    return [(path.as_posix(), path.parts[0], path.parts[1]) for path in paths]


def problems_of(path: Path | None) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        csv(path=path)
    return caught.value.problems


def test_a_table_says_what_folders_say_in_any_order_of_rows_and_columns(root: Path) -> None:
    rows = [("x", label, domain, path) for path, domain, label in rows_of(root)]
    random.Random(0).shuffle(rows)
    table = write_csv(root / "table.csv", rows, ("note", "label", "domain", "path"))
    listed, walked = csv(path=table), folder(path=root)
    assert (listed.domains, listed.classes, listed.counts()) == (walked.domains, walked.classes, walked.counts())
    assert listed.fingerprint() == walked.fingerprint()
    for domain in DOMAINS:
        ours, theirs = listed.examples(domain, 0), walked.examples(domain, 0)
        assert np.array_equal(ours.labels, theirs.labels)
        assert np.array_equal(ours.batch(np.arange(4), None), theirs.batch(np.arange(4), None))


def test_further_columns_are_attributes(root: Path) -> None:
    rows = [(path, domain, label, str(place % 3), "x") for place, (path, domain, label) in enumerate(rows_of(root))]
    dataset = csv(path=write_csv(root / "table.csv", rows, ("path", "domain", "label", "scanner", "")))
    scanners = {path: scanner for path, _, _, scanner, _ in rows}
    for domain in DOMAINS:
        examples = dataset.examples(domain, 0)
        assert isinstance(examples, Described)
        assert isinstance(examples, Named)
        assert dict(examples.attributes) == {"scanner": [scanners[file] for file in examples.files]}
    plain = csv(path=write_csv(root / "plain.csv", rows_of(root))).examples(DOMAINS[0], 0)
    assert isinstance(plain, Described)
    assert plain.attributes == {}


def test_domains_and_labels_are_those_of_the_cells_sorted(root: Path) -> None:
    cells = {"art": "z", "photo": "a", "cat": "9", "dog": "10"}
    rows = [(path, cells[domain], cells[label]) for path, domain, label in rows_of(root)]
    dataset = csv(path=write_csv(root / "table.csv", rows))
    assert dataset.domains == ("a", "z")
    assert dataset.classes == ("10", "9")
    examples = dataset.examples("z", 0)
    assert [file[:7] for file in examples.files] == ["art/dog"] * 2 + ["art/cat"] * 2
    assert examples.labels.tolist() == [0, 0, 1, 1]


def test_the_byte_order_mark_spaces_and_absolute_paths_are_understood(root: Path) -> None:
    rows = [(str(root / path) + " ", f" {domain}", label) for path, domain, label in rows_of(root)]
    table = write_csv(root.parent / "table.csv", rows)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert csv(path=table).counts() == [4, 4]


def test_a_path_must_be_given_and_be_a_table(tmp_path: Path) -> None:
    assert problems_of(None) == ("'csv' needs a path: write csv:/path/to/it",)
    assert f"{tmp_path / 'no.csv'} can't be read: " in problems_of(tmp_path / "no.csv")[0]
    (tmp_path / "latin.csv").write_bytes("path,domain,label\nä.jpg,a,b\n".encode("latin-1"))
    assert "latin.csv can't be read: " in problems_of(tmp_path / "latin.csv")[0]
    (tmp_path / "empty.csv").write_bytes(b"")
    assert "lacks the column(s) 'path', 'domain', 'label'; it has " in problems_of(tmp_path / "empty.csv")[0]


def test_missing_columns_are_named_together(root: Path) -> None:
    table = write_csv(root / "table.csv", rows_of(root), ("path", "Domain", "class"))
    assert problems_of(table) == (f"{table} lacks the column(s) 'domain', 'label'; it has 'path', 'Domain', 'class'",)


def test_missing_cells_and_files_are_named_together(root: Path) -> None:
    rows = [*rows_of(root), ("a/1.jpg", "art", "cat"), ("a/2.jpg", "art", ""), ("b.jpg", "photo"), rows_of(root)[0]]
    table = write_csv(root / "table.csv", [*rows, ("art", "photo", "dog")])
    assert problems_of(table) == (
        f"{table}: 'path', 'domain', 'label' are not all given in line(s) 11, 12",
        f"{table} lists 2 file(s) that do not exist: 'a/1.jpg', 'art'; paths are below {root}",
        f"{table} lists 1 file(s) more than once, in any spelling: 'art/cat/0000.jpg'",
    )


@pytest.mark.parametrize(
    ("keep", "problem"),
    [
        ([], "has 0 domain(s), there must be at least 2"),
        ([0, 1, 2, 3], "has 1 domain(s), there must be at least 2"),
        ([0, 1, 2, 3, 4, 5], "domain(s) 'photo' lack the class(es) 'dog'"),
    ],
)
def test_domains_and_classes_are_checked_as_those_of_folders(root: Path, keep: list[int], problem: str) -> None:
    table = write_csv(root / "table.csv", [rows_of(root)[i] for i in keep])
    assert problem in problems_of(table)[0]


def test_bad_images_are_refused_or_left_out(root: Path) -> None:
    table = write_csv(root / "table.csv", rows_of(root))
    (root / "art" / "cat" / "0000.jpg").write_bytes(b"")
    assert "1 image(s) hold nothing: 'art/cat/0000.jpg'" in problems_of(table)[0]
    truncate(root / "photo" / "dog" / "0001.jpg")
    assert csv(path=table, skip_bad_images=True).counts() == [3, 3]
