"""Whether training on images from the cache comes to the accuracy of training on Pillow's, by the public commands.

    python -m dgbench.download Glyphs --data_dir DIR
    python benchmarks/image_parity.py --data_dir DIR [--held_out twemoji] [--trials 5] [--steps 601] [--jobs 1]

Writes Glyphs as PNG files of 64 x 64 pixels, and trains ERM with a SmallCNN on these folders, augmented: each trial
once from the cache (`--cache auto`) and once by Pillow (`--cache off`), from the same weights, with the same
minibatches and the same draws. Prints the accuracies on the style that was held out, at the step that training-domain
validation chooses, with standard errors over trials; and their difference with the standard error of paired
differences. Aim: a difference of less than two of these.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _measure import machine
from numpy.typing import NDArray
from PIL import Image

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.site import Site

HPARAMS = {"backbone": "SmallCNN", "image_size": 64, "batch_size": 16, "lr": 0.002}


def write_pngs(data_dir: str, root: Path) -> None:
    """Every glyph as root/style/class/number.png."""
    glyphs = open_dataset("Glyphs", Site(data_dir=data_dir), Catalogue())
    for domain in glyphs.domains:
        examples = glyphs.examples(domain, 0)
        images = examples.batch(np.arange(len(examples.labels)), None).transpose(0, 2, 3, 1)
        for number, (image, label) in enumerate(zip(images, examples.labels.tolist(), strict=True)):
            path = root / domain / glyphs.classes[label] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def accuracies(root: Path, cache: str, args: argparse.Namespace) -> NDArray[np.float64]:
    """Percent on the held-out style, of each trial of a sweep."""
    output = root.with_name(f"sweep-{cache}")
    words = ["launch", "--output_dir", str(output), "--datasets", f"folder:{root}", "--algorithms", "ERM"]
    words += ["--n_hparams", "1", "--n_trials", str(args.trials), "--test_envs", args.held_out, "--single_test_envs"]
    words += ["--cache", cache, "--steps", str(args.steps), "--checkpoint_freq", "50", "--hparams", json.dumps(HPARAMS)]
    words += ["--device", "cpu", "--jobs", str(args.jobs), "--skip_confirmation"]
    subprocess.run([sys.executable, "-m", "dgbench.sweep", *words], check=True, stdout=subprocess.DEVNULL)
    command = [sys.executable, "-m", "dgbench.collect", "--input_dir", str(output), "--format", "json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    (table,) = [table for table in report["tables"] if table["selector"] == "training-domain" and table["dataset"]]
    (row,) = table["rows"]
    return np.array([100 * trial["pick"]["score"] for trial in row["cells"][0]["trials"]])


def told(values: NDArray[np.float64]) -> str:
    """Mean and standard error."""
    return f"{values.mean():.2f} +/- {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", required=True, help="folder that holds Glyphs")
    parser.add_argument("--held_out", default="twemoji")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--steps", type=int, default=601)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    print(machine())
    found = {}
    with tempfile.TemporaryDirectory(prefix="dgbench-benchmark-") as place:
        root = Path(place, "Glyphs")
        write_pngs(args.data_dir, root)
        for cache in ("auto", "off"):
            start = time.perf_counter()
            found[cache] = accuracies(root, cache, args)
            single = " ".join(f"{value:.1f}" for value in found[cache])
            seconds = time.perf_counter() - start
            print(f"--cache {cache:<5}{told(found[cache])} % ({single}), {seconds:.0f} s", flush=True)
    differences = found["auto"] - found["off"]
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    print(f"auto - off {told(differences)}, paired by trial: {abs(differences.mean()) / error:.1f} standard errors")


if __name__ == "__main__":
    main()
