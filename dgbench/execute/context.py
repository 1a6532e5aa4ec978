"""What executing a run takes: the run among its sweep's folders, its data, and this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.errors import UserError
from dgbench.core.machine import check_precision, pick_device
from dgbench.core.protocol import View
from dgbench.core.run import BEST, LAST, Input, Run
from dgbench.core.seeding import numpy_stream
from dgbench.core.site import Site
from dgbench.data.dataset import Dataset
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import Predict, PredictedBatch, predict_batches, score_views
from dgbench.execute.models import SavedModel, build_algorithm, find_model
from dgbench.execute.predictions import save_predictions, selectors_naming
from dgbench.methods.algorithm import Algorithm, Task
from dgbench.networks.network import Network
from dgbench.store.folder import RunFolder, Store
from dgbench.store.lease import Lease, Stopped
from dgbench.store.sealed import CorruptFile

T = TypeVar("T")


class InputDamaged(Exception):
    """A file of a run that another reads is damaged: that run must be made again."""

    def __init__(self, run: str, why: str) -> None:
        super().__init__(why)
        self.run = run


_NOTHING: Mapping[str, Collection[str]] = MappingProxyType({})


@dataclass(frozen=True)
class RunContext:
    """A run, ready to be executed; `open_context` makes it."""

    run: Run
    trained: Run
    """The first training run that it stands on (itself, if it trains); all of them share data and network."""
    store: Store
    catalogue: Catalogue
    site: Site
    device: torch.device
    keep: Mapping[str, Collection[str]]
    """Predictor -> which of its models other runs read."""
    dataset: Dataset
    data: ViewData
    lease: Lease | None
    """That of the process that executes the run; None where the run is only looked at."""

    @property
    def folder(self) -> RunFolder:
        """The run's own folder."""
        return self.store.folder(self.run.id)

    def kept(self, predictor: str) -> Collection[str]:
        """Choose which of a predictor's models stay on disk: those that other runs read, or all with `save_models`."""
        return (BEST, LAST) if self.site.save_models else self.keep.get(predictor, ())

    def algorithm(self, *, begin: bool = False) -> Algorithm:
        """Build the algorithm of the training run with its initial weights; to `begin` it, fit the classifier's."""
        classes = len(self.dataset.classes)
        kind = self.dataset.card.task
        if kind == "classification":
            counts = [np.bincount(self.data.labels(view), minlength=classes).tolist() for view in self.data.train]
        else:
            counts = [[self.data.size(view)] for view in self.data.train]
        task = Task(self.data.input_shape, classes, tuple(map(tuple, counts)), kind, self.dataset.card.normalised)
        begin_with = self._fit if begin else None
        return build_algorithm(self.trained, self.catalogue, task, self.device, self.site.backbone_weights, begin_with)

    def interruptible(self, parts: Iterable[T]) -> Iterator[T]:
        """Yield the parts of long work, such as batches; raise `Stopped` before one if the lease asks to stop."""
        for part in parts:
            if self.lease and self.lease.stop_requested:
                raise Stopped
            yield part

    def predict_batches(
        self,
        predict: Predict,
        view: View,
        *,
        batch_size: int | None = None,
        order: NDArray[np.int64] | None = None,
    ) -> Iterator[PredictedBatch]:
        """Yield a view's logits in batches as `evaluate.predict_batches` does, interruptibly.

        Unless a `batch_size` is given, a transductive model is shown groups as large as a domain's in training, all of
        them full, and unless an `order` is, in that of `self.order`.
        """
        order = self.order(view) if order is None else order
        size, fill = batch_size or self.group_size or None, batch_size is None and self.group_size > 0
        found = predict_batches(predict, self.data, view, self.device, batch_size=size, order=order, fill=fill)
        return self.interruptible(found)

    @property
    def group_size(self) -> int:
        """How many inputs a transductive model predicts at a time; 0 of others, which predict each by itself."""
        card = self.catalogue.get("algorithm", self.trained.method.name).card
        return int(self.trained.method.hparams["batch_size"]) if card.transductive else 0

    def order(self, view: View) -> NDArray[np.int64]:
        """Positions of a view as its examples are predicted: seeded for transductive models, which see groups of them.

        In the order of the files a group may be of one class.
        """
        size = self.data.size(view)
        return (
            numpy_stream(self.run.seed, "together", str(view)).permutation(size) if self.group_size else np.arange(size)
        )

    def measure(
        self,
        predictor: str,
        shown: Callable[[View], Iterable[PredictedBatch]],
        *,
        step: int,
        last: bool,
        named: dict[str, float],
    ) -> dict[str, dict[str, float]]:
        """Score a model on each view of the run; where the site asks for it, keep its logits if a selector names it.

        Args:
            predictor: Its name, by which the logits are kept.
            shown: View -> its batches, which come once.
            step: After which it was taken.
            last: Whether it is the last of its predictor.
            named: What `predictions.naming` remembers of the models before; brought up to date.

        Returns:
            View -> what is recorded of it.
        """
        logits: dict[View, Tensor] | None = {} if self.site.save_predictions else None
        scores = score_views(shown, self.data, self.run.views, logits)
        if logits is not None:
            by = selectors_naming(self.run, predictor, scores, self.data.card.metric, named) + [LAST] * last
            names = [f"{predictor}.{name}" for name in by]
            save_predictions(self.folder.path, names, step, logits, self.data, self.dataset.classes)
        return scores

    def context_of_input(self, source: Input) -> RunContext:
        """Make the workbench of a run that this one reads: on the same data, maybe with another network."""
        run = self.store.folder(source.run).run()
        return dataclasses.replace(self, run=run, trained=training_run(run, self.store))

    def find_input_model(self, source: Input, which: str) -> SavedModel:
        """Find a saved model of an input; raise FileNotFoundError, with the way out, if it is gone.

        Raise `InputDamaged` if it is not what was written.
        """
        try:
            return find_model(self.store.folder(source.run).path, source.predictor, which)
        except CorruptFile as error:
            raise InputDamaged(source.run, str(error)) from error

    def _fit(self, network: Network) -> None:
        if self.run.setting.classifier_init == "linear_probe":
            from dgbench.execute.probe import fit_classifier  # scikit-learn takes a second to import

            probed = self.trained.probed
            data = self.data if probed == self.run else ViewData(self.dataset, probed)
            fit_classifier(network, data, probed.fold, self.device, self.interruptible)


def open_context(
    run: Run,
    store: Store,
    site: Site,
    catalogue: Catalogue,
    keep: Mapping[str, Collection[str]] = _NOTHING,
    lease: Lease | None = None,
) -> RunContext:
    """Open the data, device and files of a run.

    Args:
        run: The run, whose folder exists.
        store: The sweep's folder.
        site: This machine.
        catalogue: The catalogue with the files that `site` includes.
        keep: Predictor -> which of its models other runs read.
        lease: The right to execute the run; None where nothing asks to stop.

    Raises:
        UserError: With everything that is wrong with the data, or if this machine lacks the device.
    """
    how = run.setting
    dataset = open_dataset(run.dataset, site, catalogue, how.image_size, how.backbone, how.interpolation)
    trained = training_run(run, store)
    data = ViewData(dataset, run, trained)
    device = pick_device(site.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine")
    check_precision(run.setting, device)
    return RunContext(run, trained, store, catalogue, site, device, keep, dataset, data, lease)


def training_run(run: Run, store: Store) -> Run:
    """Find the first training run that a run stands on, or itself."""
    while run.kind != "train":
        run = store.folder(run.inputs[0].run).run()
    return run
