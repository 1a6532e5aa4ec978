"""A method for `--include` whose runs last long enough to be interrupted."""

import os
import time

from dgbench.algorithms.erm import ERM


class Slow(ERM):
    """ERM that takes 10 ms for a step, or PAUSE seconds if that is set, however fast the machine is."""

    card = ERM.card.__class__(paper="none")

    def loss(self, batches):
        time.sleep(float(os.environ.get("PAUSE", 0.01)))
        return super().loss(batches)
