from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from dgbench.core.errors import UserError
from dgbench.networks.backbones import timm_model
from dgbench.networks.layers import layers_above


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "vit_tiny_patch16_224"])
def test_layers_are_timms_with_the_classifier_as_the_last(name: str) -> None:
    with torch.device("meta"):
        featurizer, whole = timm_model(name, (3, 160, 160)), timm.create_model(name, num_classes=7)
    groups = param_groups_layer_decay(whole, layer_decay=0.7)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    expected = {n: scales[id(p)] for n, p in whole.named_parameters()}
    names = {id(p): n for n, p in featurizer.named_parameters()}
    found = {names[id(p)]: 0.7**above for p, above in layers_above(name, featurizer)}
    assert list(found) == list(names.values()), "every parameter, in its order"
    assert found == pytest.approx({n: expected[n] for n in found})
    assert max(found.values()) <= 1
    assert len(set(found.values())) > 3


def test_a_tensor_that_a_parametrization_replaces_stays_in_its_layer() -> None:
    network = timm_model("test_resnet", (3, 64, 64))
    convolution = network.layer1[0].conv1
    before = {
        n: above
        for (n, _), (_, above) in zip(network.named_parameters(), layers_above("test_resnet", network), strict=True)
    }
    nn.utils.parametrize.register_parametrization(convolution, "weight", nn.PReLU())
    after = dict(layers_above("test_resnet", network))
    assert after[convolution.parametrizations.weight.original] == before["layer1.0.conv1.weight"]
    assert len(after) == len(before), "the parametrization's own parameter is no layer's"


def test_another_network_is_refused() -> None:
    with pytest.raises(UserError, match="layer_decay needs a network of timm, and Sequential has no layer of test_vit"):
        dict(layers_above("test_vit", nn.Sequential(nn.Linear(2, 2))))
