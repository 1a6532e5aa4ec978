"""Write the folder of one chosen model: its network, `model.json`, a script that uses it, and a model card."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from dgbench.core.errors import UserError
from dgbench.core.version import __version__
from dgbench.models.calibration import fit_temperature
from dgbench.models.exported import ABOUT, ExportedModel
from dgbench.models.facts import ModelFacts
from dgbench.plan import planfile
from dgbench.plan.declaration import read_site
from dgbench.report.again import keeping_command
from dgbench.report.export.model.card import CARD, card
from dgbench.report.export.model.choice import Chosen
from dgbench.report.export.model.example import EXAMPLE, example
from dgbench.report.predictions.metrics import LackingError
from dgbench.store.files import write_json
from dgbench.store.sealed import CorruptFile


@dataclass(frozen=True)
class Forms:
    """The files of a network beside the weights."""

    program: bool = False
    """Write the program of `torch.export` also where timm has the network."""
    onnx: bool = False
    """Write ONNX."""


def check_own(root: Path) -> None:
    """Raise `UserError` if a folder is DomainBed's, whose weights dgbench doesn't read."""
    if not (root / planfile.FILE).exists():
        raise UserError(f"{root} is a folder of DomainBed: only models that dgbench trained are exported")


def write_model(root: Path, chosen: Chosen, measured: Chosen, target: Path, forms: Forms) -> ExportedModel:
    """Write a model's folder, whole or not at all.

    Args:
        root: The sweep's folder.
        chosen: The model.
        measured: The place whose accuracy the card shows, see `card.card`.
        target: The folder to write, which is empty or doesn't exist.
        forms: The files beside the weights.

    Returns:
        The content of `model.json`.

    Raises:
        UserError: The model's weights are not kept, with the command that trains it again; or it is no model that can
            be taken out of its sweep, with the reason.
    """
    # Inside: these import torch, and refusals above do without.
    from dgbench.execute.kept import NotKept, load_kept_model
    from dgbench.report.export.model.weights import write_network

    site, series, step = read_site(root), chosen.series, chosen.pick.step
    try:
        model = load_kept_model(root, series.run, site, series.predictor, step)
    except NotKept as error:
        raise UserError(*_not_kept(root, chosen, str(error))) from None
    except CorruptFile as error:
        raise UserError(f"{error}: `dgbench sweep retry {root}` makes it again") from None
    _refuse_others(chosen, model.facts)
    about = _about(chosen, model.facts)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    beside.mkdir(parents=True)
    try:
        about = write_network(beside, model, about, program=forms.program, onnx=forms.onnx)
        write_json(beside / ABOUT, about)
        (beside / EXAMPLE).write_text(example(about), encoding="utf-8")
        files = sorted(path.name for path in beside.iterdir())
        (beside / CARD).write_text(card(about, chosen, measured, files), encoding="utf-8")
        if target.is_dir():
            target.rmdir()
        beside.rename(target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return about


def _not_kept(root: Path, chosen: Chosen, why: str) -> tuple[str, ...]:
    """Return the messages on a model that can't be loaded, with the way to have it."""
    if "fixed network" in why:
        plain = chosen.row.rpartition("+")[0]
        return (f"{chosen.place}: {why}; --row {plain} exports the model that it begins with",)
    if "only of step" in why:
        return (f"{chosen.place}: {why}; --selector training-domain chooses among those that are kept",)
    command, remark = keeping_command(root, chosen.row, chosen.pick, chosen.trial)
    if not command:
        return (f"{chosen.place}: {why}; {remark}",)
    return f"{chosen.place}: {why}. This trains it again, exactly, and keeps them:", command


def _refuse_others(chosen: Chosen, facts: ModelFacts) -> None:
    """Raise `UserError` if a model can't be used by itself, or classifies no images."""
    if facts.together:
        raise UserError(
            f"{chosen.place}: it predicts {facts.together} inputs together, each by the others, so it is no function "
            "of one image; choose another row"
        )
    if not facts.classes or facts.preprocessing is None:
        kind = "no classes" if not facts.classes else "no images of one or three channels"
        verb = "predicts" if not facts.classes else "reads"
        raise UserError(f"{chosen.place}: it {verb} {kind}; `execute.kept.load_kept_model` loads it in Python")


def _about(chosen: Chosen, facts: ModelFacts) -> ExportedModel:
    """Return the content of `model.json` but for the form of the network."""
    temperature, examples = _calibrate(chosen)
    own = {field.name: getattr(facts, field.name) for field in fields(ModelFacts)}
    pick = chosen.pick
    # The row is called as in the tables.
    return ExportedModel(
        **{**own, "row": chosen.row},
        step=pick.step,
        validation=pick.in_domain,
        selector=chosen.selector.name,
        test=pick.score,
        temperature=temperature,
        calibrated_on=examples,
        version=__version__,
    )


def _calibrate(chosen: Chosen) -> tuple[float, int]:
    """Return the temperature by the kept predictions on validation, and their number; 1 and 0 where there are none."""
    series, views = chosen.series, chosen.fold.validation
    # A merger of all trials has members that trained on every validation part.
    if not views or chosen.trial < 0:
        return 1.0, 0
    try:
        found = chosen.results.kept.predicted(series.run, series.predictor, chosen.pick.step, views)
    except LackingError:
        return 1.0, 0
    logits, labels = (np.concatenate([getattr(view, name) for view in found]) for name in ("logits", "labels"))
    temperature = fit_temperature(logits, labels)
    return (1.0, 0) if temperature is None else (temperature, len(labels))
