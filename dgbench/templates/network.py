"""A network for dgbench: inputs to features. It is found by `--include`.

dgbench train --include mine.py --backbone MyNetwork --algorithm ERM --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from torch import Tensor, nn


class MyNetwork(nn.Module):
    """Three convolutions, each with batch norm, and the mean over positions.

    Args:
        in_channels: Channels of the images, which dgbench gives by this name; also `input_shape`, if you take it.
        width: Filters of the first convolution. Every argument that dgbench doesn't give needs a default.
    """

    def __init__(self, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(in_channels, into, 3, stride=2, padding=1), nn.BatchNorm2d(into), nn.ReLU()]
            in_channels = into
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, 4 * width) of images (B, in_channels, H, W).

        There is no classifier: dgbench puts dropout and one for the classes of the data on the features.
        """
        features: Tensor = self.body(x).mean((2, 3))
        return features
