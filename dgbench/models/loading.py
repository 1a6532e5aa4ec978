"""Load an exported model: a network of timm with its weights, or a program of `torch.export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from dgbench.core.errors import UserError
from dgbench.core.machine import open_device
from dgbench.models.exported import PROGRAM, WEIGHTS, ExportedModel, read_about
from dgbench.models.ready import ReadyModel


def load_exported(folder: Path, device: str = "cpu") -> ReadyModel:
    """Load an exported model.

    Args:
        folder: The folder that `dgbench export --format model` wrote.
        device: Where the model predicts: a name of `--device`.

    Raises:
        UserError: The folder holds no exported model, its files are damaged, or this machine lacks the device.
    """
    about, place = read_about(folder), open_device(device)
    read, name = (_read_timm, WEIGHTS) if about.form == "timm" else (_read_program, PROGRAM)
    if not (folder / name).is_file():
        raise UserError(f"{folder / name} is gone: export the model again")
    try:
        network = read(folder / name, about, str(place))
    except Exception as error:  # as many kinds as a file of tensors can be damaged in
        first = str(error).partition("\n")[0]
        raise UserError(f"{folder / name} is damaged ({type(error).__name__}: {first}): export it again") from error
    return ReadyModel(network.to(place), about, about.temperature)


class Normalizing(nn.Module):
    """A network behind the normalization of its inputs.

    Args:
        network: Takes normalized images (B, C, H, W), float32.
        mean: Mean of each channel.
        std: Deviation of each channel.
        fixed: Whether the network has no modes, as it was exported in evaluation mode.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, fixed: bool = False) -> None:
        super().__init__()
        self.network = network
        self.fixed = fixed
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W), uint8 or floats in [0, 1]."""
        if x.dtype == torch.uint8:
            x = x.to(self.mean.dtype).div_(255)
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits

    def train(self, mode: bool = True) -> Normalizing:
        """Set the mode, but for a network that has none."""
        if self.fixed:
            self.training = mode
            return self
        return super().train(mode)


def _read_timm(path: Path, about: ExportedModel, device: str) -> nn.Module:
    """Build timm's network with the weights of a file; its device is set later."""
    # JSON has arrays in the place of tuples.
    how: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in about.timm.items()}
    network = timm.create_model(about.backbone, num_classes=len(about.classes), **how)
    network.load_state_dict(load_file(path))
    assert about.preprocessing, "only models of images are exported"
    return Normalizing(network, about.preprocessing.mean, about.preprocessing.std)


def _read_program(path: Path, about: ExportedModel, device: str) -> nn.Module:
    """Read a program and move it to a device, which it can't do by itself; it normalizes its inputs."""
    program = torch.export.load(path)
    if device != "cpu":
        program = move_to_device_pass(program, device)
    return Normalizing(program.module(), (0.0,), (1.0,), fixed=True)
