"""Build the small networks that start from scratch: classifiers, convolutional networks for small images, an MLP."""

from __future__ import annotations

from torch import nn

EXAMPLES_PER_PASS = 128
"""Most examples in a pass of the convolutional networks without gradients on a CPU, whose cache maps of 1,024 leave."""


def classifier(num_features: int, num_classes: int, *, nonlinear: bool) -> nn.Module:
    """Build the classifier: one linear layer, or DomainBed's nonlinear one of widths n, n/2, n/4.

    Args:
        num_features: n.
        num_classes: Outputs.
        nonlinear: Build the second.
    """
    if not nonlinear:
        return nn.Linear(num_features, num_classes)
    half, quarter = num_features // 2, num_features // 4
    return nn.Sequential(
        nn.Linear(num_features, half), nn.ReLU(), nn.Linear(half, quarter), nn.ReLU(), nn.Linear(quarter, num_classes)
    )


def mnist_cnn(channels: int) -> tuple[nn.Module, int]:
    """Build DomainBed's network for 28 x 28: four 3 x 3 convolutions, each with ReLU and then group norm of 8 groups.

    Returns:
        The network and its number of features, 128.
    """
    layers: list[nn.Module] = []
    for width_in, width, stride in ((channels, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1)):
        layers += [nn.Conv2d(width_in, width, 3, stride, padding=1), nn.ReLU(), nn.GroupNorm(8, width)]
    return _in_small_passes(layers), 128


def small_cnn(channels: int, size: int) -> tuple[nn.Module, int]:
    """Build a network for images from 8 x 8 to 96 x 96: 3 x 3 convolutions that halve them down to 4 x 4 or less.

    The first has 32 filters, or 16 for images up to 16 x 16; each halving doubles them, up to 128.

    Args:
        channels: Of the images.
        size: Shorter side of the images, in pixels.

    Returns:
        The network and its number of features.
    """
    layers: list[nn.Module] = []
    width_in, width = channels, 32 if size > 16 else 16
    while size > 4:
        layers += [nn.Conv2d(width_in, width, 3, stride=2, padding=1), nn.ReLU(), nn.GroupNorm(8, width)]
        width_in, width, size = width, min(2 * width, 128), (size + 1) // 2
    layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU(), nn.GroupNorm(8, width)]
    return _in_small_passes(layers), width


def _in_small_passes(layers: list[nn.Module]) -> nn.Module:
    """Return the network of these layers and a mean over positions, whose features are the same in passes of any size.

    That they are, to the bit, was measured for two examples and more, with AVX2 and AVX-512, in fp32 and bf16. It does
    not hold for larger convolutions (ResNets) and matrix products (MLP), so those networks don't have the attribute.
    """
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    vars(network)["examples_per_pass"] = EXAMPLES_PER_PASS
    return network


def mlp(num_inputs: int, width: int = 256, depth: int = 3) -> tuple[nn.Module, int]:
    """Build a network for vectors: `depth` linear layers of `width`, with ReLU between them.

    Args:
        num_inputs: Numbers of an input.
        width: Outputs of each layer.
        depth: Number of layers.

    Returns:
        The network and its number of features, `width`.
    """
    layers: list[nn.Module] = [nn.Linear(num_inputs, width)]
    for _ in range(depth - 1):
        layers += [nn.ReLU(), nn.Linear(width, width)]
    return nn.Sequential(*layers), width
