"""Define the folder of an exported model, which needs neither its sweep nor the code of its method.

The folder holds `model.json`, the facts (`ExportedModel`), and the network in one of two forms:

    timm      `model.safetensors` under timm's own names: `timm.create_model(backbone, num_classes=...)` takes it
    program   `model.pt2`, a program of `torch.export` from images in [0, 1] to logits, for every other network

Imports no torch; `loading` makes a `ReadyModel` of a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dgbench.core.errors import UserError
from dgbench.core.plain import from_plain
from dgbench.models.facts import ModelFacts
from dgbench.store.files import making_sense_of, read_object
from dgbench.store.sealed import CorruptFile

FORMAT = 1
"""Version of `model.json`."""
ABOUT, WEIGHTS, PROGRAM, ONNX = "model.json", "model.safetensors", "model.pt2", "model.onnx"
"""Names of the files."""


@dataclass(frozen=True)
class ExportedModel(ModelFacts):
    """The content of `model.json`: the facts about a model, how it was chosen, and how its files are read."""

    format: int = FORMAT
    """Version of the format."""
    form: Literal["timm", "program"] = "program"
    """Form of the network."""
    timm: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `timm.create_model` beside the name and the number of classes; empty for programs."""
    step: int = 0
    """The step after which the model was taken."""
    validation: float | None = None
    """Mean score on the training domains' validation parts there; None where there are none."""
    selector: str = ""
    """Name of the selector that chose it."""
    test: float | None = None
    """Mean score on the held-out domains, as in the table."""
    temperature: float = 1.0
    """Divisor of the logits that calibrates probabilities; 1: they are the network's own."""
    calibrated_on: int = 0
    """Validation examples that the temperature was fitted to; 0: it was not fitted."""
    version: str = ""
    """Version of dgbench that wrote the folder."""


def read_about(folder: Path) -> ExportedModel:
    """Read `model.json`.

    Raises:
        UserError: The folder holds no exported model, one of another format, or a damaged one.
    """
    try:
        data = read_object(folder / ABOUT)
        with making_sense_of(folder / ABOUT):
            if data["format"] != FORMAT:
                raise UserError(f"{folder / ABOUT} has format {data['format']!r}, this version reads {FORMAT}")
            return from_plain(ExportedModel, data)
    except FileNotFoundError:
        hint = ": `dgbench export DIR --format model` makes one" if folder.is_dir() else ""
        raise UserError(f"{folder} holds no exported model: there is no {ABOUT} in it{hint}") from None
    except CorruptFile as error:
        raise UserError(str(error)) from None
