"""What a backbone starts from: refused before anything is trained, fetched before any run starts.

Imports torch, and networks, which import it, only inside functions: most plans need none.
"""

from __future__ import annotations

from collections.abc import Sequence

from dgbench.core.setting import Setting
from dgbench.networks.backbones import SMALL, check_inputs, check_weights, is_language_model
from dgbench.networks.hub import timm_file
from dgbench.networks.weights import THE_FILE, match_tensors, read_weights_file, with_weights_file
from dgbench.networks.wheels import WHEELS, wheel_file


def check_start(setting: Setting, input_shape: Sequence[int], path: str, kind: str = "") -> None:
    """Refuse, before anything is trained, a (resolved) backbone that can't take such inputs or start as it is said to.

    `path` is the file of the setting's weights on this machine, `kind` what the inputs are (see `check_inputs`).
    Whether timm's hub answers is not asked.
    """
    name = setting.backbone
    check_inputs(name, input_shape, kind)
    if setting.weights:
        tensors = read_weights_file(with_weights_file(setting, path))
        import torch

        from dgbench.networks.network import make_featurizer

        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            featurizer, _ = make_featurizer(name, input_shape)
        match_tensors(featurizer, tensors, THE_FILE, input_shape[0])
    elif setting.pretrained and name in WHEELS:
        wheel_file(name)
    elif setting.pretrained:
        check_weights(name)


def ensure_weights(setting: Setting, input_shape: Sequence[int]) -> None:
    """Download the files of a (resolved) backbone from its hub, unless this machine has them.

    Raises `UserError` with the ways out if it can't be had.
    """
    name, pretrained = setting.backbone, setting.pretrained and not setting.weights
    if name in SMALL:
        return
    if is_language_model(name):
        from dgbench.networks.language import language_model  # which imports torch

        language_model(name, input_shape, pretrained=pretrained)
    elif pretrained and name not in WHEELS:
        timm_file(name)
