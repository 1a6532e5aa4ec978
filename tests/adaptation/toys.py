"""Small networks with norms of each kind, whose training has left something in them, and streams of batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgbench.core.setting import setting
from dgbench.networks.network import Network

CLASSES, WIDTH, SHAPE = 4, 8, (2, 6, 6)
_NORMS = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(2, width),
    "none": lambda _: nn.Identity(),
}


def network(norm: str = "batch", *, dropout: float = 0.0, frozen: bool = False, seed: int = 0) -> Network:
    """Two stages of a convolution, a norm and a tanh each; in training mode, as no adapter should count on."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for width_in, width in ((SHAPE[0], 4), (4, WIDTH)):
        layers += [nn.Conv2d(width_in, width, 3), _NORMS[norm](width), nn.Tanh()]
    layers += [nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    options = setting(batch_norm="frozen" if frozen else "live")
    return trained(Network(nn.Sequential(*layers), WIDTH, CLASSES, options, dropout)).train()


def vectors(*, seed: int = 0) -> Network:
    """One linear stage with batch norm, for inputs of 5 numbers: a lone input has no variance."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(5, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())
    return trained(Network(layers, WIDTH, CLASSES, setting())).train()


def trained(model: Network) -> Network:
    """With scales, shifts and running statistics that are not those of the start, and sure predictions."""
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_()
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
        model.classifier.weight.mul_(4)
    return model


def stream(sizes: tuple[int, ...] = (8, 8, 8, 8, 3), shape: tuple[int, ...] = SHAPE, seed: int = 1) -> list[Tensor]:
    """Batches of a domain that is brighter than the training's."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=generator) * 1.5 + 0.5 for n in sizes]


def norms(model: nn.Module) -> list[nn.Module]:
    """The norms of either kind, in order."""
    return [part for part in model.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm)]


def in_batches(model: Network) -> Network:
    """A reference for batch statistics: batch norm in training mode, all else in evaluation mode."""
    model.eval()
    for part in norms(model):
        part.train()
    return model


def changed(model: Network, before: dict[str, Tensor]) -> set[str]:
    """Names of the parameters that are no longer what they were."""
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def parameters(model: Network) -> dict[str, Tensor]:
    """Copies of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}
