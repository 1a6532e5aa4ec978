"""Read any images that a CSV file lists as a data set, without writing code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from csv import DictReader, Error
from pathlib import Path

from dgbench.core.errors import Problems, UserError
from dgbench.core.wording import group_values
from dgbench.datasets._own import OWN_CARD, OwnImages
from dgbench.datasets._tree import ImageFile, Tree, listed, size_of

_COLUMNS = ("path", "domain", "label")


class csv(OwnImages):
    """Your own images listed in a CSV file, `csv:/path/file.csv`, with the columns path, domain and label.

    Paths are absolute, or relative to the file's folder. Domains and labels are sorted, and the order of the rows means
    nothing. Every domain must have every label, unless `--allow_missing_classes` is given. A file that is listed twice,
    in any spelling, is refused. Further columns (sex, scanner, weather) are attributes, by whose values metrics of
    groups look at kept predictions; they decide nothing in training.
    """

    card = OWN_CARD

    def find(self) -> tuple[Path, Tree]:
        """Return the folder of the CSV file, and the image files that it lists."""
        path = self.given_path()
        return path.parent, read_table(path)

    def attributes_of(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the further columns of files that the CSV file lists."""
        return read_attributes(self.given_path(), files)


def read_table(path: Path) -> Tree:
    """Return the image files that a CSV file lists, by domain and label, sorted by path.

    Raises:
        UserError: All columns and cells that are missing, files that don't exist, and files listed twice.
    """
    rows = _read_rows(path)
    problems = Problems()
    incomplete = [str(line) for line, cells in rows if not all(cells)]
    if incomplete:
        problems.add(f"{path}: {listed(_COLUMNS)} are not all given in line(s) {', '.join(incomplete[:10])}")
    paths = [cells[0] for _, cells in rows if all(cells)]
    missing = [image for image in paths if not os.path.isfile(path.parent / image)]
    if missing:
        problems.add(
            f"{path} lists {len(missing)} file(s) that do not exist: {listed(missing)}; paths are below {path.parent}"
        )
    # `a.jpg`, `./a.jpg` and a link to it are one image, which must not lie in two domains or parts.
    spellings = group_values((os.path.realpath(path.parent / image), image) for image in paths)
    twice = [image for of_file in spellings.values() for image in of_file[1:]]
    if twice:
        problems.add(f"{path} lists {len(twice)} file(s) more than once, in any spelling: {listed(twice)}")
    problems.raise_if_any()
    tree = dict[str, dict[str, list[ImageFile]]]()
    for _, (image, domain, label) in sorted(rows, key=lambda row: row[1]):
        tree.setdefault(domain, {}).setdefault(label, []).append(ImageFile(image, size_of(path.parent / image)))
    return tree


def read_attributes(path: Path, files: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of a CSV file beside path, domain and label, each with its cell of each of the files."""
    rows = {cells["path"]: cells for _, cells in _read_lines(path)}
    names = [name for name in next(iter(rows.values()), {}) if name and name not in _COLUMNS]
    return {name: [rows[file][name] for file in files] for name in names}


def _read_rows(path: Path) -> list[tuple[int, tuple[str, str, str]]]:
    """Return the line number and the cells of `_COLUMNS` of each row; a missing cell is empty."""
    return [(line, (cells["path"], cells["domain"], cells["label"])) for line, cells in _read_lines(path)]


def _read_lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the line number of each row, and column -> cell; a missing cell is empty."""
    try:
        # utf-8-sig drops the mark that spreadsheets put first, which would become part of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = DictReader(file, restval="")
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                present = listed(reader.fieldnames or ())
                raise UserError(f"{path} lacks the column(s) {listed(missing)}; it has {present}")
            # Cells beyond the last column stand under the key None.
            return [
                (reader.line_num, {name: cell.strip() for name, cell in row.items() if name is not None})
                for row in reader
            ]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} can't be read: {error}: save it as UTF-8") from error
    except (OSError, Error) as error:
        raise UserError(f"{path} can't be read: {error}") from error
