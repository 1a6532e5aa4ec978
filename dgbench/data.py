"""The data of one run: its views, and the minibatches of each step, which are a function of (run, step) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dgbench.dataset import ArrayExamples, Dataset
from dgbench.image_cache import Cacheable
from dgbench.protocol import View
from dgbench.run import Run
from dgbench.sampling import Sampler
from dgbench.seeding import numpy_stream
from dgbench.splits import parts

Minibatch = list[tuple[Tensor, Tensor, Tensor]]
"""One (x, y, positions in the view) of each training view, on the CPU; images as bytes."""


class ViewData:
    """A data set's domains cut into views, under a run's trial; nothing is decoded before it is asked for.

    `trained` is the training run that a merging or adapting `run` stands on: it sees the same data.
    """

    def __init__(self, dataset: Dataset, run: Run, trained: Run | None = None) -> None:
        self.input_shape = dataset.input_shape
        self.seed = run.seed
        fraction = run.setting.holdout_fraction
        needed = {view.domain for view in (*run.fold.train, *run.fold.evaluated)}
        self.examples = {d: dataset.examples(d, (trained or run).data_seed) for d in dataset.domains if d in needed}
        if run.setting.cache == "auto":
            self.examples = {d: e.cached() if isinstance(e, Cacheable) else e for d, e in self.examples.items()}
        self.indices = {
            View(domain, part): indices
            for domain, examples in self.examples.items()
            for part, indices in parts(examples, run.trial, dataset.domains.index(domain), fraction).items()
        }
        self.augmented = (
            frozenset(run.fold.source_val)
            if run.setting.augmentation and run.setting.validation_augmented
            else frozenset[View]()
        )

    def size(self, view: View) -> int:
        """Number of examples of a view."""
        return len(self.indices[view])

    def labels(self, view: View) -> NDArray[np.int64]:
        """Labels of a view (n,), in its order."""
        return self.examples[view.domain].labels[self.indices[view]]

    def inputs(self, view: View, positions: NDArray[np.int64]) -> Tensor:
        """Inputs of a view at some positions, for evaluation: clean, unless the preset augments validation views."""
        rng = numpy_stream(self.seed, "validation", str(view), int(positions[0])) if view in self.augmented else None
        return torch.from_numpy(self.examples[view.domain].batch(self.indices[view][positions], rng))

    @property
    def in_memory(self) -> bool:
        """Whether reading clean inputs is hardly more than indexing."""
        return all(
            isinstance(examples, ArrayExamples) or (isinstance(examples, Cacheable) and examples.mapped)
            for examples in self.examples.values()
        )


class Minibatches(TorchDataset[Minibatch]):
    """[step] -> one minibatch of each training view, in which examples may stand several times (`copies`)."""

    def __init__(self, data: ViewData, run: Run, copies: Sequence[Tensor] = ()) -> None:
        self.data = data
        self.views = run.fold.train
        self.seed = run.seed
        self.steps = run.setting.steps
        self.augment = run.setting.augmentation
        batch_size = int(run.method.hparams["batch_size"])
        balanced = run.setting.class_balanced
        times = [of_view.numpy() for of_view in copies] if copies else [None] * len(self.views)
        self.samplers = [
            Sampler(data.labels(view), batch_size, run.seed, view, class_balanced=balanced, copies=of_view)
            for view, of_view in zip(self.views, times, strict=True)
        ]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Minibatch:
        return [self._of_view(view, sampler, step) for view, sampler in zip(self.views, self.samplers, strict=True)]

    def _of_view(self, view: View, sampler: Sampler, step: int) -> tuple[Tensor, Tensor, Tensor]:
        examples, positions = self.data.examples[view.domain], sampler[step]
        chosen = self.data.indices[view][positions]
        rng = numpy_stream(self.seed, "augment", str(view), step) if self._augments(view) else None
        x, y = torch.from_numpy(examples.batch(chosen, rng)), torch.from_numpy(examples.labels[chosen])
        return x, y, torch.from_numpy(positions)

    def _augments(self, view: View) -> bool:
        return self.augment and not isinstance(self.data.examples[view.domain], ArrayExamples)

    def between(self, start: int, end: int, workers: int) -> Iterator[Minibatch]:
        """The minibatches of `start` to `end - 1`; with `workers`, made ahead by that many processes."""
        if workers == 0 or (self.data.in_memory and not any(map(self._augments, self.views))):
            return (self[step] for step in range(start, end))
        loader: DataLoader[Minibatch] = DataLoader(
            self,
            batch_size=None,
            sampler=range(start, end),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4,
        )
        return iter(loader)
