"""The context of a run: its sweep folder, data, device and catalogue, opened once and passed to all that execute it.

`open_context` makes a `RunContext`. A process that executes the run passes the lease that it holds; without a lease the
run can be read, its algorithm built and its predictors measured, and nothing asks to stop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.machine import check_precision, choose_kernels, open_device
from dgbench.core.progress import NO_DISPLAY, TrainingDisplay
from dgbench.core.protocol import View
from dgbench.core.run import LAST, Input, Run
from dgbench.core.seeding import numpy_stream
from dgbench.core.site import Site, saved_models
from dgbench.data.dataset import Dataset
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import HELD, Predict, PredictedBatch, Read, predict_batches, score_views
from dgbench.execute.features import FeatureStore
from dgbench.execute.models import SavedModel, build_algorithm, find_model
from dgbench.execute.predictions import save_predictions, selectors_naming
from dgbench.execute.reading import InputReader
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Task
from dgbench.networks.memory import FeatureMemory
from dgbench.networks.network import Network
from dgbench.networks.weights import with_weights_file
from dgbench.store.folder import Store
from dgbench.store.lease import Lease, Stopped
from dgbench.store.run_folder import RunFolder
from dgbench.store.sealed import CorruptFile

T = TypeVar("T")


class InputDamaged(Exception):
    """Raised when a file of an input run is damaged, so that the input has to be executed again."""

    def __init__(self, run: str, why: str) -> None:
        super().__init__(why)
        self.run = run
        """Id of the damaged run."""


_NOTHING: Mapping[str, Collection[str]] = MappingProxyType({})
"""No predictor keeps a model."""


@dataclass(frozen=True)
class RunContext:
    """A run with everything that executing it needs; made by `open_context`, never changed."""

    run: Run
    trained: Run
    """The first training run that this one stands on, or this one if it trains; they share data and network."""
    store: Store
    catalogue: Catalogue
    site: Site
    device: torch.device
    keep: Mapping[str, Collection[str]]
    """Predictor -> which of its models, `run.BEST` and `run.LAST`, other runs read."""
    dataset: Dataset
    data: ViewData
    """The run's views."""
    reader: InputReader
    """Reads the inputs of `data` for evaluations."""
    lease: Lease | None
    """The executing process's right to the run; None where the run is only read."""
    display: TrainingDisplay
    """Receives each step and evaluation of a training."""
    memory: FeatureMemory = field(default_factory=lambda: FeatureMemory(HELD))
    """Features of the run's views, where its network has this memory."""

    @property
    def folder(self) -> RunFolder:
        """Return the run's own folder."""
        return self.store.folder(self.run.id)

    def kept(self, predictor: str) -> Collection[str]:
        """Return which of a predictor's models are saved: those that other runs read, and those of `save_models`."""
        return {*self.keep.get(predictor, ()), *saved_models(self.site.save_models)}

    def algorithm(self, *, begin: bool = False, train: bool = False) -> Algorithm:
        """Build the algorithm of the training run with its initial weights.

        Args:
            begin: Whether training starts from them: then the classifier is fitted first, if the setting says so.
            train: Whether it is to be trained, see `build_algorithm`.
        """
        classes = len(self.dataset.classes)
        kind = self.dataset.card.task
        if kind == "classification":
            counts = [np.bincount(self.data.labels(view), minlength=classes).tolist() for view in self.data.train]
        else:
            # Other labels can't be counted by class: a domain has one count, its size.
            counts = [[self.data.size(view)] for view in self.data.train]
        names = tuple(self.dataset.classes) if kind == "classification" else ()
        shape, normalised = self.data.input_shape, self.dataset.card.normalised
        task = Task(shape, classes, tuple(map(tuple, counts)), kind, normalised, names)
        file = self.site.backbone_weights

        def begin_with(network: Network) -> None:
            if self.lease and self.trained.setting.stored_features:
                self._read_features(network)
            elif self.lease and (self.run.kind == "adapt" or not self._learns_features):
                network.memory = self.memory
            if begin:
                self._fit(network)

        return build_algorithm(self.trained, self.catalogue, task, self.device, file, begin_with, train=train)

    def interruptible(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items of an iterable, and raise `Stopped` before the next once the lease asks to stop."""
        for item in items:
            if self.lease and self.lease.stop_requested:
                raise Stopped
            yield item

    def predict_batches(
        self,
        predict: Predict,
        view: View,
        *,
        batch_size: int | None = None,
        order: NDArray[np.int64] | None = None,
        read: Read | None = None,
    ) -> Iterator[PredictedBatch]:
        """Yield a view's logits as `evaluate.predict_batches` does, interruptibly.

        Args:
            predict: Maps inputs to logits.
            view: The view to predict.
            batch_size: Examples in a batch; None: `group_size`, with the last batch filled, or if that is 0 as many as
                fit any machine.
            order: Positions in the order in which they are predicted; None: `self.order(view)`.
            read: Reads the inputs, as they come in these batches; None: the run's reader.

        Yields:
            Positions (b,), and their logits (b, ...) on the device.
        """
        order = self.order(view) if order is None else order
        size, fill = batch_size or self.group_size or None, batch_size is None and self.group_size > 0
        memory, read = self.memory, read or self.reader.read
        found = predict_batches(
            predict, self.data, view, self.device, batch_size=size, order=order, fill=fill, memory=memory, read=read
        )
        return self.interruptible(found)

    @property
    def _learns_features(self) -> bool:
        """Return whether the models of the run may have different featurizers."""
        card = self.catalogue.get("algorithm", self.trained.method.name).card
        return bool(card.learns) and self.trained.setting.freeze != "featurizer"

    @property
    def group_size(self) -> int:
        """Return how many inputs a transductive model predicts together, a domain's minibatch; 0 for other models."""
        card = self.catalogue.get("algorithm", self.trained.method.name).card
        return int(self.trained.method.hparams["batch_size"]) if card.transductive else 0

    def order(self, view: View) -> NDArray[np.int64]:
        """Return the positions of a view in the order in which they are predicted, (n,).

        A transductive model gets them shuffled by the run's seed: in the order of files, a group may hold a single
        class.
        """
        size = self.data.size(view)
        return (
            numpy_stream(self.run.seed, "together", str(view)).permutation(size) if self.group_size else np.arange(size)
        )

    def measure(
        self,
        predictor: str,
        batches_of: Callable[[View], Iterable[PredictedBatch]],
        *,
        step: int,
        last: bool,
        named: dict[str, float],
        along: dict[str, list[float]] | None = None,
        known: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    ) -> dict[str, dict[str, float]]:
        """Score a model on each view of the run, and save its logits if the site asks for predictions.

        Logits are saved for those models only that a selector may name, unless the site asks for all.

        Args:
            predictor: Its name, part of the names of files with logits.
            batches_of: Gives a view's batches, an iterable that is read once.
            step: The step after which the model was taken.
            last: Whether it is the last model of its predictor.
            named: State of `predictions.selectors_naming` over the predictor's models; updated.
            along: If given, receives view as text -> the accuracy of each tenth of its examples, as they came.
            known: View as text -> its scores, of views that were scored before; those whose logits are saved are
                predicted again.

        Returns:
            View as text -> name of a score -> value.
        """
        logits: dict[View, Tensor] | None = {} if self.site.save_predictions else None
        known = known if logits is None else {}
        scores = score_views(batches_of, self.data, self.run.views, logits, along, known)
        if logits is not None:
            names = selectors_naming(self.run, predictor, scores, self.data.card.metric, named) + [LAST] * last
            names += [f"step-{step}"] * (self.site.save_predictions == "all")
            save_predictions(self.folder.path, predictor, names, step, logits, self.data, self.dataset.classes)
        return scores

    def context_of_input(self, source: Input) -> RunContext:
        """Return the context of a run that this one reads: on the same data, maybe with another network."""
        run = self.store.folder(source.run).run()
        return dataclasses.replace(self, run=run, trained=training_run(run, self.store), memory=FeatureMemory(HELD))

    def find_input_model(self, source: Input, which: str) -> SavedModel:
        """Find a saved model of an input.

        Args:
            source: The run and the predictor.
            which: `run.BEST` or `run.LAST`.

        Raises:
            FileNotFoundError: The file is gone; the message names the command that makes it again.
            InputDamaged: The file's content is not what was written.
        """
        try:
            return find_model(self.store.folder(source.run).path, source.predictor, which)
        except CorruptFile as error:
            raise InputDamaged(source.run, str(error)) from error

    def _read_features(self, network: Network) -> None:
        """Let the run's data and network work with stored features in place of inputs."""
        network.reads_features = False
        self.data.features = FeatureStore(
            self.store, self.trained, self.dataset, self.data, self.device, self.interruptible
        ).read(network)
        network.reads_features = True

    def _fit(self, network: Network) -> None:
        """Fit the classifier to the network's features or to the names of the classes, if the setting asks for it."""
        setting = self.run.setting
        if setting.classifier_init == "zero_shot":
            from dgbench.networks.clip_text import write_zero_shot  # no other start needs it

            located = with_weights_file(setting, self.site.backbone_weights)
            write_zero_shot(network.classifier, located, self.data.input_shape, self.dataset.classes)
        if setting.classifier_init == "linear_probe":
            from dgbench.execute.probe import fit_classifier  # scikit-learn takes a second to import

            probed = self.trained.probed
            # Another trial's data, where all trials must start from the same classifier.
            data = self.data if probed == self.run else ViewData(self.dataset, probed)
            if network.reads_features and data is not self.data:
                dataclasses.replace(self, trained=probed, data=data)._read_features(network)
            # Another trial's views have the names of these.
            memory, read = (self.memory, self.reader.read) if data is self.data else (None, None)
            fit_classifier(network, data, probed.fold, self.device, self.interruptible, memory, read)


def open_context(
    run: Run,
    store: Store,
    site: Site,
    catalogue: Catalogue,
    keep: Mapping[str, Collection[str]] = _NOTHING,
    lease: Lease | None = None,
    display: TrainingDisplay = NO_DISPLAY,
) -> RunContext:
    """Open the data, device and files of a run.

    Args:
        run: The run, whose folder exists.
        store: The sweep's folder.
        site: This machine.
        catalogue: The catalogue with the files that `site` includes.
        keep: Predictor -> which of its models other runs read.
        lease: The right to execute the run; None to read it only.
        display: Receives each step and evaluation of a training.

    Raises:
        UserError: Everything that is wrong with the data, or this machine lacks the device.
    """
    dataset = dataset_of(run, site, catalogue)
    trained = training_run(run, store)
    data = ViewData(dataset, run, trained)
    device = open_device(site.device)
    check_precision(run.setting, device)
    choose_kernels(run.setting)
    reader = InputReader(data, site.workers, device)
    return RunContext(run, trained, store, catalogue, site, device, keep, dataset, data, reader, lease, display)


def dataset_of(run: Run, site: Site, catalogue: Catalogue) -> Dataset:
    """Open the data set of a run as its setting reads it; raise `UserError` with everything that is wrong with it."""
    setting = run.setting
    return open_dataset(run.dataset, site, catalogue, setting.image_size, setting.backbone, setting.interpolation)


def training_run(run: Run, store: Store) -> Run:
    """Return the first training run that a run stands on, or the run itself if it trains."""
    while run.kind != "train":
        run = store.folder(run.inputs[0].run).run()
    return run
