"""A ready model takes arrays, files and images, in batches, and names what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dgbench.core.errors import UserError
from dgbench.models.facts import ModelFacts, Preprocessing
from dgbench.models.images import read_image
from dgbench.models.ready import Answers, ReadyModel

PLAIN = (0.0,) * 3, (1.0,) * 3
"""Mean and deviation that change nothing."""


class Means(nn.Module):
    """Logits that are the means of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return x.float().div(255 if x.dtype == torch.uint8 else 1).mean(dim=(2, 3))


def model_of(**changes: Any) -> ReadyModel:
    facts = {
        "row": "ERM", "dataset": "folder:own", "held_out": ("a",), "training_domains": ("b",), "task": "classification",
        "classes": ("red", "green", "blue"), "backbone": "SmallCNN", "input_shape": (3, 4, 6),
        "preprocessing": Preprocessing(3, 4, 6, "bilinear", *PLAIN), "precision": "fp32", "run": "0" * 20,
        "predictor": "model", "trial": 0, "hparams_seed": 0,
    }  # fmt: skip
    return ReadyModel(Means(), ModelFacts(**{**facts, **changes}), temperature=0.5)


def painted(color: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (9, 9)) -> Image.Image:
    return Image.new(mode, size, color)


def test_files_images_and_arrays_are_the_same_to_it(tmp_path: Path) -> None:
    images = [painted((0, 200, 9)), painted((0, 3, 90))]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.glob("*.png"))
    model = model_of()
    found = model.predict(paths)
    assert found.predicted == ["green", "blue"]
    for inputs in (
        images,
        list(map(str, paths)),
        np.stack([np.asarray(i.resize((6, 4))).transpose(2, 0, 1) for i in images]),
    ):
        np.testing.assert_array_equal(model.predict(inputs).logits, found.logits)
    np.testing.assert_array_equal(model.predict(paths[1]).logits, found.logits[1:])
    assert model.predict([]).predicted == []


def test_batches_are_of_the_size_asked_for_unless_inputs_are_predicted_together() -> None:
    x = torch.zeros(5, 3, 4, 6, dtype=torch.uint8)
    for together, sizes in ((0, [2, 2, 1]), (4, [4, 1])):
        model = model_of(together=together)
        model.predict(x, batch_size=2)
        assert isinstance(model.network, Means)
        assert model.network.sizes == sizes


def test_probabilities_are_those_of_the_divided_logits() -> None:
    found = Answers(np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]], np.float32), ("a", "b", "c"), temperature=2.0)
    weights = np.exp(np.array([0.5, 1.5, 1.0]))
    np.testing.assert_allclose(found.probabilities[0], weights / weights.sum())
    assert [[name for name, _ in names] for names in found.top(2)] == [["b", "c"], ["a", "b"]]
    assert found.top(9)[0][0][1] == pytest.approx(weights[1] / weights.sum())
    assert found.predicted == ["b", "a"]


def test_images_are_read_as_the_facts_say(tmp_path: Path) -> None:
    how = Preprocessing(3, 2, 2, "bilinear", *PLAIN, on_white=True)
    clear = painted((10, 20, 30, 0), "RGBA")
    assert read_image(clear, how).tolist() == np.full((3, 2, 2), 255).tolist()
    assert read_image(clear, Preprocessing(3, 2, 2, "bilinear", *PLAIN))[:, 0, 0].tolist() == [10, 20, 30]
    assert (
        read_image(painted((40, 40, 40)), Preprocessing(1, 2, 3, "bicubic", *PLAIN)).tolist()
        == np.full((1, 2, 3), 40).tolist()
    )
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8))
    by_pillow = read_image(noise, Preprocessing(3, 7, 7, "bilinear", *PLAIN))
    by_opencv = read_image(noise, Preprocessing(3, 7, 7, "bilinear", *PLAIN, resize="opencv"))
    assert 0 < np.abs(by_pillow.astype(int) - by_opencv).max() <= 2
    np.testing.assert_array_equal(
        by_pillow, np.asarray(noise.resize((7, 7), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    )
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(UserError, match=r"no\.png can't be decoded"):
        read_image(tmp_path / "no.png", how)


def test_what_it_does_not_take_is_refused() -> None:
    with pytest.raises(UserError, match="takes inputs of 3 x 4 x 6, and these are of 3 x 6 x 4"):
        model_of().predict(torch.zeros(2, 3, 6, 4))
    with pytest.raises(UserError, match="and no image files"):
        model_of(preprocessing=None).predict(painted((0, 0, 0)))
    with pytest.raises(UserError, match="predicts no classes"):
        _ = model_of(classes=()).predict(torch.zeros(2, 3, 4, 6)).predicted
