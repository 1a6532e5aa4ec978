"""Check the weights that a backbone starts from before anything is trained, and download them before any run starts.

Imports torch, and networks, which import it, only inside functions: most plans need none.
"""

from __future__ import annotations

from collections.abc import Sequence

from dgbench.core.errors import UserError
from dgbench.core.setting import Setting
from dgbench.networks.backbones import check_inputs, check_weights, is_language_model, is_timms
from dgbench.networks.clip_names import import_open_clip, is_clip
from dgbench.networks.hub import clip_file, timm_file
from dgbench.networks.own import inspect_own, is_own
from dgbench.networks.weights import THE_FILE, match_tensors, read_weights_file, with_weights_file
from dgbench.networks.wheels import WHEELS, wheel_file


def check_start(setting: Setting, input_shape: Sequence[int], path: str, kind: str = "") -> None:
    """Raise `UserError` if the setting's backbone can't take the inputs, or can't start from the weights it asks for.

    Nothing is downloaded: whether timm's hub has the weights is left to `ensure_weights`.

    Args:
        setting: Resolved: its backbone is no alias.
        input_shape: Shape of one input, without the batch axis.
        path: The file of the setting's `weights` on this machine; empty if it names none.
        kind: Kind of the inputs, see `check_inputs`.
    """
    name = setting.backbone
    check_inputs(name, input_shape, kind)
    if setting.lora_rank and not is_language_model(name):
        _check_low_rank(setting, input_shape)
    if setting.weights:
        tensors = read_weights_file(with_weights_file(setting, path))
        import torch

        from dgbench.networks.network import make_featurizer

        # Shapes suffice, so the network is built without memory, and its draws leave the caller's generator alone.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            featurizer, _ = make_featurizer(name, input_shape)
        match_tensors(featurizer, tensors, THE_FILE, input_shape[0])
    elif setting.pretrained and name in WHEELS:
        wheel_file(name)
    elif setting.pretrained:
        check_weights(name)
    elif is_own(name) and inspect_own(name, tuple(input_shape)).trained:
        raise UserError(f"pretrained is false, and backbone {name!r} brings weights of its own: leave it out")


def _check_low_rank(setting: Setting, input_shape: Sequence[int]) -> None:
    """Raise `UserError` if no layers of the setting's backbone can have the low-rank changes that it asks for."""
    import torch

    from dgbench.networks.low_rank import find_targets
    from dgbench.networks.network import make_featurizer

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        find_targets(make_featurizer(setting.backbone, input_shape)[0], setting)


def ensure_weights(setting: Setting, input_shape: Sequence[int]) -> None:
    """Download the files of the setting's backbone from their hub, unless this machine has them.

    Args:
        setting: Resolved: its backbone is no alias.
        input_shape: Shape of one input, without the batch axis.

    Raises:
        UserError: They can't be had, with the ways out; or a language model, whose layers no other step knows before
            runs start, lacks those that `lora_targets` names.
    """
    name, pretrained = setting.backbone, setting.pretrained and not setting.weights
    if is_language_model(name):
        from dgbench.networks.language import language_model  # which imports torch

        featurizer, _ = language_model(name, input_shape, pretrained=pretrained)
        if setting.lora_rank:
            from dgbench.networks.low_rank import find_targets

            find_targets(featurizer, setting)
    elif pretrained and is_clip(name):
        clip_file(name)
    elif pretrained and is_timms(name) and name not in WHEELS:
        timm_file(name)


def import_libraries(name: str, *, low_rank: bool) -> None:
    """Import the libraries that a network is built with, so that processes which are forked afterwards have them.

    Args:
        name: Of the network; no alias.
        low_rank: Whether it trains low-rank changes.
    """
    if is_timms(name):
        import timm  # noqa: F401
    if is_clip(name):
        import_open_clip()
    if is_language_model(name):
        import transformers

        # Attributes of the package are imported when they are first read.
        _ = transformers.AutoConfig, transformers.AutoModel
    if low_rank:
        # After open_clip, which must not find the transformers that peft imports.
        import peft  # noqa: F401


def weight_bytes(name: str, input_shape: Sequence[int], outputs: int) -> int:
    """Return the bytes of a network's weights with a linear classifier, without making them.

    Args:
        name: Of the network; no alias.
        input_shape: Shape of one input, which it takes, without the batch axis.
        outputs: Logits of an example.

    Returns:
        The number; 0 for language models, whose sizes only their hub knows.
    """
    if is_language_model(name):
        return 0
    import torch

    from dgbench.networks.network import make_featurizer

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        featurizer, width = make_featurizer(name, input_shape)
        whole = [*featurizer.state_dict().values(), *torch.nn.Linear(width, outputs).state_dict().values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in whole)
