"""Cut a run's data into views, and make the minibatches of each step.

Both are functions of the run alone. Every draw has its own generator, keyed by the run's seed, its purpose, the view
and the step (`core.seeding`), never a stream that is continued: so a resumed run, or any loader process, makes the same
minibatch of a step without replaying the steps before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.core.run import Run
from dgbench.core.seeding import numpy_stream
from dgbench.data.ahead import Ahead
from dgbench.data.cache import Cacheable
from dgbench.data.dataset import ArrayExamples, Dataset, Described, Examples, SplitExamples
from dgbench.data.sampling import Sampler
from dgbench.data.splits import Parts, by_domain, parts
from dgbench.store.predictions import Attribute, encode

KEPT_BYTES = 2**30
"""Size of the arrays of a data set from which on `keep_domains` keeps no more."""
Minibatch = list[tuple[Tensor, Tensor, Tensor, int]]
"""One (x, y, positions in the view, index of the domain) for each training domain of a step, on the CPU, not yet
prepared: images are bytes."""


class CutDomain(NamedTuple):
    """A domain as the runs of a trial see it."""

    examples: Examples
    parts: Parts


class _Cut(NamedTuple):
    """The name of a domain in an open data set, with all that decides how a run sees it."""

    domain: str
    data_seed: int
    trial: int
    holdout_fraction: float
    cache: str

    def make(self, dataset: Dataset) -> CutDomain:
        """Return the domain as it is kept in the data set, or open and cut it."""
        if self in dataset.kept:
            found: CutDomain = dataset.kept[self]
            return found
        examples = dataset.examples(self.domain, self.data_seed)
        if self.cache == "auto" and isinstance(examples, Cacheable):
            examples = examples.cached()
        number, shared = dataset.domains.index(self.domain), dataset.card.shared_identities
        fraction = self.holdout_fraction
        cut = parts(examples, self.trial, number, fraction, shared_identities=shared, name=self.domain)
        return CutDomain(examples, cut)


def _cuts(dataset: Dataset, run: Run, trained: Run) -> list[_Cut]:
    """List the domains that a run's fold uses, in the order of the data set."""
    needed, setting = {view.domain for view in (*run.fold.train, *run.fold.evaluated)}, run.setting
    how = (trained.data_seed, run.trial, setting.holdout_fraction, setting.cache)
    return [_Cut(domain, *how) for domain in dataset.domains if domain in needed]


def keep_domains(dataset: Dataset, run: Run) -> None:
    """Open and cut the domains of a run, and keep them for all runs to which they look alike.

    Called in the process that runs are forked from: they then share the arrays in memory. Of data sets that make new
    arrays for each trial, no more are kept than `KEPT_BYTES`.

    Args:
        dataset: Open.
        run: The run; of one that merges or adapts, the data are not generated for each run anew.

    Raises:
        UserError: An input can't be read, or a part is empty.
    """
    for cut in _cuts(dataset, run, run):
        arrays = [kept.examples.inputs for kept in dataset.kept.values() if isinstance(kept.examples, ArrayExamples)]
        if sum({id(array): array.nbytes for array in arrays}.values()) < KEPT_BYTES:
            dataset.kept[cut] = cut.make(dataset)


