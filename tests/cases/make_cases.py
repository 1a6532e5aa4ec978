"""Make small inputs as people really have them; README.md beside this file says what must happen with each.

`python tests/cases/make_cases.py OUT` makes all of them, to look at or to try commands on. Tests get each group by the
fixture `cases`. Nothing is taken from anybody's data.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_case(path: Path, label: int, number: int, **options: Any) -> None:
    """Write a 32 x 32 image of noise whose colour tells its label, in the format of the path's extension."""
    pixels = np.random.default_rng(1000 * label + number).integers(0, 90, (32, 32, 3)).astype(np.uint8)
    pixels[..., label % 3] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def tree(
    root: Path,
    domains: Iterable[str] = ("a", "b", "c"),
    classes: Sequence[str] = ("x", "y"),
    n: int = 12,
    extension: str = "png",
) -> Path:
    """Write root/domain/class/000.png and so on, `n` images a class, no two alike; return the root."""
    number = 0
    for domain in domains:
        for label, name in enumerate(classes):
            for i in range(n):
                number += 1
                write_case(root / domain / name / f"{i:03d}.{extension}", label, number)
    return root


def folders(out: Path) -> None:
    """Write folders of images, domain/class/image, each with one thing that is odd about it."""
    tree(out / "split_as_class", domains=[f"{domain}/{split}" for domain in "abc" for split in ("train", "test")])
    for path in sorted(tree(out / "jfif_half", extension="jpg").rglob("00[0-5].jpg")):
        path.rename(path.with_suffix(".jfif"))
    for path in sorted(tree(out / "gif", n=6).rglob("00[0-2].png")):
        Image.open(path).save(path.with_suffix(".gif"))
        path.unlink()
    shutil.rmtree(tree(out / "class_missing", classes=("x", "y", "z")) / "c" / "z")
    tree(out / "numeric_names", domains=("1", "2", "3"))
    tree(out / "one_image_a_class", n=1)
    same = tree(out / "same_bytes")
    for i in range(6):
        shutil.copy(same / f"a/x/{i:03d}.png", same / f"b/y/copy{i}.png")
    tree(out / "bomb")
    tree(out / "odd names (2) [new]", domains=("art painting", "photo, real", "sketch|bw", "Avg"))
    loop = tree(out / "link_loop")
    os.symlink(loop / "a", loop / "a" / "x" / "loop")
    tree(out / "escape", domains=("a\x1b[31m", "b", "c\nd"))
    first = os.fsencode(tree(out / "not_utf8") / "a" / "x" / "000.png")
    os.rename(first, os.path.join(os.path.dirname(first), b"caf\xe9.png"))


def csv_files(out: Path) -> None:
    """Write tables of images, with the images."""
    tree(out / "images", n=6)
    rows = [(f"images/{d}/{c}/{i:03d}.png", d, c) for d in "abc" for c in "xy" for i in range(6)]

    def write(name: str, found: Iterable[tuple[str, str, str]]) -> None:
        (out / name).write_text("path,domain,label\n" + "".join(",".join(row) + "\n" for row in found))

    write("good.csv", rows)
    write("two_spellings.csv", [*rows, ("./images/a/x/000.png", "b", "y"), ("images/../images/a/x/001.png", "b", "y")])
    write("class_missing.csv", [row for row in rows if row[1:] != ("c", "y")])


