"""Predict image files by an exported model, a line each.

dgbench predict model photos/
dgbench predict model photos/*.jpg --csv predictions.csv --top 3
dgbench predict model labeled.csv --root photos

A csv file of images has a column `path` or `file`, such as `dgbench predictions` writes; with a column `label`, the
accuracy is printed too. Files that can't be read are listed at the end, and then the exit code is 1.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dgbench import cli
from dgbench.core.errors import Problems, UserError
from dgbench.core.machine import usable_cores
from dgbench.core.progress import print_line, shown_progress
from dgbench.core.wording import count_nouns, printable
from dgbench.models.exported import ExportedModel, read_about
from dgbench.models.files import ImageFile, find_images
from dgbench.models.images import read_image
from dgbench.store.files import write_atomic

if TYPE_CHECKING:
    from dgbench.models.ready import ReadyModel

_BATCH = 64


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench predict", doc=__doc__)
    found.add_argument("model", type=Path, help="folder that `dgbench export --format model` wrote")
    found.add_argument("images", nargs="+", help="images, folders, patterns, or csv files")
    found.add_argument("--csv", type=Path, metavar="FILE", help="write there instead of printing")
    found.add_argument("--top", type=int, default=1, metavar="K", help="classes of an image (1)")
    found.add_argument("--root", type=Path, metavar="DIR", help="folder of the paths in csv files (default: theirs)")
    found.add_argument("--batch_size", type=int, default=_BATCH, metavar="N", help=f"images at once ({_BATCH})")
    found.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    return found


@dataclass
class Outcome:
    """The predictions so far, and the files without one."""

    classes: Sequence[str]
    lines: list[tuple[ImageFile, list[tuple[str, float]]]] = field(default_factory=list)
    """(file, its likeliest classes with their probabilities)."""
    unreadable: list[str] = field(default_factory=list)
    """A message for each file that can't be read."""

    @property
    def right(self) -> tuple[int, int]:
        """Return how many labeled images are predicted rightly, and how many are labeled."""
        labeled = [(file.label, found[0][0]) for file, found in self.lines if file.label is not None]
        return sum(label == predicted for label, predicted in labeled), len(labeled)


def main(argv: Sequence[str]) -> int:
    """Predict all images; return 0, or 1 if some can't be read."""
    args, problems = parser().parse_args(argv), Problems()
    for name in ("top", "batch_size"):
        if getattr(args, name) < 1:
            problems.add(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.csv and not args.csv.parent.is_dir():
        problems.add(f"--csv {args.csv}: there is no folder {args.csv.parent}")
    files, about = list[ImageFile](), None
    with problems.collecting():
        about = read_about(args.model)
    with problems.collecting():
        files = find_images(args.images, args.root)
    problems.raise_if_any()
    assert about, "or a problem was found"
    _check_labels(files, about)
    from dgbench.models.loading import load_exported  # imports torch, which refusals do without

    model = load_exported(args.model, args.device)
    outcome = Outcome(about.classes)
    started = time.perf_counter()
    with shown_progress() as report:
        for done in _predict(model, files, args, outcome):
            report("images", done, len(files))
    seconds = time.perf_counter() - started
    _write(outcome, args)
    for line in _summary(outcome, about, seconds, str(model.device)):
        print_line(line)
    return 1 if outcome.unreadable else 0


def _check_labels(files: Sequence[ImageFile], about: ExportedModel) -> None:
    """Raise `UserError` if csv files have labels that are no classes of the model."""
    labels = {file.label for file in files if file.label is not None}
    if unknown := sorted(labels - set(about.classes)):
        shown = ", ".join(map(repr, unknown[:10]))
        raise UserError(f"the column 'label' holds {shown}, which are no classes of the model: leave the column out")


def _predict(model: ReadyModel, files: Sequence[ImageFile], args: Any, outcome: Outcome) -> Iterator[int]:
    """Add the predictions of all files to `outcome`; yield how many files are done. The next batch is read ahead."""
    batches = [files[start : start + args.batch_size] for start in range(0, len(files), args.batch_size)]
    how, done = model.preprocess, 0
    assert how, "only models of images are exported"

    def read(file: ImageFile) -> Any:
        try:
            return read_image(file.path, how)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(usable_cores()) as pool:
        ahead = [pool.submit(read, file) for file in batches[0]]
        for batch, following in zip(batches, [*batches[1:], ()], strict=True):
            read_now, ahead = [job.result() for job in ahead], [pool.submit(read, file) for file in following]
            pairs = list(zip(batch, read_now, strict=True))
            outcome.unreadable += [found for _, found in pairs if isinstance(found, str)]
            readable = [(file, found) for file, found in pairs if not isinstance(found, str)]
            if readable:
                answers = model.predict(np.stack([found for _, found in readable]), batch_size=args.batch_size)
                named = zip(readable, answers.top(args.top), strict=True)
                outcome.lines += [(file, top) for (file, _), top in named]
            done += len(batch)
            yield done


def _write(outcome: Outcome, args: Any) -> None:
    """Write the predictions as csv, or print them."""
    if args.csv is None:
        for file, found in outcome.lines:
            print(f"{printable(file.name)}: {', '.join(f'{printable(name)} {share:.3f}' for name, share in found)}")
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    most, labeled = min(args.top, len(outcome.classes)), outcome.right[1] > 0
    ranks = ["", *(f"_{rank}" for rank in range(2, most + 1))]
    names = [f"{name}{rank}" for rank in ranks for name in ("predicted", "probability")]
    writer.writerow(["file", *(["label"] if labeled else []), *names])
    for file, found in outcome.lines:
        values = [value for name, share in found for value in (name, f"{share:.6g}")]
        writer.writerow([file.name, *([file.label or ""] if labeled else []), *values])
    write_atomic(args.csv, text.getvalue().encode("utf-8", "surrogateescape"))


def _summary(outcome: Outcome, about: ExportedModel, seconds: float, device: str) -> Iterator[str]:
    """Yield the lines on all images together."""
    number = len(outcome.lines)
    pace = f"{number / seconds:,.1f} images a second" if number else "none"
    yield f"predicted {count_nouns(number, 'image')} in {seconds:.1f} s on {device}: {pace}"
    if about.calibrated_on:
        yield (
            f"probabilities are calibrated by a temperature of {about.temperature:.3g}, fitted to "
            f"{count_nouns(about.calibrated_on, 'validation image')} of the training domains"
        )
    else:
        yield "probabilities are the network's own, which were not calibrated"
    right, labeled = outcome.right
    if labeled:
        yield f"accuracy {100 * right / labeled:.1f} % ({right:,} of {labeled:,} labeled images)"
    if outcome.unreadable:
        yield f"{count_nouns(len(outcome.unreadable), 'file')} can't be read:"
        yield from outcome.unreadable


if __name__ == "__main__":
    sys.exit(cli.run(main))
