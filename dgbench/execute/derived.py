"""Runs that train nothing: merging finished runs into one predictor, adapting a finished model at test time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.core.run import BEST, LAST, MODEL, Input
from dgbench.core.seeding import numpy_stream, seed_everything
from dgbench.core.stats import rank
from dgbench.execute.context import Workbench
from dgbench.execute.evaluate import (
    HELD,
    Heeding,
    Predict,
    Shown,
    exact,
    examples_per_batch,
    mean_score,
    score_views,
    show,
)
from dgbench.execute.merge_tools import MergeTools
from dgbench.execute.models import Saved, build, find_model, predict_with, save_model
from dgbench.execute.training import save_predictions
from dgbench.methods.adapter import Adapter
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.merger import Member, Merger

_SOURCE_BATCH = 128


def execute_merge(bench: Workbench, heeding: Heeding) -> None:
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
        shown = partial(_averaged, bench, heeding, algorithm, chosen)
        _record(bench, heeding, last, shown, {"members": [member.run for member in chosen]})
        return
    tools = MergeTools(bench, algorithm, heeding)
    keep = bench.kept(MODEL)
    first, best = max(0, last + 1 - merger.choices), -math.inf
    for step, merged in enumerate(merger.candidates(members, tools.tools()), first):
        weights = tools.with_statistics(merged.weights)
        shown = partial(show, predict_with(algorithm, weights), bench.data, device=bench.device)
        by = {"members": [member.run for member in merged.members], **merged.by}
        accuracy = _record(bench, heeding, step, shown, by)
        if BEST in keep and (step == first or rank(accuracy) > best):
            save_model(bench.folder.path, MODEL, BEST, weights, step, accuracy)
        if LAST in keep and step == first + merger.choices - 1:
            save_model(bench.folder.path, MODEL, LAST, weights, step, accuracy)
        best = max(rank(accuracy), best)


def execute_adapt(bench: Workbench, heeding: Heeding) -> None:
    """Adapt the input's best and last model to each view by itself, and record both."""
    cls, hparams = build(bench.catalogue, "adapter", bench.run.method)
    (source,) = bench.run.inputs
    algorithm = bench.algorithm()
    models = {saved.step: saved for saved in (_saved(bench, source, which) for which in bench.run.reads)}
    for step, saved in sorted(models.items()):
        algorithm.load_state_dict(saved.load(bench.device), strict=False)
        algorithm.eval()

        def adapter() -> Adapter:
            network = copy.deepcopy(algorithm.network)
            fresh: Adapter = cls(network, hparams)
            return fresh

        _record(bench, heeding, step, partial(_adapted, bench, heeding, adapter))


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
        source.run,
        rank(saved.accuracy),
        lambda: saved.load(bench.device),
        lambda name: saved.tensor(name, bench.device),
    )


def _record(
    bench: Workbench,
    heeding: Heeding,
    step: int,
    shown: Callable[[View], Iterable[Shown]],
    extra: dict[str, Any] | None = None,
) -> float:
    """Record the scores of one model, by which each view is `shown`; returns its mean one in validation, or NaN."""
    logits: dict[View, Tensor] | None = {} if bench.site.save_predictions else None
    scores = score_views(lambda view: heeding(shown(view)), bench.data, bench.run.views, logits)
    bench.folder.append_records([{"step": step, "predictor": MODEL, "views": scores, **(extra or {})}])
    if logits is not None:
        save_predictions(bench.folder.path, MODEL, logits, bench.data)
    return mean_score(scores, bench.run.validation, bench.data.card.metric) if bench.run.validation else math.nan


def _averaged(
    bench: Workbench, heeding: Heeding, algorithm: Algorithm, members: Sequence[Member], view: View
) -> Iterator[Shown]:
    """The members' mean logits of a view, in double precision.

    What is held is the sum of the logits, and one member at a time; or where that is too much, all members at once.
    """
    positions, each = np.arange(bench.data.size(view)), examples_per_batch(bench.data)
    models: Iterable[Predict] = (predict_with(algorithm, member.load()) for member in members)
    parts = [positions]
    if len(positions) * bench.data.outputs > HELD:
        models, parts = list(models), np.split(positions, range(each, len(positions), each))
    for part in parts:
        total: list[Shown] = []
        for predict in models:
            shown = heeding(show(predict, bench.data, view, bench.device, order=part))
            for i, (where, logits) in enumerate(shown):
                if i == len(total):
                    total.append((where, exact(logits)))
                else:
                    total[i][1].add_(logits.to(total[i][1].device))
        yield from ((where, logits / len(members)) for where, logits in total)


def _adapted(bench: Workbench, heeding: Heeding, make: Callable[[], Adapter], view: View) -> Iterator[Shown]:
    """A view by a fresh adapter that is shown its inputs, shuffled by the run's seed, each once."""
    seed_everything(bench.device, bench.run.seed, "adapt", str(view))
    adapter = make()
    prepare = adapter.network.prepare
    if adapter.card.needs_source:
        adapter.begin(heeding(_source(bench, prepare)))
    order = numpy_stream(bench.run.seed, "adapt", str(view)).permutation(bench.data.size(view))

    def predict(x: Tensor) -> Tensor:
        with torch.enable_grad():
            return adapter.predict(prepare(x)).detach()

    return show(predict, bench.data, view, bench.device, batch_size=adapter.batch_size, order=order)
