"""List the optimizers that a setting may choose, without importing PyTorch or timm.

All but three are timm's, by timm's names and with timm's values for what a setting doesn't say;
`methods.optimizers` makes them. `tests/methods/test_optimizers.py` compares the list with the installed timm.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgbench.core.wording import unknown_name

_CAUTIOUS = "skipping the parts of an update that point against the gradient"
_CORRECTED = "with weight decay that falls with the square of the learning rate"

OPTIMIZERS: Mapping[str, str] = {
    "adam": "PyTorch's Adam",
    "adamw": "PyTorch's AdamW: Adam with decoupled weight decay",
    "sgd": "PyTorch's SGD with `momentum`, without Nesterov's step (timm's `momentum`)",
    "adabelief": "AdaBelief: Adam, scaled by how far gradients lie from their running mean",
    "adadelta": "Adadelta: steps scaled by running means of past steps and gradients",
    "adafactor": "Adafactor: Adam whose second moments are kept as row and column means",
    "adafactorbv": "Adafactor of Big Vision, with `momentum` in bfloat16",
    "adafactorbvc": f"`adafactorbv` {_CORRECTED}",
    "adagrad": "Adagrad: steps scaled by the sum of all squared gradients",
    "adamax": "Adamax: Adam under the largest gradient",
    "adamc": f"`adamw` {_CORRECTED}",
    "adamp": "AdamP: Adam without the radial part of steps of scale-invariant weights",
    "adamuon": "`muon`, scaled elementwise by second moments",
    "adamwlegacy": "timm's own AdamW",
    "adan": "Adan: Nesterov momentum with moments of differences of gradients",
    "adanw": "`adan` with decoupled weight decay",
    "adopt": "ADOPT: Adam that normalizes before it averages, and converges for any second beta",
    "adoptc": f"`adoptw` {_CORRECTED}",
    "adoptw": "`adopt` with decoupled weight decay",
    "cadafactor": f"`adafactor` with momentum, {_CAUTIOUS}",
    "cadafactorbv": f"`adafactorbv`, {_CAUTIOUS}",
    "cadafactorbvc": f"`adafactorbvc`, {_CAUTIOUS}",
    "cadamc": f"`adamc`, {_CAUTIOUS}",
    "cadamp": f"`adamp`, {_CAUTIOUS}",
    "cadamw": f"`adamw`, {_CAUTIOUS}",
    "cadan": f"`adan`, {_CAUTIOUS}",
    "cadanw": f"`adanw`, {_CAUTIOUS}",
    "cadopt": f"`adopt`, {_CAUTIOUS}",
    "cadoptc": f"`adoptc`, {_CAUTIOUS}",
    "cadoptw": f"`adoptw`, {_CAUTIOUS}",
    "clamb": f"`lamb`, {_CAUTIOUS}",
    "clambw": f"`lambw`, {_CAUTIOUS}",
    "claprop": f"`laprop`, {_CAUTIOUS}",
    "clion": f"`lion`, {_CAUTIOUS}",
    "clionc": f"`lionc`, {_CAUTIOUS}",
    "cmars": f"`mars`, {_CAUTIOUS}",
    "cnadamc": f"`nadamc`, {_CAUTIOUS}",
    "cnadamw": f"`nadamw`, {_CAUTIOUS}",
    "crmsproptf": f"`rmsproptf`, {_CAUTIOUS}",
    "csgdc": f"`sgdc`, {_CAUTIOUS}",
    "csgdp": f"`sgdp`, {_CAUTIOUS}",
    "csgdw": f"`sgdw`, {_CAUTIOUS}",
    "lamb": "LAMB: Adam with a rate for each layer, by the norms of weights and step",
    "lambc": "`lamb` with those rates clipped at 1",
    "lambcd": f"`lambw` {_CORRECTED}",
    "lambcw": "`lambc` with decoupled weight decay",
    "lambw": "`lamb` with decoupled weight decay",
    "laprop": "LaProp: Adam that normalizes gradients before it averages them",
    "lapropc": f"`laprop` {_CORRECTED}",
    "larc": "`lars` with rates clipped at 1",
    "lars": "LARS: SGD with a rate for each layer, by the norms of weights and gradient",
    "lion": "Lion: steps along the sign of a mean of momentum and gradient",
    "lionc": f"`lion` {_CORRECTED}",
    "madgrad": "MADGRAD: dual averaging with cube roots of summed squares, and `momentum`; adds 1e-6 to rates",
    "madgradw": "`madgrad` with decoupled weight decay",
    "mars": "MARS: AdamW on gradients with reduced variance",
    "muon": "Muon: orthogonalized momentum for matrices and kernels, AdamW for all else",
    "nadam": "PyTorch's NAdam: Adam with Nesterov momentum",
    "nadamc": f"`nadamw` {_CORRECTED}",
    "nadamlegacy": "timm's own NAdam",
    "nadamuon": "`adamuon` with Nesterov momentum, and NAdamW for all else",
    "nadamw": "NAdam with decoupled weight decay",
    "nesterov": "PyTorch's SGD with Nesterov `momentum` (timm's `sgd`)",
    "nesterovw": "`nesterov` with decoupled weight decay",
    "nlarc": "`larc` with Nesterov momentum",
    "nlars": "`lars` with Nesterov momentum",
    "nmuon": "`muon` with Nesterov momentum, and NAdamW for all else",
    "novograd": "NovoGrad: momentum of gradients that are normalized layer by layer",
    "novogradc": f"`novogradw` {_CORRECTED}",
    "novogradw": "`novograd` with decoupled weight decay",
    "radabelief": "`adabelief` with RAdam's rectified variance",
    "radam": "PyTorch's RAdam: Adam with a rectified variance in place of warm-up",
    "radamlegacy": "timm's own RAdam",
    "radamw": "`radam` with decoupled weight decay",
    "rmsprop": "PyTorch's RMSprop, with `momentum`",
    "rmsproptf": "RMSprop as TensorFlow has it, with `momentum`",
    "rmsproptfc": f"`rmsproptfw` {_CORRECTED}",
    "rmsproptfw": "`rmsproptf` with decoupled weight decay",
    "sgdc": f"`sgdw` {_CORRECTED}",
    "sgdp": "SGDP: SGD without the radial part of steps of scale-invariant weights",
    "sgdw": "SGD with Nesterov `momentum` and decoupled weight decay (as `nesterovw`)",
}
"""Name -> what it is."""

WITH_AMSGRAD = ("adam", "adamw")
"""Optimizers that `amsgrad` may change."""

_NVIDIA = "needs NVIDIA's apex, and `adam`, `adamw`, `sgd` are fused without it"
_BITSANDBYTES = "needs bitsandbytes, which is no part of dgbench"
_KRON = "needs opt_einsum, and random numbers that a checkpoint of a run doesn't hold"
LEFT_OUT: Mapping[str, str] = {
    "momentum": "is timm's name of `sgd`",
    "adahessian": "needs second derivatives in each step, which methods don't compute",
    **dict.fromkeys(("kron", "kronc", "kronw"), _KRON),
    **dict.fromkeys(("fusedadam", "fusedadamw", "fusedlamb", "fusednovograd", "fusedsgd"), _NVIDIA),
    **dict.fromkeys(("bnbadam", "bnbadam8bit", "bnbadamw", "bnbadamw8bit", "bnbademamix"), _BITSANDBYTES),
    **dict.fromkeys(("bnbademamix8bit", "bnblion", "bnblion8bit", "bnbsgd", "bnbsgd8bit"), _BITSANDBYTES),
    "lbfgs": "evaluates the loss several times a step, which methods write as one",
    "sparseadam": "is for sparse gradients, which no network has here",
    "asgd": "averages weights by itself: choose `sgd`, and an average in the row",
    "rprop": "has no weight decay, and is for steps on all examples at once",
}
"""Names of timm and PyTorch that are refused -> the reason, worded to follow the name."""


def optimizer_problem(name: str) -> str | None:
    """Return the problem with the name of an optimizer, with the nearest that exists, or None."""
    if name in OPTIMIZERS:
        return None
    known = name.lower().replace("_", "")
    if known in LEFT_OUT:
        return f"optimizer {name!r} {LEFT_OUT[known]}"
    return unknown_name("optimizer", name, OPTIMIZERS, "`dgbench list optimizers` describes them")
