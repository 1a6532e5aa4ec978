"""Define algorithms: modules that train one model on minibatches, one from each training domain.

An author extends `Algorithm`, declares a `card`, and writes either `loss`, the scalar to minimize, or `update`, a whole
step, where one descent along one gradient is not enough (Fish, DANN). Every other hook has a default. A step rule
(`methods.rule`: SAM, TRAM) may take the steps of any algorithm that writes `loss`.

The engine (`dgbench.execute`) owns the loop, the data, the random numbers, evaluation and saving:

    network = Cls.make_network(...)                   weights from torch's generator, which the run seeds
    algorithm = Cls(network, hparams, task, setting)  calls build(), then build_optimizers()
    for step in range(setting.steps):
        algorithm.step = step
        algorithm.update(batches)                     one Batch of each training domain
        after some steps: forward() on clean views in evaluation mode, then validated(score)

An algorithm never sees a held-out domain. Before each step Python's, numpy's and torch's global generators are seeded
from the run and the step, so a method may draw from any of them; a run that resumes from a checkpoint then repeats one
that was never interrupted, provided that `training_state` holds all that the method remembers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dgbench.core.cards import AlgorithmCard
from dgbench.core.setting import Setting
from dgbench.methods.batch import Batch, Task
from dgbench.methods.criteria import CRITERIA
from dgbench.methods.hparams import Hparams as Hparams
from dgbench.methods.optimizers import make_optimizer, prepare_step
from dgbench.methods.passes import Passes
from dgbench.methods.rates import rates_of, split_by_rate
from dgbench.networks.low_rank import fixed_weights
from dgbench.networks.network import Network, build_network
from dgbench.networks.norms import batch_norms

log = logging.getLogger(__name__)


class Algorithm(nn.Module):
    """Base class of algorithms. One instance is the model of one run, with all that trains it.

    The engine makes it, moves it to the run's device and, where a run resumes, loads its checkpoint. A subclass
    declares `card`, if need be `Hparams`, and overrides `loss` or `update`; of the hooks in the first section below it
    overrides those that it needs. Methods of the second section are tools to call. Those of the third are the engine's:
    do not override them.

    What a method remembers between steps must be a parameter, a buffer, an optimizer that is an attribute by itself
    (not an item of a list), or in what `get_extra_state` returns. Anything else is lost when a run resumes, and a
    tensor that is neither parameter nor buffer stays on the CPU.

    The class's docstring is the method's documentation: `list` prints its first line.

    Args:
        network: What `make_network` returned, on the device, with its initial weights.
        hparams: An instance of the class's `Hparams`.
        task: Facts about the training domains.
        setting: The run's setting, resolved: with the backbone's own name, and every length that the data set decides.
    """

    card: ClassVar[AlgorithmCard]
    """Facts that planning and `list` read, and that `dgbench check` tests."""
    Hparams: ClassVar[type[Hparams]] = Hparams
    """The class of the hyperparameters."""

    def __init__(self, network: Network, hparams: Any, task: Task, setting: Setting) -> None:
        super().__init__()
        self.network = network
        self.hparams = hparams
        self.task = task
        self.setting = setting
        self.step = 0
        """Index of the current step, from 0: the steps done before it. The loop sets it before each `update`."""
        self.lr_scale = 1.0
        """Factor on every learning rate beside the schedule, from averages that feed back. Set by the loop."""
        self.survey_at = -1
        """Step before which the loop calls `survey`; -1: never. Set it in `build`."""
        self.validate_at = -1
        """Step before which the loop calls `validated`, evaluated or not; -1: none. Set it in `build`."""
        self.passes = Passes(self.card.draws)
        """The passes of the current step over `loss`."""
        # Subclasses hook in by `build`, not by an `__init__` of their own: optimizers must take the parameters last.
        self.build()
        self.build_optimizers()

    # What a method may override.

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """Build the run's network, with initial weights drawn from torch's global generator.

        Called before the instance exists, with that generator seeded by the run, and by `new_network`. Override it for
        a network of another form, such as one that reads more channels; call `build_network` for its parts.

        Args:
            input_shape: Shape of one input, without the batch axis.
            num_classes: Logits of an example.
            hparams: An instance of the class's `Hparams`.
            setting: The run's setting, resolved.
        """
        return build_network(input_shape, num_classes, setting, hparams.resnet_dropout)

    def build(self) -> None:
        """Create further modules, buffers and constants, once, before the optimizers take the parameters.

        `network`, `hparams`, `task` and `setting` are set. The network is on the device already; what is made in this
        hook may lie on the CPU, for the engine moves the whole module afterwards. The default makes nothing.
        """

    def build_optimizers(self) -> None:
        """Create the optimizers by `new_optimizer`, each as an attribute; called after `build`.

        The default makes one, `optimizer`, over all parameters of the module.
        """
        self.optimizer = self.new_optimizer(self.parameters())

    def parameter_rates(self, lr: float) -> dict[nn.Parameter, float]:
        """Return the full learning rates of parameters that learn at another rate than an optimizer's, `lr`.

        They are those of the network's layers and of the classifier (`layer_decay`, `lr_head`), in every network of the
        method. Override it where an optimizer steps something in place of them, such as copies.
        """
        networks = (module for module in self.modules() if isinstance(module, Network))
        return rates_of(networks, self.setting, lr, self.hparams.lr_head)

    def before_step(self) -> None:
        """Prepare a step, once and before its first pass over `loss`: drop moments, change schedules.

        The default does nothing.
        """

    def loss(self, batches: Sequence[Batch]) -> Tensor | Mapping[str, Tensor]:
        """Return the scalar to minimize in this step; the default `update` descends its gradient.

        A step rule evaluates it several times in a step, at other weights. So change no state in it directly but by
        `defer`, and let the card say `draws` if it draws random numbers.

        Args:
            batches: One minibatch of each training domain, ascending by `domain`.

        Returns:
            A scalar with a graph, on the device; or name -> scalar for several to log, of which `loss` is minimized.
        """
        raise NotImplementedError(f"{type(self).__name__} must write loss() or update()")

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor | float]:
        """Change the model by one step, and return the scalars to log.

        The loop calls it once a step, in training mode and with gradients enabled. Override it where a step is more
        than one descent of `loss`; no step rule can then take it.

        Args:
            batches: One minibatch of each training domain, ascending by `domain`.

        Returns:
            Name -> scalar on the device, a tensor of one number; the loop averages each between evaluations, over the
            steps that returned it, so names may differ from step to step, and `{}` logs nothing. A graph is dropped.
            Plain numbers, as `loss.item()` gives, work too, but make each step wait until the device has computed them.
        """
        self.begin_step()
        logged = self.backward(batches)
        self.optimizer.step()
        self.passes.finish()
        return logged

    def rate_factor(self, optimizer: Optimizer) -> float:
        """Return a factor on the learning rates of one of its optimizers in step `step`, beside the setting's schedule.

        Override it for a schedule of the method's own. A function of the step alone resumes by itself. The default: 1.
        """
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of inputs as in `Batch.x`; of sequences (B, length, classes).

        Evaluation calls it in evaluation mode without gradients, also with averaged or merged tensors put in place of
        `predictor_tensors` for the call: so read weights from modules only, and keep no copies. Each row must depend on
        its own input alone, unless the card says `transductive`.
        """
        logits: Tensor = self.network(x)
        return logits

    def predictor_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that `forward` reads in evaluation mode, by their names in the module's state.

        They are what is saved, averaged and merged. They are the live tensors, not copies. Override this where
        `forward` predicts by more than `network`, or by something else (a moving average).
        """
        return {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return the part of `predictor_tensors` that training continues from, which an average may set (`feedback`).

        Override this where `forward` predicts by other tensors than the optimizers step.
        """
        return self.predictor_tensors()

    def validated(self, accuracy: float) -> None:
        """Receive the mean validation score of the training domains: after evaluations, and before step `validate_at`.

        Called in evaluation mode. It may come twice for one step, as where a run resumes there. The default ignores it.

        Args:
            accuracy: The unweighted mean over the training domains' `out` parts: accuracy in [0, 1], or the score that
                selects on this data set.
        """

    def survey(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Sequence[Tensor]:
        """Inspect the logits of all training examples, and return how often each is drawn from now on.

        Called once, in evaluation mode, before step `survey_at`.

        Args:
            logits: For each training domain (n, classes), on the CPU, of its examples without augmentation, in the
                order of `Batch.positions`.
            labels: For each training domain (n,), in the same order.

        Returns:
            For each training domain (n,), int64: how many copies of each example minibatches are drawn from.
        """
        raise NotImplementedError(f"{type(self).__name__} sets survey_at, so it must write survey()")

    # What a method may call.

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of a minibatch: cross-entropy for classes, for other labels their entry in `CRITERIA`.

        Args:
            logits: (B, classes), as `forward` returns them.
            y: Labels as in `Batch.y`.
        """
        return CRITERIA[self.task.kind].mean(logits, y)

    def defer(self, write: Callable[[], object]) -> None:
        """Let `loss` change state: call `write` when the step is done, once however often the step evaluates `loss`.

        Args:
            write: A change of buffers or attributes, called without gradients after the optimizer's step.
        """
        self.passes.defer(write)

    def descend(self, loss: Tensor) -> None:
        """Take one step of `optimizer` along the gradient of `loss`, which is freed."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def new_optimizer(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float | None = None,
        weight_decay: float | None = None,
        betas: tuple[float, float] | None = None,
    ) -> Optimizer:
        """Return a new optimizer of the kind that the setting names, over the parameters that require a gradient.

        Its steps follow the setting's schedule, `lr_scale` and gradient clipping by themselves, however many of them
        `update` takes.

        Args:
            parameters: Parameters, or groups of them as torch's optimizers take; of a group the options count.
            lr: Full learning rate of those that `parameter_rates` doesn't name; None: the run's.
            weight_decay: None: the run's.
            betas: Of Adam and others that take two, which the rest ignore; None: the optimizer's own.
        """
        lr = self.hparams.lr if lr is None else lr
        decay = self.hparams.weight_decay if weight_decay is None else weight_decay
        parameters = split_by_rate(parameters, self.parameter_rates(lr))
        optimizer = make_optimizer(self.setting, parameters, lr, decay, betas)
        # A hook of the optimizer, since only the method knows when, and how often in a step, it steps which optimizer.
        optimizer.register_step_pre_hook(self._before_step)
        return optimizer

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        """Set the learning rates of a step, and clip the gradients of this optimizer's parameters."""
        factor = self.lr_scale * self.setting.lr_factor(self.step) * self.rate_factor(optimizer)
        prepare_step(optimizer, factor, self.setting.clip_norm)

    def new_network(self, input_shape: Sequence[int] | None = None) -> Network:
        """Build a further network of the run's kind with fresh weights from torch's generator, on the run's device.

        It takes inputs as in `Batch.x`.

        Args:
            input_shape: Shape of one input; None: the run's.
        """
        network = self.make_network(
            input_shape or self.task.input_shape, self.task.num_classes, self.hparams, self.setting
        )
        # The inputs of a batch have passed through `prepare` of the run's own network, which normalized them.
        network.normalizes = False
        return network.to(next(self.network.buffers()).device)

    def joint_loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean criterion over all examples of all domains, in one forward pass."""
        return self.criterion(self(torch.cat([b.x for b in batches])), torch.cat([b.y for b in batches]))

    def domain_losses(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean criterion of each domain (E,), in one forward pass over all of them.

        Where batch norm is live, it normalizes by the mixture of the domains, as in DomainBed's VREx. Methods for which
        DomainBed passes domain by domain (EQRM, GroupDRO) use `domain_features`.
        """
        logits = self(torch.cat([b.x for b in batches])).split([len(b.y) for b in batches])
        return torch.stack([self.criterion(z, b.y) for z, b in zip(logits, batches, strict=True)])

    def domain_features(self, batches: Sequence[Batch]) -> list[Tensor]:
        """Return the classifier's input for each domain: features (B, num_features) after dropout, one tensor a domain.

        For methods that look at the domains one by one. All domains pass in one forward, except where batch norm is
        live: there each passes by itself, so that each is normalized by its own statistics.
        """
        network = self.network
        if any(norm.training for norm in batch_norms(network.featurizer)):
            return [network.dropout(network.features(b.x)) for b in batches]
        features = network.dropout(network.features(torch.cat([b.x for b in batches])))
        return list(torch.split(features, [len(b.y) for b in batches]))

    # What the engine and step rules call.

    def begin_step(self) -> None:
        """Begin a step: call `before_step`, and note the state of the generators for later passes."""
        self.before_step()
        self.passes.begin(next(self.network.buffers()).device)

    def objective(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Evaluate `loss`, and return name -> scalar with `loss` among the names, whichever form it has."""
        found = self.loss(batches)
        return {"loss": found} if isinstance(found, Tensor) else found

    def backward(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Compute the gradient that the optimizer steps by, into `.grad`, and return the scalars to log.

        Step rules override it.

        Args:
            batches: One minibatch of each training domain.
        """
        parts = self.objective(batches)
        self.optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in parts.items()}

    def logged_update(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Call `update`, and return its scalars as tensors without a graph; warn once if it returns plain numbers."""
        logged = self.update(batches)
        if numbers := sorted(name for name, value in logged.items() if not isinstance(value, Tensor)):
            _warn_of_numbers(type(self).__name__, ", ".join(numbers))
        return {name: v.detach() if isinstance(v, Tensor) else torch.tensor(float(v)) for name, v in logged.items()}

    def training_state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, apart from `step` and the data; the tensors are live.

        Left out is what `Network.freeze` excluded from training, and the weights that low-rank changes are added to: an
        instance that is built for the same run has both.
        """
        frozen = self._frozen()
        return {
            "module": {name: tensor for name, tensor in self.state_dict().items() if name not in frozen},
            "optimizers": {name: o.state_dict() for name, o in vars(self).items() if isinstance(o, Optimizer)},
        }

    def _frozen(self) -> dict[str, Tensor]:
        """Return the tensors of the network that never change in training, by their names in the module's state."""
        found = {f"network.{name}": tensor for name, tensor in fixed_weights(self.network).items()}
        # A module may have several names.
        for prefix, module in self.named_modules(remove_duplicate=False):
            if any(module is frozen for frozen in self.network.frozen):
                found |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        return found

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `training_state`, in an instance built for the same run."""
        self.load_state_dict({**self._frozen(), **state["module"]})
        for name, optimizer_state in state["optimizers"].items():
            getattr(self, name).load_state_dict(optimizer_state)


@cache
def _warn_of_numbers(method: str, names: str) -> None:
    log.warning(
        "update() of %s returns plain numbers (%s): each step waits for the device. Detached tensors would not",
        method,
        names,
    )
