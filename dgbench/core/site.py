"""What a machine needs to execute runs: places, device, workers. No result depends on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgbench.core.plain import from_plain

READING = ("skip_bad_images", "allow_missing_classes", "exif", "max_image_pixels")
"""The fields of `Site` that say how files of data sets are read."""


@dataclass(frozen=True)
class Site:
    """Options of the machine that executes runs. They never enter a run's id, because no result depends on them.

    What is left out or turned of the data enters their fingerprint, which says what results may be compared.
    """

    data_dir: str = ""
    cache_dir: str = ""
    """Folder for decoded images; empty: one in the data directory, or beside the path."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Data set -> its path, for those whose name carries one."""
    include: tuple[str, ...] = ()
    skip_bad_images: bool = False
    allow_missing_classes: bool = False
    exif: str = ""
    """Whether the user's own images are turned as their EXIF says: `turn`; `keep` and empty: as they are stored."""
    max_image_pixels: int = 0
    """Largest image that is decoded; 0: as Pillow says."""
    device: str = "auto"
    workers: int = 0
    """Processes that decode images, for each run."""
    backbone_weights: str = ""
    """The file whose hash is the setting's `weights`; empty where it names none."""
    save_models: bool = False
    """Keep every run's weights, not only those that another run reads."""
    save_predictions: bool = False
    checkpoint_minutes: float = 10.0
    """Longest time between checkpoints; each evaluation makes one too."""

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return dataclasses.asdict(self)

    def including(self, files: Sequence[str]) -> Site:
        """Include these files too; each takes the place of one of its name that is gone, as after a move."""
        names = {Path(file).name for file in files}
        stay = [file for file in self.include if Path(file).name not in names or Path(split_include(file)[0]).is_file()]
        return dataclasses.replace(self, include=tuple(dict.fromkeys((*stay, *files))))

    def completed_by(self, earlier: Site) -> Site:
        """Fill in the places, and how to read files, that an earlier launch of the sweep named and this one does not.

        Its files are included too.
        """
        return dataclasses.replace(
            self,
            paths={**earlier.paths, **self.paths},
            **{name: getattr(self, name) or getattr(earlier, name) for name in ("data_dir", "cache_dir", *READING)},
            include=earlier.including(self.include).include,
        )

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Site:
        """Build a site from the output of `to_json`."""
        return from_plain(Site, data)


def split_include(include: str) -> tuple[str, str]:
    """Split `file.py:Name` into file and class; the class is empty where a file is included whole."""
    stem, colon, name = include.rpartition(".py:")
    return (f"{stem}.py", name) if colon else (include, "")
