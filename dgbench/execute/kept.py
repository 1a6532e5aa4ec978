"""Load the kept weights of a finished run as a model that predicts: `load_kept_model`.

The weights' file says of itself what rebuilding the network needs (`models.facts`), so the data need not be there; of
files that earlier versions wrote, the run's data are opened once more. Pretrained weights are not fetched again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dgbench.catalogue.catalogue import Catalogue, shared_catalogue
from dgbench.core.errors import UserError
from dgbench.core.machine import open_device
from dgbench.core.run import BEST, LAST, MODEL, Run
from dgbench.core.site import Site
from dgbench.execute.context import open_context, training_run
from dgbench.execute.describe import describe, row_of
from dgbench.execute.models import SavedModel, build_algorithm, find_model
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Task
from dgbench.models.facts import ModelFacts
from dgbench.models.ready import ReadyModel
from dgbench.store.files import model_path
from dgbench.store.folder import Store
from dgbench.store.sealed import CorruptFile


class NotKept(UserError):
    """Raised where the weights of a model are not on disk; the message names the reason."""


class LogitsOf(nn.Module):
    """The network of an algorithm from inputs as the data set gives them, images as bytes or in [0, 1], to logits."""

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__()
        self.algorithm = algorithm

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, ...) of inputs (B, *input_shape)."""
        logits: Tensor = self.algorithm(self.algorithm.network.prepare(x))
        return logits


class MeanOf(nn.Module):
    """The mean of the logits of several networks, in double precision: an ensemble."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits (B, ...), float64, of inputs (B, *input_shape)."""
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for member in self.members:
            total = total + member(x)
        return total / len(self.members)


def load_kept_model(
    root: Path,
    run: str,
    site: Site,
    predictor: str = MODEL,
    which: str | int = BEST,
    *,
    device: str = "cpu",
    catalogue: Catalogue | None = None,
) -> ReadyModel:
    """Load a model that a finished run has kept.

    Args:
        root: The sweep's folder.
        run: Id of the run.
        site: This machine, with the sweep's included files.
        predictor: The predictor: `run.MODEL`, or the name of an average.
        which: `run.BEST`, `run.LAST`, or the step after which the model was taken.
        device: Where the model predicts: a name of `--device`.
        catalogue: The catalogue with the files that `site` includes; None: the one that this process shares.

    Returns:
        The model, in evaluation mode. Of a merger that averages predictions, it is the ensemble of its members.

    Raises:
        NotKept: There are no such weights, or an adapter makes the model from the inputs that it predicts.
        CorruptFile: The weights are not what was written.
    """
    loader = _Loader(root, site, catalogue or shared_catalogue(site.include), open_device(device))
    found = loader.store.folder(run).run()
    if found.kind == "adapt":
        raise NotKept(f"{found.method.name} learns from the inputs that it predicts, so its model is no fixed network")
    if found.kind == "merge" and loader.catalogue.get("merger", found.method.name).card.ensemble:
        return loader.ensemble(found)
    network, facts = loader.model(found, predictor, which)
    return ReadyModel(network, facts)


def find_kept(folder: Path, predictor: str, which: str | int) -> SavedModel:
    """Find the kept weights of a model.

    Args:
        folder: The run's folder.
        predictor: The predictor's name.
        which: `run.BEST`, `run.LAST`, or the step after which the model was taken.

    Raises:
        NotKept: There are none.
        CorruptFile: They are not what was written.
    """
    names = [which] if isinstance(which, str) else [BEST, LAST]
    found = [find_model(folder, predictor, name) for name in names if model_path(folder, predictor, name).is_file()]
    if not found:
        raise NotKept("its weights are not kept: launch with --save_models")
    if isinstance(which, int):
        steps = [str(saved.step) for saved in found]
        found = [saved for saved in found if saved.step == which]
        if not found:
            raise NotKept(f"of step {which} no weights are kept, only of step {' and '.join(dict.fromkeys(steps))}")
    return found[0]


class _Loader:
    """Loader of models of one sweep's folder, to one device."""

    def __init__(self, root: Path, site: Site, catalogue: Catalogue, device: torch.device) -> None:
        self.store, self.site, self.catalogue, self.device = Store(root), site, catalogue, device

    def model(self, run: Run, predictor: str, which: str | int) -> tuple[LogitsOf, ModelFacts]:
        """Return the network of a run's kept weights, and its facts."""
        saved = find_kept(self.store.folder(run.id).path, predictor, which)
        facts = saved.facts or self._described(run, predictor)
        algorithm = self._built(training_run(run, self.store), facts)
        weights = saved.load(self.device)
        if lacking := [name for name in algorithm.predictor_tensors() if name not in weights]:
            raise CorruptFile(f"{saved.path} lacks {', '.join(lacking)}")
        # A file holds what prediction reads; other tensors of the algorithm are not needed.
        algorithm.load_state_dict(weights, strict=False)
        return LogitsOf(algorithm), facts

    def ensemble(self, run: Run) -> ReadyModel:
        """Return the ensemble that a merge run has recorded."""
        finished = self.store.folder(run.id).finished()
        if finished is None:
            raise NotKept(f"run {run.id} has not finished")
        members = set(finished[1][-1]["members"])
        sources = [source for source in run.inputs if source.run in members]
        found = [self.model(self.store.folder(source.run).run(), source.predictor, BEST) for source in sources]
        facts = dataclasses.replace(
            found[0][1],
            row=row_of(run, MODEL, lambda id: self.store.folder(id).run()),
            run=run.id,
            predictor=MODEL,
            trial=run.trial,
            hparams_seed=run.hparams_seed,
        )
        return ReadyModel(MeanOf([network for network, _ in found]), facts)

    def _described(self, run: Run, predictor: str) -> ModelFacts:
        """Describe a model of an earlier version by the run's data."""
        context = open_context(run, self.store, dataclasses.replace(self.site, device="cpu"), self.catalogue)
        return describe(context, context.algorithm(), predictor)

    def _built(self, trained: Run, facts: ModelFacts) -> Algorithm:
        """Build the algorithm of a training run with any weights."""
        setting = dataclasses.replace(trained.setting, pretrained=False, weights="", compile=False)
        task = Task(facts.input_shape, facts.outputs, facts.class_counts, facts.task, facts.normalised)
        # Building draws initial weights: the caller's generator is put back.
        with torch.random.fork_rng(devices=[]):
            return build_algorithm(dataclasses.replace(trained, setting=setting), self.catalogue, task, self.device)
