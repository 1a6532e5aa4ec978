"""What a machine needs to execute runs: places, device, workers. No result depends on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgbench.core.plain import from_plain


@dataclass(frozen=True)
class Site:
    """What a machine needs to execute runs and no result depends on."""

    data_dir: str = ""
    cache_dir: str = ""
    """Folder for decoded images; empty: one in the data directory, or beside the path."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Data set -> its path, for those whose name carries one."""
    include: tuple[str, ...] = ()
    skip_bad_images: bool = False
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
        """Plain JSON."""
        return dataclasses.asdict(self)

    def including(self, files: Sequence[str]) -> Site:
        """With these files included too; each takes the place of one of its name that is gone, as after a move."""
        names = {Path(file).name for file in files}
        stay = [file for file in self.include if Path(file).name not in names or Path(split_include(file)[0]).is_file()]
        return dataclasses.replace(self, include=tuple(dict.fromkeys((*stay, *files))))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Site:
        """Read what `to_json` wrote."""
        return from_plain(Site, data)


def split_include(include: str) -> tuple[str, str]:
    """File and class of `file.py:Name`; the class is empty where a file is included whole."""
    stem, colon, name = include.rpartition(".py:")
    return (f"{stem}.py", name) if colon else (include, "")
