"""Seconds a step of every algorithm, by ERM's, beside what its count of passes lets expect.

    python benchmarks/methods.py [NAME ...] [--batch_size 16] [--rounds 3] [--markdown]

All on MNIST_CNN with 28 x 28 digits of five domains, those that need a CLIP on a small one, made on the spot. ERM's
step on the same network is timed in turn with each method's, and split into its forward and its backward part, so that
`expected` is forwards * forward + backwards * backward. Times are CPU seconds, on a GPU seconds. Aim: measured /
expected <= 1.15 for all.
"""

from __future__ import annotations

import argparse
import atexit
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from _measure import machine, training
from safetensors.torch import save_file

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.tiny_clip import CONFIG
from dgbench.core.cards import needs_of
from dgbench.data.views import Minibatch
from dgbench.execute.training import Training
from dgbench.networks.clip_names import import_open_clip

WARM = 24
"""Small steps before the clock starts, so that every phase of a rehearsal is over."""
LIMIT = 1.15
_PERIOD = 6
"""Steps timed at once: a multiple of the periods that methods alternate with."""


@dataclass(frozen=True)
class Timing:
    """One method against ERM; times are in steps of ERM."""

    name: str
    forwards: float
    backwards: float
    measured: float
    expected: float
    start: float
    """Making the algorithm with its first weights, which may be fitted to the training examples."""

    @property
    def ratio(self) -> float:
        """Measured by expected; NaN of a method that passes nothing."""
        return self.measured / self.expected if self.expected else math.nan


class Stepper:
    """A training run, ready to take more steps of its main phase."""

    def __init__(self, name: str, batch_size: int, *, short: bool = True, clip: bool = False) -> None:
        card = Catalogue().get("algorithm", name).card
        hparams = {**(card.rehearsal if short else {}), "batch_size": batch_size}
        setting = {"steps": 60, "backbone": small_clip()} if clip else {"steps": 60}
        include = Path(__file__).with_name("digits28.py")
        self.training: Training = training(
            include, algorithms=[name], datasets=["RotatedDigits28"], setting=setting, hparams=hparams
        )
        self.training.algorithm.train()
        self.minibatches: list[Minibatch] = _minibatches(self.training, _PERIOD)
        self.step = 0
        whole = self.minibatches
        self.minibatches = [[(x[:4], y[:4], at[:4], number) for x, y, at, number in minibatch] for minibatch in whole]
        self.take(WARM)
        self.minibatches = whole
        self.take(1)

    def begin(self) -> float:
        """Make the algorithm once more, as at the start of a run; returns the seconds."""
        start = now(self.training.device)
        self.training.context.algorithm(begin=True)
        return now(self.training.device) - start

    def take(self, steps: int) -> float:
        """Take so many steps; returns their mean seconds."""
        start = now(self.training.device)
        for _ in range(steps):
            if self.step == self.training.algorithm.survey_at:
                self.training._survey()
            self.training._step(self.step, self.minibatches[self.step % _PERIOD])
            self.step += 1
        return (now(self.training.device) - start) / steps


def now(device: torch.device) -> float:
    """Seconds on a clock: of the processor, or where there is a GPU of the wall, when it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def needs_clip(name: str) -> bool:
    """Whether a method is measured on a CLIP."""
    needs = needs_of(Catalogue().get("algorithm", name).card)
    return any(need.what in ("clip", "text_tower") for need in needs)


@cache
def small_clip() -> str:
    """The name of a CLIP of random weights for 28 x 28 images, whose folder stays until the process ends."""
    config = {**CONFIG, "vision_cfg": {"image_size": 28, "patch_size": 4, "width": 64, "head_width": 16, "layers": 3}}
    folder = Path(tempfile.mkdtemp(prefix="dgbench-clip-"))
    atexit.register(shutil.rmtree, folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = import_open_clip().CustomTextCLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return f"clip:{folder}"


def _minibatches(found: Training, count: int) -> list[Minibatch]:
    from dgbench.data.views import Minibatches

    source = Minibatches(found.data, found.run)
    return [source[step] for step in range(count)]


def backward_share(erm: Stepper, rounds: int) -> float:
    """The part of ERM's step that is not its forward pass."""
    algorithm, device = erm.training.algorithm, erm.training.device
    x = torch.cat([algorithm.network.prepare(x.to(device)) for x, *_ in erm.minibatches[0]])
    shares = []
    for _ in range(rounds):
        whole = erm.take(_PERIOD)
        start = now(device)
        for _ in range(_PERIOD):
            algorithm(x)
        shares.append(1 - (now(device) - start) / _PERIOD / whole)
    return statistics.median(shares)


def measure(name: str, erm: Stepper, share: float, batch_size: int, rounds: int, *, short: bool) -> Timing:
    """Time a method in turn with ERM."""
    card = Catalogue().get("algorithm", name).card
    method = Stepper(name, batch_size, short=short, clip=needs_clip(name))
    ratios = [method.take(_PERIOD) / erm.take(_PERIOD) for _ in range(rounds)]
    expected = card.forwards * (1 - share) + card.backwards * share
    start = method.begin() / erm.take(_PERIOD)
    return Timing(name, card.forwards, card.backwards, statistics.median(ratios), expected, start)


def report(timings: Sequence[Timing], *, markdown: bool) -> None:
    """Print a row a method."""
    if markdown:
        print("| algorithm | passes | expected | measured | measured / expected |\n|---|---|---:|---:|---:|")
    for t in timings:
        cells = (
            t.name,
            f"{t.forwards:g} + {t.backwards:g}",
            f"{t.expected:.2f}",
            f"{t.measured:.2f}",
            f"{t.ratio:.2f}" if t.expected else "",
        )
        print("| " + " | ".join(cells) + " |" if markdown else "  ".join(cell.ljust(14) for cell in cells), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--defaults", action="store_true", help="take no card's rehearsal, where it changes the cost")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    names = args.names or list(Catalogue().algorithms)
    timings, references = [], {}
    for name in names:
        clip = needs_clip(name)
        if clip not in references:
            erm = Stepper("ERM", args.batch_size, clip=clip)
            references[clip] = erm, backward_share(erm, args.rounds)
        erm, share = references[clip]
        timings.append(measure(name, erm, share, args.batch_size, args.rounds, short=not args.defaults))
        if not args.markdown:
            report(timings[-1:], markdown=False)
    if args.markdown:
        report(timings, markdown=True)
    print(f"starts, in steps of ERM: {', '.join(f'{t.name} {t.start:.2f}' for t in timings)}")
    slow = [t.name for t in timings if t.ratio > LIMIT]
    print(f"\n{machine()}; 5 domains x {args.batch_size} of 28 x 28")
    for clip, (erm, share) in references.items():
        network = "a small CLIP" if clip else "MNIST_CNN"
        took = f"{erm.take(_PERIOD) * 1000:.0f} ms a step"
        print(f"ERM on {network}, {erm.training.device}: {took}, {share:.2f} of it backward and optimizer")
    print(f"more than {LIMIT} times what is expected: {', '.join(slow) or 'none'}")


if __name__ == "__main__":
    main()
