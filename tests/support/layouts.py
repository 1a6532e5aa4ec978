"""Writes tiny copies of the data sets' layouts on disk, with the odd files that real ones hold."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, size: tuple[int, int] = (23, 17)) -> Image.Image:
    """An RGB image of (width, height) whose neighbouring pixels are alike, as in a photograph."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def write_image(path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (23, 17)) -> Path:
    """An image in the format that the path's extension names, in any PIL mode that the format can hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = noise(seed, size)
    (image.quantize(16) if mode == "P" else image.convert(mode)).save(path)
    return path


def truncate(path: Path) -> None:
    """Cut off the end of a file, as a broken copy does; what is left begins like an image."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])


def write_folders(
    root: Path, domains: Mapping[str, int] | Iterable[str], classes: Sequence[str], extension: str = ".jpg"
) -> Path:
    """root/domain/class/N.jpg: as many images a domain as the mapping says, dealt to the classes; else 2 a class."""
    counts = domains if isinstance(domains, Mapping) else dict.fromkeys(domains, 2 * len(classes))
    for d, (domain, count) in enumerate(counts.items()):
        for n in range(count):
            write_image(root / domain / classes[n % len(classes)] / f"{n:04d}{extension}", seed=1000 * d + n)
    return root


def write_clutter(root: Path) -> None:
    """What file managers and archives leave in every folder: files that are no images and hidden ones that look so."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "imagelist.txt", "._0000.jpg"):
            (folder / name).write_bytes(b"clutter")
    some_class = next(path for path in sorted(root.glob("*/*")) if path.is_dir())
    write_image(some_class / ".ipynb_checkpoints" / "1.jpg")
    write_image(root / ".cache" / "x" / "1.jpg")


def write_csv(path: Path, rows: Iterable[Sequence[str]], columns: Sequence[str] = ("path", "domain", "label")) -> Path:
    """A CSV file with a head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """The idx format of MNIST."""
    head = io.BytesIO()
    head.write(bytes((0, 0, 8, array.ndim)))
    head.write(np.array(array.shape, ">i4").tobytes())
    return head.getvalue() + array.tobytes()


def write_mnist(
    data_dir: Path, train: int = 13, test: int = 8, packed: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """MNIST/raw with that many random images of 28 x 28; returns all images and labels, training ones first."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (train + test, 28, 28), np.uint8)
    labels = rng.integers(0, 10, train + test).astype(np.uint8)
    for prefix, part in (("train", slice(0, train)), ("t10k", slice(train, None))):
        for kind, array in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            path, content = raw / f"{prefix}-{kind}-ubyte", idx_bytes(array)
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return images, labels.astype(np.int64)


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip file with these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar file with these files; packed if the name ends in gz."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def files_under(root: Path, within: str = "") -> dict[str, bytes]:
    """Path below the root, after `within`, -> content of every file, as the functions that pack take them."""
    return {
        f"{within}{path.relative_to(root)}": path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }
