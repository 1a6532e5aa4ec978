"""Read every example of a data set once, to find those that can't be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.dataset import Dataset, Examples

_AT_ONCE = 1024  # examples between two reports of progress


def bad_examples(dataset: Dataset, progress: ReportProgress) -> Iterator[str]:
    """Read every example of a data set, and yield the message of each that can't be read, as a run would raise it."""
    total, done = sum(dataset.counts()), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for domain in dataset.domains:
            examples = dataset.examples(domain, 0)
            count = len(examples.labels)
            for start in range(0, count, _AT_ONCE):
                indices = range(start, min(start + _AT_ONCE, count))
                yield from filter(None, pool.map(partial(_trouble, examples), indices))
                progress("examples decoded", done + indices.stop, total)
            done += count


def _trouble(examples: Examples, index: int) -> str:
    try:
        examples.batch(np.array([index]), None)
    except UserError as error:
        return str(error)
    return ""
