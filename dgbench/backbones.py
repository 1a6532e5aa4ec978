"""Which network a name stands for on inputs of some shape; `networks` builds them. Imports no torch by itself."""

from __future__ import annotations

from collections.abc import Sequence

from dgbench.errors import UserError, unknown

ALIASES = ("auto", "domainbed-2020", "domainbed-2024")
SMALL = ("MLP", "MNIST_CNN", "SmallCNN")
_LARGE = {
    "auto": "resnet50.tv_in1k",
    "domainbed-2020": "resnet50.tv_in1k",
    "domainbed-2024": "resnet50.ram_in1k",
}


def check_backbone(name: str) -> None:
    """Raise `UserError` with the nearest if no network has that name; only for others than ours is timm imported."""
    if name in (*ALIASES, *SMALL, *_LARGE.values()):
        return
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise UserError(unknown("backbone", name, [*SMALL, *timm.list_models()]))


def resolve_backbone(name: str, input_shape: Sequence[int]) -> str:
    """The network's own name; an alias is resolved by the shape of an input, as DomainBed does.

    Vectors: `MLP`. 28 x 28: `MNIST_CNN`. Other images under 112 pixels: `SmallCNN`. Larger: the alias's ResNet-50.
    """
    if name not in ALIASES:
        return name
    if len(input_shape) == 1:
        return "MLP"
    if tuple(input_shape[1:]) == (28, 28):
        return "MNIST_CNN"
    return "SmallCNN" if min(input_shape[1:]) < 112 else _LARGE[name]
