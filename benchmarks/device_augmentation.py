"""DomainBed's augmentation of a batch of images by PyTorch, on any device, beside the path that dgbench has on the CPU.

    python benchmarks/device_augmentation.py [--device cpu] [--rounds 5]

Both apply the same draws to the same photographs of 227 x 227. Printed are images a second, the CPU path's in seconds
of one core, and how far the results lie apart, in levels of 255. No setting of dgbench uses it: what it is worth beside
loader processes is for a GPU to tell (`benchmarks/gpu.py --parts augment`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from _measure import machine
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from dgbench.data import transforms_cv2
from dgbench.data.transforms_pil import Augmentation, draw

T = TypeVar("T")
KEPT, SIDE = 227, 224
_LUMINANCE = (0.299, 0.587, 0.114)
_TRUNCATES = -0.499  # added before rounding, as `transforms_cv2` does


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    compare(torch.device(args.device), args.images, args.rounds)


def compare(device: torch.device, count: int, rounds: int) -> None:
    """Print the rates of both paths and their distance.

    Args:
        device: Where PyTorch augments.
        count: Images of a batch.
        rounds: Batches, of which the median counts.
    """
    images = photographs(count)
    rng = np.random.default_rng(0)
    drawn = [draw(KEPT, KEPT, rng) for _ in range(count)]
    on_device = torch.from_numpy(images).to(device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def ours() -> Tensor:
        found = augment(on_device, Draws.of(drawn, device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return found

    expected, host = timed(lambda: reference(images, drawn), rounds, time.process_time)
    found, there = timed(ours, rounds, clock)
    apart = (found.cpu().int() - torch.from_numpy(expected).int()).abs()
    print(f"  CPU path, one core: {count / host:8,.0f} images a second")
    print(f"  PyTorch, {device.type:9} {count / there:8,.0f} images a second   {host / there:.2f}")
    mean, over = float(apart.float().mean()), float((apart > 2).float().mean())
    print(f"  apart by {mean:.3f} levels of 255 on average; {100 * over:.2f} % of the values by more than 2")


def photographs(count: int) -> NDArray[np.uint8]:
    """Return so many different crops of scikit-learn's two photographs, (count, 3, KEPT, KEPT)."""
    rng = np.random.default_rng(1)
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    found = []
    for number in range(count):
        size = int(rng.integers(250, 420))
        left, upper = int(rng.integers(640 - size)), int(rng.integers(427 - size))
        box = (left, upper, left + size, upper + size)
        found.append(np.asarray(photos[number % 2].resize((KEPT, KEPT), Image.Resampling.BICUBIC, box)))
    return np.ascontiguousarray(np.stack(found).transpose(0, 3, 1, 2))


def reference(images: NDArray[np.uint8], drawn: Sequence[Augmentation]) -> NDArray[np.uint8]:
    """Augment on the CPU as runs do: by OpenCV, image after image."""
    found = [
        transforms_cv2.augment(np.ascontiguousarray(image.transpose(1, 2, 0)), one, SIDE, SIDE, (1.0, 1.0))
        for image, one in zip(images, drawn, strict=True)
    ]
    return np.stack(found).transpose(0, 3, 1, 2)


def timed(thing: Callable[[], T], rounds: int, clock: Callable[[], float]) -> tuple[T, float]:
    """Return the result of a call, and the median of its times after a first one."""
    result, times = thing(), []
    for _ in range(rounds):
        begun = clock()
        result = thing()
        times.append(clock() - begun)
    return result, statistics.median(times)


