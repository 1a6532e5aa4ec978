"""Execute an analysis: measure the models of finished runs beyond their scores, and record the numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dgbench.core.cards import SeriesCard
from dgbench.core.errors import Problems
from dgbench.core.protocol import View
from dgbench.core.run import BEST, MODEL, Input, Run
from dgbench.core.seeding import numpy_stream, seed_everything, seed_hash, torch_seed
from dgbench.execute.batch_norm import inputs_for, measure_statistics
from dgbench.execute.context import RunContext, training_run
from dgbench.execute.models import build, shapes_in
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.analysis import Analysis, Batches, Columns, FinishedModel, Views
from dgbench.methods.average import Weights
from dgbench.store.files import model_path
from dgbench.store.folder import Store

_PLAIN: Mapping[str, Any] = {"precision": "fp32", "compile": False, "checkpoint_activations": False, "microbatch": 0}
"""Settings of how a network computes, as an analysis has them."""


def execute_analysis(context: RunContext, algorithm: Algorithm) -> None:
    """Measure the best models of the run's inputs, and append one record with all numbers.

    Its `views` are view -> measure -> value, and its `measures` those that belong to no single view. Where the analysis
    finds data to be drawn, its `series` are name -> the `card` and, view ("" for all together) -> column -> values, the
    `views`. Its step is that of the model; of several models, the last step of training.

    Args:
        context: The run, opened.
        algorithm: That of the first input's training, which prepares inputs.
    """
    cls, hparams = build(context.catalogue, "analysis", context.run.method)
    seed_everything(context.device, context.run.seed, "analyze")
    generator = torch.Generator(context.device).manual_seed(torch_seed(context.run.seed, "analysis", cls.__name__))
    analysis: Analysis = cls(hparams, generator)
    inputs = context.run.inputs
    rows = [_row_of(context.store, source) for source in inputs]
    if cls.card.takes == "rows":
        rows = _told_apart(
            rows, [training_run(context.store.folder(source.run).run(), context.store) for source in inputs]
        )
    models = [_model(context, source, row) for source, row in zip(inputs, rows, strict=True)]
    if cls.card.takes == "rows":
        refuse_unlike([context.run], context.store)
    views: dict[str, dict[str, float]] = {}
    whole: dict[str, float] = {}
    series: dict[str, dict[str, Any]] = {}
    for view, found in context.interruptible(analysis.measure(models, views_of(context, algorithm))):
        if unknown := {*found} - {*cls.card.measures, *cls.card.series}:
            raise RuntimeError(f"{cls.__name__} found {', '.join(sorted(unknown))}, of which its card says nothing")
        if numbers := {name: value for name, value in found.items() if not isinstance(value, Mapping)}:
            target = whole if view is None else views.setdefault(str(view), {"n": context.data.size(view)})
            target.update(numbers)
        for name, columns in ((name, value) for name, value in found.items() if isinstance(value, Mapping)):
            kept = series.setdefault(name, {"card": cls.card.series[name], "views": {}})
            _extend(kept["views"].setdefault("" if view is None else str(view), {}), columns, name, kept["card"])
    step = context.run.setting.steps - 1 if len(models) > 1 else models[0].step
    drawn = {"series": series} if series else {}
    context.folder.append_records([{"step": step, "predictor": MODEL, "views": views, "measures": whole, **drawn}])


def _extend(kept: dict[str, list[Any]], columns: Columns, name: str, card: SeriesCard) -> None:
    """Append columns to those of a series that are kept; raise RuntimeError if they are not those of its card."""
    if columns.keys() != card.labels.keys():
        raise RuntimeError(f"{name} has columns {', '.join(columns)}, and on its card stand {', '.join(card.labels)}")
    if len(lengths := {len(values) for values in columns.values()}) > 1:
        raise RuntimeError(f"columns of {name} have different lengths: {', '.join(map(str, sorted(lengths)))}")
    for column, values in columns.items():
        kept.setdefault(column, []).extend(np.asarray(values).tolist())


def _model(context: RunContext, source: Input, row: str) -> FinishedModel:
    """Describe an input's model, of a row of that name, to an analysis; it is built and read when that wants it."""
    saved = context.find_input_model(source, BEST)
    trained = training_run(context.store.folder(source.run).run(), context.store)
    # Second derivatives need the plain network: in full precision, neither compiled nor recomputed.
    setting = dataclasses.replace(trained.setting, **_PLAIN)
    own = dataclasses.replace(context, trained=dataclasses.replace(trained, setting=setting))

    def load() -> nn.Module:
        algorithm = own.algorithm()
        algorithm.load_state_dict(saved.load(context.device), strict=False)
        return algorithm.eval()

    def initial() -> Weights:
        return own.algorithm(begin=True).predictor_tensors()

    run = context.store.folder(source.run).run()
    return FinishedModel(
        source.run, row, run.hparams_seed, saved.step, load, lambda: saved.load(context.device), initial
    )


