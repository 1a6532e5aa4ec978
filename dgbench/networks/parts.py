"""Find parts of a featurizer: the modules that its author wrote, and the layers that read the input."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from dgbench.networks.backbones import EMBEDDINGS
from dgbench.networks.clip import ClipFeaturizer


def children_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the children of a module, without those that PyTorch adds where weights are parametrized."""
    added = module.parametrizations if is_parametrized(module) else None
    return (child for child in module.children() if child is not added)


def modules_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and all modules in it in torch's order, without those that compute parametrized weights."""
    seen = set[nn.Module]()

    def within(part: nn.Module) -> Iterator[nn.Module]:
        if part not in seen:
            seen.add(part)
            yield part
            for child in children_of(part):
                yield from within(child)

    return within(module)


def layers_that_read(featurizer: nn.Module) -> list[nn.Module]:
    """Return the layers of a featurizer that read the input; none where they are not known."""
    layered = featurizer.visual if isinstance(featurizer, ClipFeaturizer) else featurizer
    tables = [module for module in modules_of(featurizer) if isinstance(module, nn.Embedding)]
    if tables:
        return list[nn.Module](tables)
    if hasattr(featurizer, "feature_info"):
        children = dict(layered.named_children())
        return [children[name] for name in EMBEDDINGS if name in children]
    weights: list[nn.Module] = [m for m in modules_of(featurizer) if isinstance(m, nn.Linear | nn.Conv2d)]
    return weights[:1]
