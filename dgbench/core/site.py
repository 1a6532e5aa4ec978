"""Hold the options of one machine that runs need: paths, device, workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dgbench.core.plain import from_plain
from dgbench.core.run import BEST, LAST

READING = ("skip_bad_images", "allow_missing_classes", "exif", "max_image_pixels")
"""Fields of `Site` that decide how files of data sets are read."""


@dataclass(frozen=True)
class Site:
    """Options of the machine that executes runs. They never enter a run's id, because no result depends on them.

    Images that are left out or turned are the exception: they enter the data's fingerprint, which tables compare.
    """

    data_dir: str = ""
    """Folder of the data sets; empty: none given."""
    cache_dir: str = ""
    """Folder for decoded images; empty: one in the data directory, or beside a data set's path."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Data set -> path, for data sets whose name carries a path."""
    include: tuple[str, ...] = ()
    """User's files, `file.py` or `file.py:Class`, whose classes join the catalogue."""
    skip_bad_images: bool = False
    """Leave out images that can't be decoded, instead of refusing the data."""
    allow_missing_classes: bool = False
    """Accept domains that lack some of the classes."""
    exif: str = ""
    """`turn` turns the user's own images as their EXIF orientation says; `keep` or empty leaves them as stored."""
    max_image_pixels: int = 0
    """Largest image, in pixels, that is decoded; 0: Pillow's limit."""
    device: str = "auto"
    """Name of a torch device; `auto` is CUDA, else MPS, else the CPU."""
    workers: int | None = None
    """Processes that decode images, for each run; 0: the run's own process decodes; None: as many as suit its cores."""
    backbone_weights: str = ""
    """Path of the file whose hash is `Setting.weights`; empty if the setting names none."""
    save_models: Literal["", "best", "all"] = ""
    """Keep weights that no other run reads: each predictor's `best` model, or `all` (best and last); empty: none."""
    save_predictions: Literal["", "chosen", "all"] = ""
    """Keep the logits of models on every evaluated view: `chosen`, of those that selectors name; `all`, of each
    evaluation; empty, of none."""
    checkpoint_minutes: float = 10.0
    """Longest time between checkpoints, in minutes; each evaluation makes one too."""
    ttl: float = 0.0
    """Seconds without a sign of life after which a process on another machine counts as gone; 0: by the file system."""
    retries: int = 1
    """Number of times that a failed run is tried again, over all launches and workers."""

    def to_json(self) -> dict[str, Any]:
        """Return the site as plain JSON values."""
        return dataclasses.asdict(self)

    def including(self, files: Sequence[str]) -> Site:
        """Return the site with `files` included too.

        A file replaces an earlier one of the same name that no longer exists, as after a folder has moved.
        """
        names = {Path(file).name for file in files}
        stay = [file for file in self.include if Path(file).name not in names or Path(split_include(file)[0]).is_file()]
        return dataclasses.replace(self, include=tuple(dict.fromkeys((*stay, *files))))

    def completed_by(self, earlier: Site) -> Site:
        """Return the site with paths, reading options and `ttl` filled in from `earlier` where this one has none.

        `earlier` is the site of an earlier launch of the same sweep; its included files stay included.
        """
        names = ("data_dir", "cache_dir", "ttl", *READING)
        return dataclasses.replace(
            self,
            paths={**earlier.paths, **self.paths},
            **{name: getattr(self, name) or getattr(earlier, name) for name in names},
            include=earlier.including(self.include).include,
        )

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Site:
        """Read the output of `to_json`, of this version or an earlier one."""
        # Both were yes or no before there was a choice.
        yes = {"save_predictions": "chosen", "save_models": "all"}
        chosen = {name: yes[name] if data[name] else "" for name in yes if isinstance(data.get(name), bool)}
        return from_plain(Site, {**data, **chosen})


def saved_models(save_models: str) -> tuple[str, ...]:
    """Return which models of a predictor are kept under a value of `Site.save_models`: `BEST`, `LAST`, both or none."""
    return {"": (), "best": (BEST,), "all": (BEST, LAST)}[save_models]


def split_include(include: str) -> tuple[str, str]:
    """Split `file.py:Name` into file and class; the class is empty where a whole file is included."""
    stem, colon, name = include.rpartition(".py:")
    return (f"{stem}.py", name) if colon else (include, "")
