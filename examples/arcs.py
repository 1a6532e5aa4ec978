"""A data set of generated points. Images in folders need no file: `--datasets folder:/data/mine` reads them.

dgbench train --include examples/arcs.py --algorithm ERM --dataset Arcs --test 60
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from dgbench import ArrayExamples, Dataset, DatasetCard, Examples


class Arcs(Dataset):
    """Two interleaved arcs of noisy points; the domains differ in the angle that they are rotated by."""

    card = DatasetCard(
        source="generated",
        licence="none",
        input_shape=(2,),
        input_kind="vectors",  # or images, of input_shape (channels, height, width): uint8, or float32 in [0, 1]
        domains=("0", "30", "60"),
        classes=("upper", "lower"),
        counts={"0": 400, "30": 400, "60": 400},
        traits=("small_images",),  # small networks trained from nothing: learning rates are higher
        steps=300,
        checkpoint_freq=50,
    )

    def examples(self, domain: str, seed: int) -> Examples:
        """Return inputs (n, 2) and labels (n,) of a domain, in a fixed order; no draw depends on `seed`."""
        # To read files: np.load(self.data_dir / self.card.folder / f"{domain}.npy"), with `folder` in the card.
        rng = np.random.default_rng(int(domain))
        y = np.arange(self.card.counts[domain]) % 2
        angle = rng.uniform(0, np.pi, len(y)) + np.pi * y
        points = np.stack([np.cos(angle) + y, np.sin(angle) + y / 2], axis=1) + rng.normal(0, 0.1, (len(y), 2))
        turn = np.deg2rad(int(domain))
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return ArrayExamples((points @ rotation.T).astype(np.float32), y)

    def counts(self) -> Sequence[int]:
        """Return the number of examples of each domain."""
        return [self.card.counts[domain] for domain in self.domains]

    def fingerprint(self) -> str:
        """Return a hash of the data: equal on two machines exactly if results may be compared."""
        return hashlib.sha256(b"Arcs, version 1").hexdigest()
