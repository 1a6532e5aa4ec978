"""TerraIncognita: camera-trap photographs of animals at four places, published in two generations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dgbench.core.data_cards import Archive, DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.archives import link_or_copy
from dgbench.datasets._images import ImageDataset
from dgbench.datasets._tree import Tree, generation_problems, in_two_classes, matching

_DOMAINS = ("location_100", "location_38", "location_43", "location_46")
_CLASSES = ("bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel")
_HOST = "https://storage.googleapis.com/public-datasets-lila/caltechcameratraps/"


class TerraIncognita(ImageDataset):
    """Camera-trap photos of nine kinds of animals, or of none: four domains, each the cameras of one place.

    Images of about 1024 x 747 pixels, by day and night; most animals are small in the picture. The data were published
    in two generations, on which different accuracies are reached: 24,788 images in DomainBed's paper, 24,330 by the
    annotations of 2021 and later. Both are read, told apart by their counts, and have different fingerprints; compare
    results on the same generation only.

    A frame may show two kinds of animals. As in DomainBed, it then lies in two class folders: one image with two
    labels, of which one may lie in training and the other in validation (1 file of location_43, 3 of location_46).

    Reference:
        Beery, Van Horn and Perona, "Recognition in Terra Incognita", ECCV 2018.
    """

    card = DatasetCard(
        source=f"{_HOST} (eccv_18_all_images_sm.tar.gz, eccv_18_annotations.tar.gz)",
        licence="CDLA-Permissive-1.0",
        paper="Beery et al., Recognition in Terra Incognita, ECCV 2018",
        link="https://arxiv.org/abs/1807.04975",
        input_shape=(3, 224, 224),
        domains=_DOMAINS,
        classes=_CLASSES,
        generations={
            "the generation of 24,788 images (DomainBed's paper)": dict(
                zip(_DOMAINS, (4879, 9767, 4020, 6122), strict=True)
            ),
            "the generation of 24,330 images (annotations of 2021 and later)": dict(
                zip(_DOMAINS, (4741, 9736, 3970, 5883), strict=True)
            ),
        },
        known_bad={
            "1 file of location_43, 3 of location_46": "lie in two class folders: one image, two labels",
        },
        mirrors=("https://lila.science/datasets/caltech-camera-traps",),
        note="compare with results on the same generation only; few published results say which one they are on",
        folder="terra_incognita",
    )
    archives = (
        Archive("eccv_18_all_images_sm.tar.gz", f"{_HOST}eccv_18_all_images_sm.tar.gz"),
        Archive("eccv_18_annotations.tar.gz", f"{_HOST}eccv_18_annotations.tar.gz"),
    )

    def further_problems(self, tree: Tree) -> Iterator[str]:
        """Yield the counts found, if they are those of neither generation."""
        return generation_problems(tree, self.card.generations)

    def remarks(self) -> Sequence[str]:
        """Name the generation, and the images that have two labels."""
        return (
            f"{type(self).__name__} is {matching(self.found, self.card.generations)}",
            *(f"one image with two labels, in {double}" for double in in_two_classes(self.found)),
        )

    @classmethod
    def arrange(cls, unpacked: Path, folder: Path, progress: ReportProgress) -> None:
        """Sort the images by place and class as the annotations say; folders that are sorted already are moved.

        Args:
            unpacked: Folder of the unpacked archives; without a JSON file in it, it must hold sorted folders.
            folder: The folder to make.
            progress: Called with the number of images sorted.

        Raises:
            UserError: Images are missing, and those found are not all those of a generation.
        """
        annotations = sorted(unpacked.rglob("*.json"))
        if not annotations:
            return super().arrange(unpacked, folder, progress)
        images = {path.name: path for path in unpacked.rglob("*.jpg")}
        listed = sorted({place for file in annotations for place in _places(file)})
        missing = [name for _, _, name in listed if name not in images]
        counts = Counter(domain for domain, _, name in listed if name in images)
        # Annotations may list images that the archive lacks: that is fine if those found make up a known generation.
        if missing and dict(counts) not in map(dict, cls.card.generations.values()):
            raise UserError(
                f"{len(missing):,} of the {len(listed):,} images that the annotations list are not among those given, "
                f"such as {missing[0]}: both archives are needed, {' and '.join(a.name for a in cls.archives)}"
            )
        for done, (domain, name, image) in enumerate(listed, 1):
            if image in images:
                target = folder / domain / name / image
                target.parent.mkdir(parents=True, exist_ok=True)
                # Linked, not moved: an image with two labels is needed twice.
                link_or_copy(images[image], target)
            progress("images sorted", done, len(listed))
        return None


def _places(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield domain, class and file name of each image of the four places, from annotations in COCO's format.

    An image with annotations of two classes is yielded for both, as DomainBed has it. One with two annotations of the
    same class is yielded twice; `arrange` takes it once.
    """
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(file.read_bytes())
        names = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: (f"location_{image['location']}", image["file_name"]) for image in content["images"]}
        for annotation in content["annotations"]:
            domain, image = images.get(annotation["image_id"], ("", ""))
            name = names.get(annotation["category_id"], "")
            if domain in _DOMAINS and name in _CLASSES:
                yield domain, name, Path(image).name
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file.name} is not a file of annotations in COCO's format ({error!r})") from error