class Draws(NamedTuple):
    """The draws of a batch, on the device; made on the host, so that no operation's shape depends on values there."""

    boxes: Tensor
    """Left, upper, right, lower (B, 4), float32."""
    flips: Tensor
    """Whether to mirror (B,), bool."""
    amounts: Tensor
    """Factors of brightness, contrast and saturation, and the turn of hues (B, 4), float32."""
    turns: Sequence[tuple[int, Tensor]]
    """Operations in their order, each with the indices of the images that it is applied to then."""
    gray: Tensor
    """Indices of the images that turn gray."""

    @staticmethod
    def of(drawn: Sequence[Augmentation], device: torch.device) -> Draws:
        """Gather the draws of single images."""
        orders = np.array([one.order for one in drawn])

        def there(indices: object, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.as_tensor(indices, dtype=dtype).to(device, non_blocking=True)

        turns = [(k, there(np.flatnonzero(orders[:, place] == k))) for place in range(4) for k in range(4)]
        return Draws(
            there([one.box for one in drawn], torch.float32),
            there([one.flip for one in drawn], torch.bool),
            there([(*one.factors, one.turn) for one in drawn], torch.float32),
            [(k, indices) for k, indices in turns if len(indices)],
            there(np.flatnonzero([one.gray for one in drawn])),
        )


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Apply a batch's draws: crop, flip, color jitter in each image's own order, gray.

    Args:
        images: (B, 3, H, W), uint8.
        draws: Of the same images.

    Returns:
        (B, 3, SIDE, SIDE), uint8.
    """
    x = crop(images, draws.boxes, draws.flips)
    for operation, indices in draws.turns:
        of_images = draws.amounts[indices, operation].view(-1, 1, 1, 1)
        x[indices] = (brightness, contrast, saturation, hue)[operation](x[indices], of_images)
    x[draws.gray] = luminance(x[draws.gray]).expand(-1, 3, -1, -1)
    return x.to(torch.uint8)


def crop(images: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Squash each image's box to SIDE x SIDE by bilinear interpolation within the box, mirrored where `flips` says."""
    height, width = images.shape[2:]
    places = torch.arange(SIDE, device=images.device) + 0.5
    mirrored = torch.where(flips[:, None], SIDE - places, places)
    left, upper, right, lower = boxes.unsqueeze(2).unbind(1)
    x = (left + mirrored * (right - left) / SIDE).clamp(left + 0.5, right - 0.5) * 2 / width - 1
    y = (upper + places * (lower - upper) / SIDE).clamp(upper + 0.5, lower - 0.5) * 2 / height - 1
    grid = torch.stack([x[:, None, :].expand(-1, SIDE, -1), y[:, :, None].expand(-1, -1, SIDE)], dim=3)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False).round_()


def blended(x: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """Return `factor` of the image and the rest of the other, cut off as Pillow does."""
    return (x * factor + other * (1 - factor) + _TRUNCATES).round_().clamp_(0, 255)


def luminance(x: Tensor) -> Tensor:
    """Return the gray levels of images, (B, 1, H, W)."""
    red, green, blue = x.split(1, dim=1)
    return (_LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue).round_()


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return blended(x, 0.0, factor)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's mean gray level."""
    return blended(x, (luminance(x).mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor(), factor)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image in gray."""
    return blended(x, luminance(x), factor)


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate the hue of images.

    Args:
        x: Images (B, 3, H, W) of levels 0 to 255.
        turn: Rotation of each image, in levels: the hue circle has 256, as in OpenCV.
    """
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = value - least
    red, green, blue = x.split(1, dim=1)
    safe = spread.clamp_min(1)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    levels = (sextant * 256 / 6).round() + (turn * 255).trunc() - 1
    sextant = levels.remainder(256) * 6 / 256
    saturated = (255 * spread / value.clamp_min(1)).round() / 255
    # Each channel falls from the value by the saturation's share as the hue moves away from it.
    channels = [(offset + sextant).remainder(6) for offset in (5, 3, 1)]
    shares = [torch.minimum(k, 4 - k).clamp(0, 1) for k in channels]
    return torch.cat([value * (1 - saturated * share) for share in shares], dim=1).round_().clamp_(0, 255)


if __name__ == "__main__":
    main()
