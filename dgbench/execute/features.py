"""Compute the features of a frozen network once, for all runs of a sweep that share it, and map them into memory.

A featurizer that never trains gives an example the same features in every step, evaluation and run. With the setting
`stored_features` each domain's are written to `features/KEY/NUMBER.npy` in the sweep's folder, where KEY stands for all
that decides them, and runs read these files in place of inputs.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from dgbench.core.data_cards import GENERATED
from dgbench.core.run import Run
from dgbench.core.wording import format_duration
from dgbench.data.dataset import Dataset
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import examples_per_batch
from dgbench.networks import weights
from dgbench.networks.network import Network
from dgbench.store.files import write_atomic
from dgbench.store.folder import Store
from dgbench.store.lease import claim
from dgbench.store.run_folder import CANCEL

log = logging.getLogger(__name__)

FOLDER = "features"
"""Folder of stored features, in the sweep's folder."""
_WAIT = 0.5
"""Seconds between two looks at features that another process computes."""


@dataclass(frozen=True)
class FeatureStore:
    """The stored features of a sweep, as a training run's network gives them."""

    store: Store
    """The sweep's folder."""
    trained: Run
    """The training run."""
    dataset: Dataset
    data: ViewData
    """The run's views; its domains are those whose features are read."""
    device: torch.device
    """Where features are computed."""
    interruptible: Callable[[Iterable[Any]], Iterator[Any]]
    """Passes items on until the run is asked to stop."""

    def read(self, network: Network) -> Mapping[str, NDArray[np.float32]]:
        """Return the features of all domains that the run reads; compute those that no run of the sweep has computed.

        Args:
            network: The run's, with initial weights; its featurizer doesn't train.

        Returns:
            Domain -> features (n, num_features) of its examples, mapped from files.

        Raises:
            Stopped: The run was asked to stop.
        """
        facts = orjson.dumps(self._facts(network), option=orjson.OPT_SORT_KEYS)
        folder = self.store.root / FOLDER / hashlib.sha256(facts).hexdigest()[:16]
        found = {}
        for domain in self.data.examples:
            path = folder / f"{self.dataset.domains.index(domain)}.npy"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                write_atomic(folder / "about.json", facts)
                self._ensure(network, domain, path)
            # An ordinary array over the mapping: np.memmap runs Python code for every slice.
            found[domain] = np.asarray(np.load(path, mmap_mode="r"))
        return found

    def _facts(self, network: Network) -> Mapping[str, Any]:
        """Return all that decides the features of a domain's examples."""
        setting = self.trained.setting
        return {
            "dataset": self.trained.dataset,
            # Files may change between two launches of a sweep.
            "fingerprint": self.dataset.fingerprint(),
            # Only these data differ from trial to trial.
            "data_seed": self.trained.data_seed if GENERATED in self.dataset.card.traits else None,
            "input_shape": list(self.dataset.input_shape),
            "interpolation": setting.interpolation,
            "cache": setting.cache,
            "backbone": setting.backbone,
            "weights": network.started_from or weights.digest(network.featurizer.state_dict()),
            "normalizes": network.normalizes,
            "precision": setting.precision,
            "channels_last": setting.channels_last,
            "zero_shot": setting.classifier_init == "zero_shot",
        }

    def _ensure(self, network: Network, domain: str, path: Path) -> None:
        """Compute the features of one domain, or wait while another process does."""
        while not path.exists():
            if lease := claim(path.parent, path, self.store.root / CANCEL, self.store.ttl):
                with lease:
                    started = time.monotonic()
                    features = self._computed(network, domain)
                    lease.confirm()
                    write_atomic(path, partial(np.save, arr=features))
                took = format_duration(time.monotonic() - started)
                log.info("computed the features of %s's %d examples in %s", domain, len(features), took)
            else:
                # Between two looks the run itself may be asked to stop.
                for _ in self.interruptible([None]):
                    time.sleep(_WAIT)

    @torch.no_grad()
    def _computed(self, network: Network, domain: str) -> NDArray[np.float32]:
        """Return the features of all examples of a domain, (n, num_features), in its order."""
        examples, size = self.data.examples[domain], examples_per_batch(self.data)
        network.eval()
        found: NDArray[np.float32] | None = None
        for start in self.interruptible(range(0, len(examples.labels), size)):
            chosen = np.arange(start, min(start + size, len(examples.labels)))
            x = network.prepare(torch.from_numpy(examples.batch(chosen, None)).to(self.device))
            # A method's network may add to these what changes in training.
            features = Network.features(network, x).float().cpu().numpy()
            if found is None:
                found = np.empty((len(examples.labels), *features.shape[1:]), np.float32)
            found[chosen] = features
        assert found is not None, "no domain is empty"
        return found
