"""Runs that train nothing: merging finished runs into one predictor, adapting a finished model at test time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgbench.adapter import Adapter
from dgbench.algorithm import Algorithm
from dgbench.evaluate import logits_of, mean_score, score
from dgbench.merge_tools import MergeTools
from dgbench.merger import Member, Merger
from dgbench.predictor import Saved, build, find_model, predict_with, save_model
from dgbench.protocol import View
from dgbench.run import MODEL, Input
from dgbench.seeding import numpy_stream
from dgbench.store import BEST, LAST
from dgbench.training import save_predictions, seed_everything
from dgbench.workbench import Workbench

_SOURCE_BATCH = 128


def execute_merge(bench: Workbench) -> None:
    """Merge the inputs' best models and record the result, at the last step of training.

    A merger that leaves a choice records its candidates at the steps before, from step 0 on where those are too few.
    """
    cls, hparams = build(bench.catalogue, "merger", bench.run.method)
    merger: Merger = cls(hparams)
    last = bench.run.setting.steps - 1
    algorithm = bench.algorithm()
    members = [_member(bench, source) for source in bench.run.inputs]
    seed_everything(bench.device, bench.run.seed, "merge")
    if cls.card.ensemble:
        chosen = merger.ensemble(members)
        _record(bench, last, _mean_logits(bench, algorithm, chosen), {"members": [member.run for member in chosen]})
        return
    tools = MergeTools(bench, algorithm)
    keep = MODEL in bench.keep or bench.site.save_models
    first, best = max(0, last + 1 - merger.choices), -math.inf
    for step, merged in enumerate(merger.candidates(members, tools.tools()), first):
        weights = tools.with_statistics(merged.weights)
        predict = predict_with(algorithm, weights)
        logits = {view: logits_of(predict, bench.data, view, bench.device) for view in bench.run.views}
        accuracy = _record(bench, step, logits, {"members": [member.run for member in merged.members], **merged.by})
        if keep and not accuracy <= best:  # a single candidate without an accuracy is the best too
            save_model(bench.folder.path, MODEL, BEST, weights, step, accuracy)
        if keep and step == first + merger.choices - 1:
            save_model(bench.folder.path, MODEL, LAST, weights, step, accuracy)
        best = max(accuracy, best)


def execute_adapt(bench: Workbench) -> None:
    """Adapt the input's best and last model to each view by itself, and record both."""
    cls, hparams = build(bench.catalogue, "adapter", bench.run.method)
    (source,) = bench.run.inputs
    algorithm = bench.algorithm()
    models = {saved.step: saved for saved in (_saved(bench, source, BEST), _saved(bench, source, LAST))}
    for step, saved in sorted(models.items()):
        algorithm.load_state_dict(saved.load(bench.device), strict=False)
        algorithm.eval()

        def adapter() -> Adapter:
            network = copy.deepcopy(algorithm.network)
            fresh: Adapter = cls(network, hparams)
            return fresh

        _record(bench, step, {view: _adapted_logits(bench, adapter, view) for view in bench.run.views})


def _source(bench: Workbench, prepare: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """All training examples (x, y), clean, domain after domain, in batches."""
    for view in bench.data.train:
        labels = torch.from_numpy(bench.data.labels(view))
        for positions in np.array_split(np.arange(len(labels)), max(1, len(labels) // _SOURCE_BATCH)):
            yield prepare(bench.data.inputs(view, positions).to(bench.device)), labels[positions].to(bench.device)


def _saved(bench: Workbench, source: Input, which: str) -> Saved:
    return find_model(bench.store.folder(source.run).path, source.predictor, which)


def _member(bench: Workbench, source: Input) -> Member:
    saved = _saved(bench, source, BEST)
    return Member(
        source.run, saved.accuracy, lambda: saved.load(bench.device), lambda name: saved.tensor(name, bench.device)
    )


def _record(bench: Workbench, step: int, logits: Mapping[View, Tensor], extra: dict[str, Any] | None = None) -> float:
    """Record the scores of one model from its logits; returns its mean score in validation, or NaN."""
    scores = {str(view): score(values, bench.data, view) for view, values in logits.items()}
    bench.folder.append_records([{"step": step, "predictor": MODEL, "views": scores, **(extra or {})}])
    if bench.site.save_predictions:
        save_predictions(bench.folder.path, MODEL, logits, bench.data)
    return mean_score(scores, bench.run.validation, bench.data.card.metric) if bench.run.validation else math.nan


def _mean_logits(bench: Workbench, algorithm: Algorithm, members: Sequence[Member]) -> dict[View, Tensor]:
    """The members' mean logits, one member in memory at a time."""
    total: dict[View, Tensor] = {}
    for member in members:
        predict = predict_with(algorithm, member.load())
        for view in bench.run.views:
            logits = logits_of(predict, bench.data, view, bench.device).double()
            total[view] = total[view] + logits if view in total else logits
    return {view: logits / len(members) for view, logits in total.items()}


def _adapted_logits(bench: Workbench, make: Callable[[], Adapter], view: View) -> Tensor:
    """Logits of a view by a fresh adapter that is shown its inputs, shuffled by the run's seed, each once."""
    seed_everything(bench.device, bench.run.seed, "adapt", str(view))
    adapter = make()
    prepare = adapter.network.prepare
    if adapter.card.needs_source:
        adapter.begin(_source(bench, prepare))
    order = numpy_stream(bench.run.seed, "adapt", str(view)).permutation(bench.data.size(view))

    def predict(x: Tensor) -> Tensor:
        with torch.enable_grad():
            return adapter.predict(prepare(x)).detach()

    batch_size = adapter.batch_size
    return logits_of(predict, bench.data, view, bench.device, batch_size=batch_size, order=order)
