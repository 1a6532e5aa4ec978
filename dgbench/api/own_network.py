"""Take a network that a notebook has in memory apart: its class, which every process can build, and its weights.

Imports torch only inside functions; a process that has such a network has imported it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from dgbench.core.errors import UserError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WAY_OUT = "write a class whose __init__ makes all of it, and give that, with weights by backbone_weights"


def weights_of(module: Any) -> bytes:
    """Return the weights of a network as the content of a safetensors file.

    Args:
        module: A `torch.nn.Module` that its class makes again, but for the weights.

    Raises:
        UserError: It is more than its class and weights, so that other processes would train another network.
    """
    from safetensors.torch import save

    name = type(module).__name__
    if difference := next(_differences(module, _made_again(module)), ""):
        raise UserError(f"backbone: this {name} is not what {name}() makes: {difference}; {_WAY_OUT}")
    if _never_trained(module):
        raise UserError(
            f"backbone: batch norm of this {name} has no statistics yet, so its weights are random: give the class "
            f"(backbone={name}), and each trial draws its own"
        )
    return save({key: tensor.detach().cpu().clone().contiguous() for key, tensor in module.state_dict().items()})


def _made_again(module: Any) -> Any:
    """Build the class of a network anew, as planning does; raise `UserError` if it needs arguments."""
    import torch

    cls = type(module)
    taken = [p for p in inspect.signature(cls).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    known = dict.fromkeys(("in_channels", "in_chans"), _first_width(module))
    if lacking := [p.name for p in taken if p.default is p.empty and p.name not in known]:
        facts = getattr(module, "pretrained_cfg", None)
        timms = facts and facts.get("architecture")
        way = f"give timm's name of it, backbone={timms!r}, or " if timms else ""
        raise UserError(f"backbone: {cls.__name__} needs {', '.join(lacking)} to be built: {way}{_WAY_OUT}")
    with torch.random.fork_rng(devices=[]):
        return cls(**{p.name: known[p.name] for p in taken if p.name in known})


def _first_width(module: Any) -> int:
    """Return the channels that the first convolution or linear layer reads; 0 if there is neither."""
    widths = (getattr(part, "in_channels", getattr(part, "in_features", 0)) for part in module.modules())
    return next((width for width in widths if isinstance(width, int) and width), 0)


def _differences(one: Any, other: Any) -> Iterator[str]:
    """Yield the differences of two networks of a class, other than in the values of their weights."""
    parts, others = dict(one.named_modules()), dict(other.named_modules())
    yield from (f"it has no {name}" if name in others else f"it has {name}" for name in parts.keys() ^ others.keys())
    for name, part in parts.items():
        where = name or "the module itself"
        if type(part) is not type(others[name]):
            yield f"{where} is {type(part).__name__}, not {type(others[name]).__name__}"
        if any(getattr(part, hooks) and not getattr(others[name], hooks) for hooks in _HOOKS):
            yield f"{where} has hooks"
        mine, its = _plain(part), _plain(others[name])
        yield from (f"{where} has another {key}" for key in mine.keys() | its.keys() if not _same(mine, its, key))
    mine, its = one.state_dict(), other.state_dict()
    yield from (f"{key} has another shape" for key in mine if key in its and mine[key].shape != its[key].shape)
    yield from (f"it has no {key}" if key in its else f"it has {key}" for key in mine.keys() ^ its.keys())
    learns = {key: parameter.requires_grad for key, parameter in other.named_parameters()}
    for key, parameter in one.named_parameters():
        if parameter.requires_grad != learns[key]:
            yield f"{key} {'learns' if parameter.requires_grad else 'does not learn'}"


def _plain(part: Any) -> Mapping[str, Any]:
    """Return the attributes of a module other than tensors, parts and the mode."""
    return {key: value for key, value in vars(part).items() if not key.startswith("_") and key != "training"}


def _same(mine: Mapping[str, Any], its: Mapping[str, Any], key: str) -> bool:
    """Return whether two attributes are equal: by value, or as objects of one class with equal attributes."""
    import torch

    a, b = mine.get(key), its.get(key)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    try:
        return bool(a == b) or (type(a) is type(b) and vars(a) == vars(b))
    except Exception:  # of values that can't be compared, or have no attributes
        return False


def _never_trained(module: Any) -> bool:
    """Return whether a network has batch norm, and all of its running statistics are those of new layers."""
    from dgbench.networks.norms import batch_norms, tracks_statistics  # imports torch

    norms = [norm for norm in batch_norms(module) if tracks_statistics(norm)]
    return bool(norms) and not any(norm.get_buffer("running_mean").any() for norm in norms)