def _row_of(store: Store, source: Input) -> str:
    """Return the name of the row that a predictor is of, from the runs that it stands on."""
    run = store.folder(source.run).run()
    if run.kind == "merge":
        return f"{_row_of(store, run.inputs[0])}+{run.method.name}"
    return run.method.name if source.predictor == MODEL else f"{run.method.name}+{source.predictor}"


def _told_apart(rows: Sequence[str], trained: Sequence[Run]) -> list[str]:
    """Return the names of rows, with the values in which those of one name differ: `SAM:rho=0.1+SWAD`.

    Args:
        rows: Names without values.
        trained: The training run of each.
    """
    found = []
    for row, run in zip(rows, trained, strict=True):
        alike = [other.method.hparams for name, other in zip(rows, trained, strict=True) if name == row]
        own = [
            f"{name}={value}"
            for name, value in run.method.hparams.items()
            if any(other.get(name) != value for other in alike)
        ]
        word = f"{run.method.name}:{','.join(own)}" if own else run.method.name
        found.append(word + row.removeprefix(run.method.name))
    return found


def refuse_unlike(runs: Iterable[Run], store: Store) -> None:
    """Raise UserError if models that analyses compare have unlike networks, whose weights can't be compared.

    Args:
        runs: Runs of analyses. Those of their inputs count whose weights are there: others are told by the run itself.
        store: The sweep.
    """
    problems = Problems()
    for run in runs:
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for source in run.inputs:
            path = model_path(store.folder(source.run).path, source.predictor, BEST)
            if path.is_file():
                shapes[_row_of(store, source)] = shapes_in(path)
        (first, mine), *others = shapes.items() or [("", {})]
        for row, found in others:
            unlike = [name for name in {**mine, **found} if mine.get(name) != found.get(name)]
            if unlike:
                more = " and others" if len(unlike) > 3 else ""
                problems.add(
                    f"{run.method.name} compares weights, and the networks of {first} and {row} are unlike in "
                    f"{', '.join(unlike[:3])}{more}: leave one out"
                )
    problems.raise_if_any()


def views_of(context: RunContext, algorithm: Algorithm) -> Views:
    """Return the views of the run's fold as an analysis reads them."""
    data, run = context.data, context.run
    # The same for all models of a fold and trial, so that they are measured on the same examples.
    seed = seed_hash(run.dataset, list(run.fold.held_out), run.trial, "analysis")

    def examples(view: View, most: int, batch_size: int) -> Batches:
        chosen = numpy_stream(seed, str(view)).permutation(data.size(view))[:most]
        batches = np.split(chosen, range(batch_size, len(chosen), batch_size))
        read = context.reader.read(view, batches)
        return [batch_at(view, where, inputs) for where, inputs in zip(batches, read, strict=True)]

    def batch_at(view: View, where: NDArray[np.int64], inputs: Tensor) -> tuple[Tensor, Tensor]:
        x = algorithm.network.prepare(inputs.to(context.device, non_blocking=inputs.is_pinned()))
        # Convolutions follow the order of their input, and are about a sixth faster in this one.
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        return x, torch.from_numpy(data.labels(view)[where]).to(context.device)

    def statistics(weights: Weights, minibatches: int) -> Weights:
        inputs = inputs_for(algorithm, data, context.trained)
        algorithm.train()
        try:
            return measure_statistics(algorithm, weights, context.interruptible(islice(inputs, minibatches)))
        finally:
            algorithm.eval()

    return Views(data.train, run.views, examples, statistics)
