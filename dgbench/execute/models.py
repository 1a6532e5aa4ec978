"""Models in memory and on disk: build a run's algorithm, predict with any weights, save and load weights.

Weights are safetensors files, `models/PREDICTOR.WHICH.safetensors` in the run's folder, sealed with a sha256.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.func import functional_call

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.plain import from_plain
from dgbench.core.run import ResolvedEntry, Run
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.average import Weights
from dgbench.methods.batch import Task
from dgbench.models.facts import ModelFacts
from dgbench.networks.low_rank import placed_weights, plain_weights
from dgbench.networks.network import Network
from dgbench.networks.weights import with_weights_file
from dgbench.store.files import making_sense_of, model_path, write_atomic
from dgbench.store.sealed import check_safetensors, sealed_safetensors

log = logging.getLogger(__name__)


def build(catalogue: Catalogue, kind: str, entry: ResolvedEntry) -> Any:
    """Return the class of a catalogue entry, and its resolved hyperparameters as an instance of the class's `Hparams`.

    Args:
        catalogue: Finds the class.
        kind: `algorithm`, `average`, `merger` or `adapter`.
        entry: The entry's name and values.
    """
    cls = catalogue.get(kind, entry.name).load()
    return cls, cls.Hparams(**entry.hparams)


def build_algorithm(
    run: Run,
    catalogue: Catalogue,
    task: Task,
    device: torch.device,
    weights_file: str = "",
    begin: Callable[[Network], None] | None = None,
    *,
    train: bool = False,
) -> Algorithm:
    """Build the algorithm of a training run with its initial weights, which depend on the run alone.

    Args:
        run: The training run.
        catalogue: Finds the algorithm's class.
        task: The facts about the data that a method may know.
        device: Where the algorithm's tensors are put.
        weights_file: This machine's file of the weights that the setting names; empty if it names none.
        begin: Changes the network with its initial weights before the algorithm sees it; None: nothing does.
        train: Whether it is to be trained; else its network is the plain one, in which finished models are put, also
            where a run trains low-rank changes (`networks.low_rank`).
    """
    # All that is drawn until the algorithm is built comes from this seed: a new network's weights, then whatever
    # `build` of the algorithm draws.
    torch.manual_seed(run.init_seed)
    cls, hparams = build(catalogue, "algorithm", run.method)
    setting = run.setting if train else dataclasses.replace(run.setting, lora_rank=0, lora_alpha=0.0, lora_targets="")
    setting = with_weights_file(setting, weights_file)
    network = cls.make_network(task.input_shape, task.num_classes, hparams, setting).to(device)
    network.normalizes = network.normalizes and not task.normalised
    network.freeze(run.setting.freeze)
    if begin:
        begin(network)
    algorithm: Algorithm = cls(network, hparams, task, setting)
    return algorithm.to(device)


def predictor_weights(algorithm: Algorithm) -> dict[str, Tensor]:
    """Return the weights of the model as they are saved and averaged: those of `predictor_tensors`.

    They are the live tensors, except for low-rank changes, whose sums with the weights are computed.
    """
    tensors = algorithm.predictor_tensors()
    return plain_weights(algorithm, tensors) if algorithm.setting.lora_rank else tensors


def predict_with(algorithm: Algorithm, weights: Mapping[str, Tensor] | None = None) -> Callable[[Tensor], Tensor]:
    """Return the function from inputs to logits that an algorithm computes, put into evaluation mode for it.

    Args:
        algorithm: Its `forward`, and its weights unless others are given.
        weights: Those of `predictor_weights`, on any device, that take the place of the algorithm's; None: its own,
            as they are at the time of each call.
    """
    if weights is not None:
        weights = _match_memory_format(algorithm, placed_weights(algorithm, weights))

    def predict(x: Tensor) -> Tensor:
        x = algorithm.network.prepare(x)
        if weights is None:
            return algorithm(x)  # type: ignore[no-any-return]
        # With `tie_weights` a module that stands under two names would keep these weights for good (torch 2.15).
        return functional_call(algorithm, dict(weights), (x,), tie_weights=False)  # type: ignore[no-any-return]

    algorithm.eval()
    return predict


def _match_memory_format(algorithm: Algorithm, weights: Mapping[str, Tensor]) -> Weights:
    """Return weights on the algorithm's device, each in the memory format of the algorithm's own tensor.

    Files hold contiguous tensors. A convolution rounds differently if its weights and its images differ in memory
    format, so the same weights would give other digits after a resume.
    """
    own = {**dict(algorithm.named_parameters()), **dict(algorithm.named_buffers())}
    found = {}
    for name, tensor in weights.items():
        target = own[name].detach()
        same = tensor.device == target.device and tensor.stride() == target.stride()
        found[name] = tensor if same else torch.empty_like(target, dtype=tensor.dtype).copy_(tensor)
    return found


@dataclass(frozen=True)
class SavedModel:
    """A model on disk, as `find_model` found it intact."""

    path: Path
    step: int
    """The step after which it was taken."""
    accuracy: float
    """Its mean validation score there, the data set's metric: accuracy in [0, 1] unless it has another."""
    facts: ModelFacts | None = None
    """The facts about it; None in files of earlier versions."""

    def load(self, device: torch.device) -> Weights:
        """Read its weights."""
        return dict(load_file(self.path, device=str(device)))

    def tensor(self, name: str, device: torch.device) -> Tensor:
        """Read one of its weights."""
        with safe_open(self.path, framework="pt", device=str(device)) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the tensors in a file of weights, from its header alone."""
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def to_bytes(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialize tensors as safetensors does, but with sorted metadata: safetensors orders it at random."""
    data = save(tensors, metadata=dict(metadata))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def save_model(
    folder: Path,
    predictor: str,
    which: str,
    weights: Mapping[str, Tensor],
    step: int,
    accuracy: float,
    facts: ModelFacts | None = None,
) -> None:
    """Write `models/PREDICTOR.WHICH.safetensors`, whole and sealed.

    Args:
        folder: The run's folder.
        predictor: Its name.
        which: `run.BEST` or `run.LAST`.
        weights: Name -> tensor, on any device.
        step: The step after which they were taken.
        accuracy: Their mean validation score there; NaN if they have none.
        facts: The facts about the model, stored as JSON in the file's metadata; None: none are.
    """
    content = {name: tensor.detach().contiguous().clone() for name, tensor in weights.items()}
    path = model_path(folder, predictor, which)
    path.parent.mkdir(exist_ok=True)
    metadata = {"step": str(step), "accuracy": repr(accuracy)}
    if facts:
        metadata["facts"] = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS).decode()
    write_atomic(path, sealed_safetensors(to_bytes(content, metadata)))


def find_model(folder: Path, predictor: str, which: str) -> SavedModel:
    """Find a model that a run has saved, and check its file.

    Args:
        folder: The run's folder.
        predictor: Its name.
        which: `run.BEST` or `run.LAST`.

    Raises:
        FileNotFoundError: The file is gone; the message names the command that makes it again.
        CorruptFile: The file's content is not what was written.
    """
    path = model_path(folder, predictor, which)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is gone: `dgbench sweep retry` trains that run again")
    if not check_safetensors(path):
        _warn_unsealed()
    with making_sense_of(path):
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        facts = from_plain(ModelFacts, orjson.loads(metadata["facts"])) if "facts" in metadata else None
        return SavedModel(path, int(metadata["step"]), float(metadata["accuracy"]), facts)


@cache
def _warn_unsealed() -> None:
    """Warn, once a process, that weights of an earlier version can't be checked."""
    log.warning("weights that an earlier version kept carry no sha256: they are believed as they are")
