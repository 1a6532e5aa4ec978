"""The command `predict`: which files it finds, what it writes, and that a bad file stops nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from dgbench import predict
from dgbench.core.errors import UserError
from dgbench.models.exported import ExportedModel
from dgbench.models.facts import Preprocessing
from dgbench.models.loading import load_exported
from dgbench.store.files import write_json

ABOUT = ExportedModel(
    row="ERM", dataset="folder:own", held_out=("a",), training_domains=("b",), task="classification",
    classes=("bar", "cross", "disk"), backbone="test_vit", input_shape=(3, 32, 32), precision="fp32", run="0" * 20,
    preprocessing=Preprocessing(3, 32, 32, "bilinear", (0.5,) * 3, (0.25,) * 3), predictor="model", trial=0,
    hparams_seed=0, form="timm", timm={"in_chans": 3, "img_size": (32, 32)}, temperature=2.0, calibrated_on=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=3, img_size=(32, 32))
    torch.nn.init.normal_(network.head.weight)
    save_file(network.state_dict(), folder / "model.safetensors")
    write_json(folder / "model.json", ABOUT)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("b/2.png", "b/1.JPG", "a/3.webp", ".hidden/4.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_folders_patterns_and_files_are_found_in_order(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    words = [str(images), str(images / "**" / "*.png"), str(images / "b" / "1.JPG")]
    assert (
        predict.main([str(model), *words, "--csv", str(out), "--top", "2", "--batch-size", "2", "--device", "cpu"]) == 0
    )
    found = pd.read_csv(out)
    names = [str(images / name) for name in ("a/3.webp", "b/1.JPG", "b/2.png", "b/2.png", "b/1.JPG")]
    assert found["file"].tolist() == names
    assert list(found) == ["file", "predicted", "probability", "predicted_2", "probability_2"]
    expected = load_exported(model).predict(names)
    assert found["predicted"].tolist() == expected.predicted
    np.testing.assert_allclose(found["probability"], expected.probabilities.max(axis=1), rtol=1e-5)
    assert expected.temperature == 2.0
    err = capsys.readouterr().err
    assert "predicted 5 images in" in err
    assert "images a second" in err
    assert "calibrated by a temperature of 2, fitted to 7 validation images" in err
    assert "accuracy" not in err


def test_unreadable_files_are_listed_and_the_others_predicted(
    model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "b" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    assert predict.main([str(model), str(images / "b"), "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert [line.partition(":")[0] for line in printed.out.splitlines()] == [
        str(images / "b" / n) for n in ("1.JPG", "2.png")
    ]
    *_, title, line = printed.err.splitlines()
    assert title == "1 file can't be read:"
    assert line.startswith(f"image {images / 'b' / '0.png'} can't be decoded")


def test_labels_in_a_csv_file_give_the_accuracy(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["b/1.JPG", "b/2.png", "a/3.webp"]
    predicted = load_exported(model).predict([images / name for name in names]).predicted
    labels = [*predicted[:2], next(name for name in ABOUT.classes if name != predicted[2])]
    pd.DataFrame({"path": names, "label": labels}).to_csv(images / "list.csv", index=False)
    assert predict.main([str(model), str(images / "list.csv"), "--device", "cpu"]) == 0
    assert "accuracy 66.7 % (2 of 3 labeled images)" in capsys.readouterr().err
    pd.DataFrame({"file": names, "label": "cat"}).to_csv(tmp_path / "cats.csv", index=False)
    with pytest.raises(UserError, match="holds 'cat', which are no classes of the model"):
        predict.main([str(model), str(tmp_path / "cats.csv"), "--root", str(images)])
    assert predict.main([str(model), str(images / "list.csv"), "--root", str(tmp_path), "--device", "cpu"]) == 1


def test_wrong_input_is_refused_together(model: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("name\nx\n")
    words = [str(tmp_path / "none.png"), str(tmp_path / "empty"), str(tmp_path / "bad.csv"), "--top", "0"]
    with pytest.raises(UserError) as caught:
        predict.main([str(images), *words])
    found = caught.value.problems
    assert found[0] == "--top must be at least 1, not 0"
    assert found[1].startswith(f"{images} holds no exported model: there is no model.json in it")
    assert found[2:] == (
        f"{tmp_path / 'none.png'}: there is no such file or folder",
        f"{tmp_path / 'empty'}: there are no images there",
        f"{tmp_path / 'bad.csv'} has neither a column 'path' nor 'file'",
    )


def test_a_damaged_folder_is_refused(model: Path, images: Path, tmp_path: Path) -> None:
    for number, (damage, match) in enumerate(
        (
            (lambda folder: (folder / "model.safetensors").write_bytes(b"short"), "is damaged"),
            (lambda folder: (folder / "model.safetensors").unlink(), "is gone: export the model again"),
            (lambda folder: (folder / "model.json").write_text("{"), "is damaged"),
            (lambda folder: write_json(folder / "model.json", replace(ABOUT, format=2)), "has format 2, this version"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for file in model.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        damage(folder)
        with pytest.raises(UserError, match=match):
            predict.main([str(folder), str(images), "--device", "cpu"])
