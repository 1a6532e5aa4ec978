"""Runs that train nothing: merging finished runs into one predictor, adapting a finished model at test time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dgbench.adapter import Adapter
from dgbench.algorithm import Algorithm
from dgbench.average import Weights
from dgbench.catalogue import Catalogue
from dgbench.data import ViewData
from dgbench.evaluate import evaluate, evaluate_views, logits_of, mean_accuracy
from dgbench.merger import Member, Merger
from dgbench.predictor import BEST, LAST, Saved, build, build_algorithm, find_model, predict_with, save_model
from dgbench.protocol import View
from dgbench.run import MODEL, Input, Run
from dgbench.seeding import numpy_stream
from dgbench.sources import Site
from dgbench.store import Store
from dgbench.training import save_predictions, seed_everything


def trained_below(run: Run, store: Store) -> Run:
    """The first training run that a run stands on (itself, if it trains); all of them share data and network."""
    while run.inputs:
        run = store.folder(run.inputs[0].run).run()
    return run


class Derived:
    """What merging and adapting share: the runs that they stand on, and a model of their shape."""

    def __init__(
        self,
        run: Run,
        store: Store,
        data: ViewData,
        num_classes: int,
        catalogue: Catalogue,
        site: Site,
        device: torch.device,
        keep: frozenset[str],
    ) -> None:
        self.run, self.store, self.data, self.site, self.device, self.keep = run, store, data, site, device, keep
        self.folder = store.folder(run.id)
        self.catalogue = catalogue
        self.algorithm: Algorithm = build_algorithm(
            trained_below(run, store), catalogue, data.input_shape, num_classes, device
        )
        self.views = run.views

    def saved(self, source: Input, which: str) -> Saved:
        """An input's model on disk."""
        return find_model(self.store.folder(source.run).path, source.predictor, which)

    def record(self, step: int, logits: Mapping[View, Tensor], extra: dict[str, Any] | None = None) -> float:
        """Record the scores of one model from its logits; returns its training-domain validation accuracy."""
        scores = {str(view): evaluate(values, self.data.labels(view)) for view, values in logits.items()}
        self.folder.append_records([{"step": step, "predictor": MODEL, "views": scores, **(extra or {})}])
        if self.site.save_predictions:
            save_predictions(self.folder.path, MODEL, logits, self.data)
        return mean_accuracy(scores, self.run.fold.source_val)


def execute_merge(parts: Derived) -> None:
    """Merge the inputs' best models and record the result, at the last step of training."""
    cls, hparams = build(parts.catalogue, "merger", parts.run.method)
    merger: Merger = cls(hparams)
    step = parts.run.setting.steps - 1
    members = [_member(parts, source) for source in parts.run.inputs]
    seed_everything(parts.device, parts.run.seed, "merge")
    if cls.card.ensemble:
        chosen = merger.ensemble(members)
        parts.record(step, _mean_logits(parts, chosen), {"members": [member.run for member in chosen]})
        return

    def score(weights: Weights) -> float:
        """Accuracy on the pooled `out` parts of the training domains."""
        scores, _ = evaluate_views(
            predict_with(parts.algorithm, weights), parts.data, parts.run.fold.source_val, parts.device
        )
        correct = sum(view["accuracy"] * view["n"] for view in scores.values())
        return correct / sum(view["n"] for view in scores.values())

    weights = merger.merge(members, score)
    predict = predict_with(parts.algorithm, weights)
    logits = {view: logits_of(predict, parts.data, view, parts.device) for view in parts.views}
    accuracy = parts.record(step, logits)
    if MODEL in parts.keep or parts.site.save_models:
        for which in (BEST, LAST):
            save_model(parts.folder.path, MODEL, which, weights, step, accuracy)


def _member(parts: Derived, source: Input) -> Member:
    saved = parts.saved(source, BEST)
    return Member(source.run, saved.accuracy, lambda: saved.load(parts.device))


def _mean_logits(parts: Derived, members: Any) -> dict[View, Tensor]:
    """The members' mean logits, one member in memory at a time."""
    total: dict[View, Tensor] = {}
    for member in members:
        predict = predict_with(parts.algorithm, member.load())
        for view in parts.views:
            logits = logits_of(predict, parts.data, view, parts.device).double()
            total[view] = total[view] + logits if view in total else logits
    return {view: logits / len(members) for view, logits in total.items()}


def execute_adapt(parts: Derived) -> None:
    """Adapt the input's best and last model to each view by itself, and record both."""
    cls, hparams = build(parts.catalogue, "adapter", parts.run.method)
    (source,) = parts.run.inputs
    models = {saved.step: saved for saved in (parts.saved(source, BEST), parts.saved(source, LAST))}
    for step, saved in sorted(models.items()):
        parts.algorithm.load_state_dict(saved.load(parts.device), strict=False)
        parts.algorithm.eval()
        parts.record(step, {view: _adapted_logits(parts, cls, hparams, view) for view in parts.views})


def _adapted_logits(parts: Derived, cls: type[Adapter], hparams: Any, view: View) -> Tensor:
    """Logits of a view by a fresh adapter that is shown its inputs, shuffled by the run's seed, each once."""
    seed_everything(parts.device, parts.run.seed, "adapt", str(view))
    network = copy.deepcopy(parts.algorithm.network)
    adapter = cls(network, hparams)
    order = numpy_stream(parts.run.seed, "adapt", str(view)).permutation(parts.data.size(view))

    def predict(x: Tensor) -> Tensor:
        with torch.enable_grad():
            return adapter.predict(network.prepare(x)).detach()

    return logits_of(predict, parts.data, view, parts.device, batch_size=cls.batch_size, order=order)