class ViewData:
    """The domains of a data set, cut into views as a run's trial has it; inputs are decoded when they are read.

    An algorithm's training domains are the views of `train`. These are the fold's, except where a training view is a
    pool of many domains (`SplitExamples`): there each domain of the pool is a view of its own, such as
    `official/train:7`.

    Args:
        dataset: Open.
        run: The run; its fold says which domains are read.
        trained: The training run that a merging or adapting `run` stands on, whose data it shares; None: `run` trains.
    """

    def __init__(self, dataset: Dataset, run: Run, trained: Run | None = None) -> None:
        self.input_shape = dataset.input_shape
        self.outputs = dataset.outputs
        self.card = dataset.card
        self.seed = run.seed
        domains = {cut.domain: cut.make(dataset) for cut in _cuts(dataset, run, trained or run)}
        self.examples = {name: domain.examples for name, domain in domains.items()}
        """Domain -> its examples, for the domains that the fold uses."""
        self.indices = {
            View(name, part): indices for name, domain in domains.items() for part, indices in domain.parts.items()
        }
        """View -> positions of its examples in the domain; the order is the view's."""
        self.features: Mapping[str, NDArray[np.float32]] = {}
        """Domain -> features (n, num_features) of its examples, read in place of inputs; empty: inputs are read."""
        self._attributes: dict[str, dict[str, Attribute]] = {}
        """Domain -> attributes of all its examples, coded when they are first asked for."""
        self.train = tuple(domain for view in run.fold.train for domain in self._domains(view))
        """Views of the training domains, in the order of an algorithm's minibatches."""
        self.augmented = (
            frozenset(run.fold.source_val)
            if run.setting.augmentation and run.setting.validation_augmented
            else frozenset[View]()
        )
        """Views whose inputs are augmented in evaluation, as DomainBed's presets have it."""

    def _domains(self, view: View) -> tuple[View, ...]:
        """Return the training domains of a training view, and record which examples each has."""
        examples = self.examples[view.domain]
        if not isinstance(examples, SplitExamples):
            return (view,)
        pool = by_domain(examples, self.indices[view])
        found = {View(view.domain, f"{view.part}:{number}"): indices for number, indices in pool.items()}
        self.indices.update(found)
        return tuple(found)

    def size(self, view: View) -> int:
        """Return the number of examples of a view."""
        return len(self.indices[view])

    def labels(self, view: View) -> NDArray[Any]:
        """Return the labels of a view in its order: (n,), or (n, answers) where an example has several."""
        return self.examples[view.domain].labels[self.indices[view]]

    def attributes(self, view: View) -> Mapping[str, Attribute]:
        """Return name -> codes (n,) and texts of the attributes that group a view's examples, in its order."""
        examples = self.examples[view.domain]
        if view.domain not in self._attributes:
            values = examples.attributes if isinstance(examples, Described) else {}
            coded = {name: encode(of_name) for name, of_name in values.items()}
            self._attributes[view.domain] = {name: found for name, found in coded.items() if found}
        positions = self.indices[view]
        return {name: (codes[positions], texts) for name, (codes, texts) in self._attributes[view.domain].items()}

    def inputs(self, view: View, positions: NDArray[np.int64]) -> Tensor:
        """Return the inputs of a view at some positions, for evaluation, as a tensor (B, *input_shape) on the CPU.

        They are not augmented, unless the preset augments validation views as DomainBed does.
        """
        # Keyed by the batch's first position: evaluated again in the same batches, a view is augmented alike.
        rng = numpy_stream(self.seed, "validation", str(view), int(positions[0])) if view in self.augmented else None
        return self.read(view.domain, self.indices[view][positions], rng)

    def read(self, domain: str, indices: NDArray[np.int64], rng: np.random.Generator | None) -> Tensor:
        """Return the inputs of a domain at `indices` as a tensor (B, ...) on the CPU, or the features in their place.

        Args:
            domain: One of `examples`.
            indices: (B,) positions in the domain.
            rng: Draws the augmentation; None: there is none. Features are never augmented.
        """
        if self.features:
            return torch.from_numpy(self.features[domain][indices])
        return torch.from_numpy(self.examples[domain].batch(indices, rng))

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one input, or of the features read in its place."""
        for features in self.features.values():
            return features.shape[1:]
        return tuple(self.input_shape)

    @property
    def in_memory(self) -> bool:
        """Return whether reading inputs without augmentation is hardly more than indexing an array."""
        return self.in_arrays or all(
            isinstance(examples, ArrayExamples) or (isinstance(examples, Cacheable) and examples.mapped)
            for examples in self.examples.values()
        )

    @property
    def in_arrays(self) -> bool:
        """Return whether all inputs lie in arrays as they are, so that nothing is decoded or resized."""
        return bool(self.features) or all(isinstance(examples, ArrayExamples) for examples in self.examples.values())


class Minibatches:
    """The minibatches of a training run by step: `minibatches[step]` has one for each training domain of the step.

    If the setting has fewer `domains_per_step` than there are, each step draws that many different ones. A domain of a
    pool may have fewer examples than a minibatch; all are drawn with replacement.

    Args:
        data: The run's data.
        run: The training run.
        copies: For each training domain (n,), how often each example is in it; empty: once.
    """

    def __init__(self, data: ViewData, run: Run, copies: Sequence[Tensor] = ()) -> None:
        self.data = data
        self.views = data.train
        self.pooled = data.train != run.fold.train
        """True if training views are pools of many domains."""
        self.seed = run.seed
        self.steps = run.setting.steps
        self.augment = run.setting.augmentation
        self.domains_per_step = run.setting.domains_per_step or len(self.views)
        self.batch_size = int(run.method.hparams["batch_size"])
        self.balanced = run.setting.class_balanced
        self.copies = [of_view.numpy() for of_view in copies]
        self.samplers: dict[int, Sampler] = {}
        """Index of a training domain -> its sampler, made when it is first drawn from."""

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Minibatch:
        return [self._of_domain(number, step) for number in self.drawn(step)]

    def drawn(self, step: int) -> Sequence[int]:
        """Return the indices of the training domains that a step sees, ascending."""
        if self.domains_per_step >= len(self.views):
            return range(len(self.views))
        rng = numpy_stream(self.seed, "domains", step)
        return sorted(rng.choice(len(self.views), self.domains_per_step, replace=False).tolist())

    def _of_domain(self, number: int, step: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Make the minibatch of one domain; keyed by step, so that it is the same in any process and after a resume."""
        view = self.views[number]
        positions = self._sampler(number)[step]
        chosen = self.data.indices[view][positions]
        rng = numpy_stream(self.seed, "augment", str(view), step) if self._augments(view) else None
        x = self.data.read(view.domain, chosen, rng)
        y = torch.from_numpy(self.data.examples[view.domain].labels[chosen])
        return x, y, torch.from_numpy(positions), number

    def _sampler(self, number: int) -> Sampler:
        if number not in self.samplers:
            view = self.views[number]
            copies = self.copies[number] if self.copies else None
            self.samplers[number] = Sampler(
                self.data.labels(view),
                self.batch_size,
                self.seed,
                view,
                class_balanced=self.balanced,
                copies=copies,
                allow_few=self.pooled,
            )
        return self.samplers[number]

    def _augments(self, view: View) -> bool:
        """Return whether the inputs of a view are augmented in training; those in memory never are."""
        return self.augment and not isinstance(self.data.examples[view.domain], ArrayExamples)

    def between(self, start: int, end: int, workers: int, *, pinned: bool = False) -> Iterator[Minibatch]:
        """Yield the minibatches of steps `start` to `end - 1`.

        Args:
            start: First step.
            end: Step after the last.
            workers: Processes that make minibatches ahead; 0, or data in memory without augmentation: this process
                makes them.
            pinned: Whether minibatches of other processes lie in pinned memory, from which a GPU copies by itself.
        """
        if workers == 0 or (self.data.in_memory and not any(map(self._augments, self.views))):
            return (self[step] for step in range(start, end))
        return iter(Ahead(self, range(start, end), workers, pinned=pinned))
