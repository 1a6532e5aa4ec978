"""Write and read kept predictions: the logits of one model on views, with what metrics need beside them.

A file `predictions/PREDICTOR.NAME.safetensors` in a run's folder holds one model. Its tensors are `VIEW/logits`,
`VIEW/labels`, `VIEW/positions`, `VIEW/domains` and `VIEW/attributes/NAME`; everything else is JSON in its metadata. It
is read with numpy alone. Files of earlier versions lack domains, attributes, training counts and the seal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dgbench.store.sealed import CorruptFile, check_safetensors, sealed_safetensors

FOLDER = "predictions"
"""The folder of these files in a run's folder."""
MOST_VALUES = 100
"""Most values of an attribute that is kept: more of them number examples, and group none."""

Attribute = tuple[NDArray[np.int64], Sequence[str]]
"""(n,) code of each example, and the text that each code stands for."""


@dataclass(frozen=True)
class PredictedView:
    """The logits of a model on one view, with facts about its examples, in the view's order."""

    logits: NDArray[Any]
    """(n, ...), as the network gives them."""
    labels: NDArray[Any]
    """(n,), or (n, answers) where an example has several."""
    positions: NDArray[np.int64]
    """(n,) positions of the examples in their domain."""
    domains: NDArray[np.int64] | None = None
    """(n,) number of the domain of each example, where a view has many; None: the view is of one domain."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    """Name -> values; empty where the data set has none, or the file is of an earlier version."""
    files: Sequence[str] = ()
    """(n,) paths of the examples below the data set's folder; empty where they are no files."""


@dataclass(frozen=True)
class Predictions:
    """The kept predictions of one model."""

    step: int
    """The step after which the model was taken."""
    classes: Sequence[str]
    """Names of the classes, in the order of the labels."""
    views: Mapping[str, PredictedView]
    """View as text -> its predictions."""
    training_counts: Sequence[int] = ()
    """Class -> number of examples that the model's run trained on; empty where that is not known."""


def path_of(folder: Path, predictor: str, name: str) -> Path:
    """Return the path of a predictor's file called `name` in a run's folder."""
    return folder / FOLDER / f"{predictor}.{name}.safetensors"


def to_bytes(predictions: Predictions) -> bytes:
    """Return the content of a file, sealed."""
    tensors: dict[str, NDArray[Any]] = {}
    about = {"classes": json.dumps(list(predictions.classes)), "step": str(predictions.step)}
    if predictions.training_counts:
        about["training_counts"] = json.dumps(list(predictions.training_counts))
    for name, view in predictions.views.items():
        tensors |= {f"{name}/logits": view.logits, f"{name}/labels": view.labels, f"{name}/positions": view.positions}
        if view.domains is not None:
            tensors[f"{name}/domains"] = view.domains
        for attribute, (codes, _) in view.attributes.items():
            tensors[f"{name}/attributes/{attribute}"] = codes
        if view.attributes:
            values = {attribute: list(texts) for attribute, (_, texts) in view.attributes.items()}
            about[f"{name}/attributes"] = json.dumps(values)
        if view.files:
            about[f"{name}/files"] = json.dumps(list(view.files))
    # Copies: safetensors writes the memory below an array, whatever its strides.
    whole = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata=about)
    return sealed_safetensors(whole)


def find_steps(folder: Path) -> dict[tuple[str, int], Path]:
    """Return (predictor, step) -> file of the models whose predictions a run's folder keeps.

    Raises:
        CorruptFile: A file is not what was written.
    """
    found: dict[tuple[str, int], Path] = {}
    for path in sorted((folder / FOLDER).glob("*.*.safetensors")):
        predictor = path.name.partition(".")[0]
        with _opened(path) as file:
            found.setdefault((predictor, int(file.metadata()["step"])), path)
    return found


def read(path: Path, views: Iterable[str]) -> Predictions:
    """Read the predictions of a model on some views; those that the file lacks are left out.

    Raises:
        CorruptFile: The file is not what was written.
    """
    check_safetensors(path)
    with _opened(path) as file:
        about, keys = file.metadata(), dict.fromkeys(file.keys())
        found = {view: _read_view(file, about, keys, view) for view in views if f"{view}/logits" in keys}
        counts = json.loads(about.get("training_counts", "[]"))
        return Predictions(int(about["step"]), json.loads(about["classes"]), found, counts)


def _read_view(file: Any, about: Mapping[str, str], keys: Iterable[str], view: str) -> PredictedView:
    """Read the tensors and metadata of one view."""
    texts: dict[str, list[str]] = json.loads(about.get(f"{view}/attributes", "{}"))
    attributes = {name: (file.get_tensor(f"{view}/attributes/{name}"), values) for name, values in texts.items()}
    domains = file.get_tensor(f"{view}/domains") if f"{view}/domains" in keys else None
    logits, labels, positions = (file.get_tensor(f"{view}/{what}") for what in ("logits", "labels", "positions"))
    return PredictedView(logits, labels, positions, domains, attributes, json.loads(about.get(f"{view}/files", "[]")))


def encode(values: Sequence[Any] | NDArray[Any]) -> Attribute | None:
    """Return codes and texts of an attribute's values; None if it has more than `MOST_VALUES` of them."""
    found, codes = np.unique(np.asarray(values), return_inverse=True)
    return (codes.astype(np.int64), [str(value) for value in found]) if len(found) <= MOST_VALUES else None


def _opened(path: Path) -> Any:
    """Open a file for reading with numpy."""
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CorruptFile(f"{path} is not what was written ({error})") from error
