"""Write the network of a model in forms that are read without dgbench, and compare the logits of each with its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from dgbench.core.errors import UserError
from dgbench.execute.kept import LogitsOf
from dgbench.models.exported import ONNX, PROGRAM, WEIGHTS, ExportedModel
from dgbench.models.ready import ReadyModel

CHECKED = 64
"""Images of which logits are compared."""
TOLERANCE = 1e-4
"""Largest difference of logits between the network as it was trained and as it is exported."""


class _OfFloats(nn.Module):
    """A network from images in [0, 1], float32, to logits in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits.float()


def write_network(
    folder: Path, model: ReadyModel, about: ExportedModel, *, program: bool = False, onnx: bool = False
) -> ExportedModel:
    """Write the files of a model's network.

    Args:
        folder: The folder to write to.
        model: The model, on the CPU.
        about: What will be in `model.json`.
        program: Write the program of `torch.export` also where timm has the network.
        onnx: Write `model.onnx` too.

    Returns:
        `about` with the form of the network.

    Raises:
        UserError: torch can't export the network, or its exported form gives other logits.
    """
    images = _images(about.input_shape)
    _drop_unread(model.network)
    # Programs keep the memory format of weights, and warn of any other than PyTorch's default when they are read.
    model.network.to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(images)).float()
    floats = torch.from_numpy(images).float() / 255
    if (tensors := _under_timms_names(model, about, floats, expected)) is not None:
        about = replace(about, form="timm", timm=_arguments(about))
    else:
        tensors = _predicting(model.network)
    content = save({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()})
    (folder / WEIGHTS).write_bytes(content)
    traced: Any = None
    if program or onnx or about.form == "program":
        traced = _traced(model.network, floats)
    if program or about.form == "program":
        torch.export.save(traced, folder / PROGRAM)
        _compare(PROGRAM, torch.export.load(folder / PROGRAM).module(), floats, expected)
    if onnx:
        _write_onnx(folder / ONNX, traced)
        _compare(ONNX, _onnx_runner(folder / ONNX), floats, expected)
    return about


def _images(shape: Sequence[int]) -> NDArray[np.uint8]:
    """Return random images, the same at each call: bright, dark and of every contrast."""
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.integers(0, 256, (2, CHECKED, *(1 for _ in shape))), axis=0)
    found: NDArray[Any] = low + (high - low) * rng.random((CHECKED, *shape))
    return found.astype(np.uint8)


def _drop_unread(network: nn.Module) -> None:
    """Remove parts of an algorithm that prediction doesn't read, such as a discriminator; torch would export them."""
    for part in network.modules():
        if isinstance(part, LogitsOf):
            read = {name.partition(".")[0] for name in part.algorithm.predictor_tensors()}
            unread = [name for name, _ in part.algorithm.named_children() if name not in read]
            # Networks without any tensor predict by their modules all the same.
            for name in unread if read else ():
                setattr(part.algorithm, name, nn.Identity())


def _predicting(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that prediction reads, by their names in the method's module, numbered in an ensemble."""
    parts = [part for part in network.modules() if isinstance(part, LogitsOf)]
    prefixes = [f"{number}." for number in range(len(parts))] if len(parts) > 1 else [""]
    return {
        f"{prefix}{name}": tensor
        for prefix, part in zip(prefixes, parts, strict=True)
        for name, tensor in part.algorithm.predictor_tensors().items()
    }


def _arguments(about: ExportedModel) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` beside the name and the number of classes."""
    facts = timm.get_pretrained_cfg(about.backbone)
    channels, *size = about.input_shape
    return {"in_chans": channels, **({"img_size": tuple(size)} if facts and facts.fixed_input_size else {})}


def _under_timms_names(
    model: ReadyModel, about: ExportedModel, images: Tensor, expected: Tensor
) -> Mapping[str, Tensor] | None:
    """Return the tensors as timm's network of the same name takes them; None if that is another network.

    Whether it is the same is measured: methods may change layers, replace the classifier, or predict otherwise.
    """
    network = model.network.algorithm.network if isinstance(model.network, LogitsOf) else None
    featurizer, head = (getattr(network, name, None) for name in ("featurizer", "classifier"))
    facts = getattr(featurizer, "pretrained_cfg", None) or {}
    if not isinstance(featurizer, nn.Module) or not isinstance(head, nn.Linear) or not facts.get("classifier"):
        return None
    how = about.preprocessing
    assert how, "only models of images are exported"
    names = facts["classifier"]
    place = names if isinstance(names, str) else names[0]
    tensors = featurizer.state_dict() | {f"{place}.{name}": tensor for name, tensor in head.state_dict().items()}
    whole = timm.create_model(about.backbone, num_classes=len(about.classes), **_arguments(about)).eval()
    try:
        whole.load_state_dict(tensors)
    except RuntimeError:  # it has other tensors
        return None
    mean, std = (torch.tensor(moment).view(-1, 1, 1) for moment in (how.mean, how.std))
    with torch.inference_mode():
        found = whole((images - mean) / std)
    return tensors if found.shape == expected.shape and _difference(found, expected) <= TOLERANCE else None


def _traced(network: nn.Module, images: Tensor) -> Any:
    """Return the program of a network for batches of any size."""
    try:
        sizes = {"x": {0: torch.export.Dim("batch", min=1)}}
        return torch.export.export(_OfFloats(network).eval(), (images[:2],), dynamic_shapes=sizes)
    except Exception as error:  # torch has no base class for what it can't export
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"torch.export can't trace this network ({type(error).__name__}: {first}), and timm has none of its form"
        ) from error


def _write_onnx(path: Path, traced: Any) -> None:
    """Write a program as ONNX, in one file."""
    torch.onnx.export(
        traced, (), str(path), input_names=["images"], output_names=["logits"], external_data=False, verbose=False
    )


def _onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the function from images to logits that onnxruntime computes from a file."""
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    return lambda images: torch.from_numpy(session.run(None, {taken.name: images.numpy()})[0])


def _compare(name: str, network: Callable[[Tensor], Tensor], images: Tensor, expected: Tensor) -> None:
    """Raise `UserError` if an exported network gives other logits."""
    with torch.inference_mode():
        found = network(images)
    if (difference := _difference(found, expected)) > TOLERANCE:
        raise UserError(f"{name} gives logits that differ by {difference:.2g} from the network's own: not exported")


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits, relative to the largest logit where that is above 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