def modes(out: Path) -> None:
    """Write images whose pixels are other than three bytes each: a ramp of grey over the whole range, 64 x 64."""
    out.mkdir(parents=True)
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(out / "grey16.png")
    Image.fromarray(ramp).save(out / "grey16.tif")
    Image.fromarray((ramp >> 4).astype(np.uint16)).save(out / "grey12.png")
    (out / "grey16.pgm").write_bytes(b"P5 64 64 65535\n" + ramp.astype(">u2").tobytes())
    Image.fromarray(ramp.astype(np.float32) / 65535).save(out / "float.tif")
    Image.fromarray(ramp.astype(np.int32)).save(out / "int32.tif")
    clear = np.zeros((64, 64, 4), np.uint8)
    clear[16:48, 16:48] = (200, 30, 30, 255)
    Image.fromarray(clear).save(out / "transparent.png")
    halves = np.zeros((40, 80, 3), np.uint8)
    halves[:, :40], halves[:, 40:] = (250, 0, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: people see it 40 wide and 80 high, red above
    Image.fromarray(halves).save(out / "turned.jpg", exif=exif, quality=95)


def domainbed(out: Path) -> None:
    """Write DomainBed's sweeps, whose second runs differ in one argument and are better, so that pooling shows."""
    others: Mapping[str, Mapping[str, Any]] = {
        "holdout": {"holdout_fraction": 0.5},
        "steps": {"steps": 20000},
        "hparams": {"hparams": '{"resnet18": true}'},
        "task": {"task": "domain_adaptation", "uda_holdout_fraction": 0.5},
    }
    for name, args in others.items():
        for test in range(4):
            _domainbed_run(out / name / f"r{test}", [test], 0.6)
            _domainbed_run(out / name / f"s{test}", [test], 0.7, seed=1, **args)
    for train in range(4):
        _domainbed_run(out / "single_source" / f"r{train}", [env for env in range(4) if env != train], 0.6)


def _domainbed_run(folder: Path, test: Sequence[int], accuracy: float, seed: int = 0, **args: Any) -> None:
    """Write the folder of one finished run of DomainBed: four environments of PACS, records at steps 0 and 100."""
    said = {
        **{"algorithm": "ERM", "dataset": "PACS", "test_envs": list(test), "hparams_seed": seed, "trial_seed": 0},
        **{"seed": 0, "output_dir": "x", "data_dir": "d", "holdout_fraction": 0.2, "task": "domain_generalization"},
        **{"uda_holdout_fraction": 0, "steps": None, "checkpoint_freq": None, "hparams": None},
        **{"skip_model_save": False, "save_model_every_checkpoint": False},
        **args,
    }
    lines = []
    for step in (0, 100):
        record: dict[str, Any] = {"args": said, "hparams": {"lr": 5e-5, "batch_size": 32}, "step": step}
        record |= {"epoch": step / 10, "loss": 0.1, "step_time": 0.1, "mem_gb": 1.0}
        for env in range(4):
            record[f"env{env}_in_acc"] = accuracy + step / 1000 + env / 100
            record[f"env{env}_out_acc"] = accuracy + step / 1000 + env / 100 - 0.005
        lines.append(json.dumps(record) + "\n")
    folder.mkdir(parents=True)
    for name, text in (("results.jsonl", "".join(lines)), ("done", "done"), ("out.txt", ""), ("err.txt", "")):
        (folder / name).write_text(text)


BACKBONE = "test_resnet.r160_in1k"
"""Of which the checkpoints in `weights` are: timm's smallest ResNet."""


def weights(out: Path) -> None:
    """Write checkpoints of a backbone, its weights drawn at random, as other projects nest and name them."""
    import timm
    import torch

    out.mkdir(parents=True)
    torch.manual_seed(0)
    model = timm.create_model(BACKBONE, pretrained=False)
    state = model.state_dict()

    def under(prefix: str) -> dict[str, Any]:
        return {prefix + name: tensor for name, tensor in state.items()}

    torch.save(state, out / "plain.pth")
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, out / "with_namespace.pth")
    torch.save({"teacher": under("backbone."), "student": {}}, out / "teacher_backbone.pth")
    torch.save({"state_dict": under("module.encoder_q.")}, out / "encoder_q.pth")
    torch.save({"algorithm": under("model."), "epoch": 3, "best_val_metric": 0.5}, out / "algorithm.pth")
    torch.save({"args": {"algorithm": "ERM"}, "model_dict": under("network.0.network.")}, out / "model_dict.pth")
    torch.save(model, out / "whole_module.pth")


GROUPS: Mapping[str, Callable[[Path], None]] = {
    make.__name__: make for make in (folders, csv_files, modes, domainbed, weights)
}
"""Name -> what writes that group of cases into a new folder."""


if __name__ == "__main__":
    root = Path(sys.argv[1]).absolute()
    for name, make in GROUPS.items():
        make(root / name)
        print(root / name)
