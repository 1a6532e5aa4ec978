"""The Slurm engine on a real Slurm, with two nodes that are emulated on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import slurm_cluster
from tests.support.slurm_cluster import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing() or "-"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with slurm_cluster.running() as found:
        yield found


def test_the_cluster_has_two_nodes_that_hand_out_gpus(cluster: Cluster) -> None:
    shown = cluster.call("srun", "--nodes=2", "--gres=gpu:1", "sh", "-c", "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES")
    assert sorted(shown.splitlines()) == ["n1 0", "n2 0"]
