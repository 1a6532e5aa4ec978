from __future__ import annotations

import torch

from dgbench.conformance.worlds import worlds
from dgbench.core.data_cards import INPUTS, TASKS
from dgbench.methods.criteria import CRITERIA
from dgbench.networks.network import build_network


def test_each_kind_of_input_and_of_label_has_a_world_whose_network_reads_it() -> None:
    with worlds() as found:
        assert {world.kind for world in found} == set(INPUTS)
        assert {world.task for world in found} == set(TASKS)
        for world in found:
            x, y = world.material(1).seen[0]
            assert x.shape[1:] == world.shape
            logits = build_network(world.shape, world.outputs, world.setting)(x)
            assert CRITERIA[world.task].mean(logits, y).isfinite()
            assert logits.dtype == torch.float32


def test_the_needs_of_methods_tell_worlds_apart() -> None:
    with worlds() as found:
        lacks = {world.name: world.lacks for world in found}
    assert not {"images", "classes", "real_inputs"} & lacks["images"]
    assert "images" in lacks["vectors"]
    assert "real_inputs" not in lacks["vectors"]
    assert {"real_inputs", "batch_norm"} & lacks["graphs"] == {"real_inputs"}
    assert {"classes", "own_classifier"} <= lacks["sequences (tokens)"]
    assert {"classes", "real_inputs"} & lacks["texts"] == {"real_inputs"}
