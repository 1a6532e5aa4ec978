"""Check any algorithm by thirteen questions.

A question is a function of a subject (an algorithm on a device), a number of training domains and a hyperparameter
seed. It trains the algorithm for some steps in a small world and returns the problem it found, as a phrase, or an empty
text. `QUESTIONS` lists them, and `examine.examine` asks them.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.examine import Question, format_error, survives_json
from dgbench.conformance.frozen import trains_on_features
from dgbench.conformance.passes import differences, passes_again
from dgbench.conformance.rehearsal import CHANCE, STEPS, Rehearsal, Subject, count_passes
from dgbench.conformance.worlds import World, worlds
from dgbench.core.cards import needs_of
from dgbench.core.errors import UserError
from dgbench.core.needs import holds, with_values
from dgbench.core.space import Value
from dgbench.core.wording import group_values

SHORT = 20
"""Steps in which, with the card's `rehearsal` hyperparameters, all that a method does is seen."""
DOMAINS = (1, 2, 3)
"""Numbers of training domains that most questions try."""
_ITEM = "aten::_local_scalar_dense"
"""The operation behind `item()`, `float(tensor)` and the like."""
_READS = {_ITEM, "aten::nonzero", "aten::equal", "aten::allclose", "aten::is_nonzero", "aten::masked_select"}
_READS |= {"aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount"}
"""Operations whose result, or its shape, depends on values: on a GPU the host waits for them."""
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_")
"""Operations that count the true values of a mask, where their indices are one: a wait, too."""
_STEP = ("update", "loss")
"""Methods that decide what a step does."""


def learns(subject: Subject, domains: int, seed: int) -> str:
    """Check that the loss falls, and that unseen examples of the training domains are classified better than by chance.

    Judged is the checkpoint that training-domain validation would choose: a heavy penalty may undo later what was
    learned. Not asked of a method whose card says that it doesn't learn; `moves` sees that it stays as it is.
    """
    if not subject.card.learns:
        return ""
    rehearsal = subject.rehearse(domains, seed)
    before, _ = rehearsal.score()
    scores = []
    for step in range(SHORT // 2, STEPS + 1, SHORT // 2):
        rehearsal.until(step)
        scores.append(rehearsal.score())
    after, accuracy = max(scores, key=lambda score: score[1])
    wrong = [] if after < before else [f"cross-entropy went from {before:.3f} to {after:.3f}"]
    # A CLIP of random weights tells classes apart by little, whatever the words.
    if accuracy < CHANCE + 0.1 and "text_tower" not in subject.card.needs:
        wrong.append(f"accuracy {accuracy:.2f}, chance is {CHANCE:.2f}")
    return ", ".join(wrong)


def moves(subject: Subject, domains: int, seed: int) -> str:
    """Check that parameters with a gradient move, and others don't unless the card names them as followers."""
    if "network" in subject.card.followers and "weights" not in subject.card.no_feedback:
        return "network follows others, so the card must say in no_feedback why no average can set its weights"
    wrong = _moved_wrongly(subject, subject.rehearse(domains, seed))
    if not wrong and seed == 0 and subject.entry.features:
        wrong = _moved_wrongly(subject, subject.rehearse(domains, seed, freeze="embedding"))
        return f"with a frozen embedding {wrong}" if wrong else ""
    return wrong


def _moved_wrongly(subject: Subject, rehearsal: Rehearsal) -> str:
    """Return the problem with the parameters that moved within a short rehearsal, or an empty text."""
    before, learning = rehearsal.parameters(), _learning(rehearsal)
    rehearsal.until(SHORT)
    moved = {name for name, now in rehearsal.parameters().items() if not torch.equal(before[name], now)}
    following = {name for name in before if name.partition(".")[0] in subject.card.followers}
    idle, restless = sorted(learning - moved), sorted(moved - learning - following)
    wrong = [f"never moves: {_few(idle)}"] if idle else []
    wrong += [f"moves, though it requires no gradient: {_few(restless)}"] if restless else []
    return "; ".join(wrong)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _learning(rehearsal: Rehearsal) -> set[str]:
    return {name for name, p in rehearsal.algorithm.named_parameters() if p.requires_grad}


def answers_to_weights(subject: Subject, domains: int, seed: int) -> str:
    """Check that each penalty changes training with its weight, and that weights of 0 leave the base method's numbers.

    Dropout is off: a method of several passes draws its masks several times, so its numbers would differ from the
    base's.
    """
    weights, plainly = subject.card.penalties, {"resnet_dropout": 0.0}
    values = subject.values(seed, plainly)
    wrong = []
    for name in weights:
        # So different that few steps show it.
        other = float(values[name]) / 3 or 1.0
        one, two = (_after(subject.rehearse(domains, seed, plainly | changes)) for changes in ({}, {name: other}))
        if all(torch.equal(one[key], two[key]) for key in one):
            wrong.append(f"nothing answers to {name}: {values[name]} and {other} train alike")
    if weights and subject.card.base is not None:
        catalogue = Catalogue()
        base = Subject(catalogue.get("algorithm", subject.card.base or catalogue.baseline), subject.device)
        without = _after(
            subject.rehearse(domains, seed, {**plainly, **dict.fromkeys(weights, 0.0), **subject.card.without})
        )
        # The base gets this method's values of the hyperparameters they share, so that only the penalties can make a
        # difference.
        shared = {name: value for name, value in values.items() if name in base.values(0)}
        bare = _after(base.rehearse(domains, seed, shared))
        gap = max((without[name] - tensor).abs().max().item() for name, tensor in bare.items())
        if gap > 1e-7:
            wrong.append(f"with {', '.join(weights)} at 0 it is off {base.entry.name} by {gap:.1e}")
    return ", ".join(wrong)


def _after(rehearsal: Rehearsal, steps: int = SHORT) -> dict[str, Tensor]:
    """Take the first `steps` steps and return copies of the tensors that predictions depend on."""
    rehearsal.until(steps)
    return {name: tensor.clone() for name, tensor in rehearsal.algorithm.predictor_tensors().items()}


def resumes(subject: Subject, domains: int, seed: int) -> str:
    """Check that training that is saved and loaded in mid-run goes on bit for bit as without."""
    whole = subject.rehearse(domains, seed)
    saved = {}
    for step in (3, SHORT // 2):
        whole.until(step)
        saved[step] = whole.save()
    whole.until(SHORT)
    expected = whole.algorithm.training_state()
    for step, content in saved.items():
        resumed = subject.rehearse(domains, seed)
        resumed.load(content)
        resumed.until(SHORT)
        different = list(differences(expected, resumed.algorithm.training_state()))
        if different:
            return f"resumed at step {step}, it differs in {', '.join(different[:3])}"
    return ""


def predicts_alone(subject: Subject, domains: int, seed: int) -> str:
    """Check that a prediction doesn't depend on the rest of its batch, unless the card says transductive."""
    rehearsal = subject.rehearse(domains, seed)
    rehearsal.until(SHORT)
    x = torch.cat([x for x, _ in rehearsal.unseen])[::5]
    jointly = rehearsal.predict(x)
    if not torch.equal(jointly, rehearsal.predict(x)):
        return "the same inputs are predicted differently the second time"
    # The same inputs in reverse and in batches of 1, 7 and the rest: other neighbors, other positions, other batch
    # sizes.
    separately = torch.cat([rehearsal.predict(part) for part in torch.split(x.flip(0), [1, 7, len(x) - 8])]).flip(0)
    depends = not torch.allclose(jointly, separately, rtol=1e-9, atol=1e-9)
    if depends and not subject.card.transductive:
        return "a prediction depends on the rest of its batch, and the card does not say transductive"
    return ""


def takes_uneven(subject: Subject, domains: int, seed: int) -> str:
    """Check that minibatches of different sizes, and a domain without a class, work or are refused with the reason."""
    try:
        rehearsal = subject.rehearse(domains, seed, uneven=True)
        logged = rehearsal.until(SHORT)
    except UserError:
        return ""
    return _not_finite(rehearsal, logged)


def _not_finite(rehearsal: Rehearsal, logged: Mapping[str, Tensor]) -> str:
    """Name logged values and parameters that are not finite; empty if all are."""
    broken = [name for name, value in logged.items() if not value.isfinite()]
    broken += [name for name, p in rehearsal.algorithm.named_parameters() if not p.isfinite().all()]
    return f"not finite: {', '.join(broken[:3])}" if broken else ""


def reads_nothing(subject: Subject, domains: int, seed: int) -> str:
    """Check that no step reads values on the host, which on a GPU waits for the device, unless the card says why."""
    rehearsal = subject.rehearse(domains, seed)
    with Reads(subject.entry.file) as reads:
        for step in range(SHORT):
            batches = rehearsal.batches(step)
            rehearsal.algorithm.step = step
            rehearsal.pause(step)
            reads.found.clear()
            logged = rehearsal.algorithm.update(batches)
            for value in logged.values():  # reading one was a wait too, of which a run warns once
                if not isinstance(value, Tensor) and _ITEM in reads.found:
                    reads.found.remove(_ITEM)
            if reads.found and not subject.card.syncs:
                place = f" ({reads.place})" if reads.place else ""
                return f"step {step} reads values on the host: {', '.join(sorted(set(reads.found)))}{place}"
    return ""


class Reads(TorchDispatchMode):
    """Record, within its block, the operations whose result or shape depends on values.

    Args:
        file: The algorithm's own file.
    """

    def __init__(self, file: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.file = file
        self.found: list[str] = []
        self.place = ""
        """`FILE:LINE` of the last such operation that the algorithm's own file led to; empty if there is none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in _READS or (func._schema.name in _INDEXED and any(map(_is_mask, args[1]))):
            self.found.append(func._schema.name)
            lines = [frame.lineno for frame in traceback.extract_stack() if frame.filename == self.file]
            self.place = f"{self.file}:{lines[-1]}" if lines else self.place
        return func(*args, **(kwargs or {}))


def _is_mask(index: Tensor | None) -> bool:
    """Return whether an index of a tensor is a mask of true and false."""
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def repeats(subject: Subject, domains: int, seed: int) -> str:
    """Check that the same seed gives the same numbers, whatever else was drawn from the global generator before."""
    first = _after(subject.rehearse(domains, seed), SHORT // 2)
    torch.rand(5)
    second = _after(subject.rehearse(domains, seed), SHORT // 2)
    different = [name for name in first if not torch.equal(first[name], second[name])]
    return f"two runs differ in {', '.join(different[:3])}" if different else ""


def costs_what_it_says(subject: Subject, domains: int, seed: int) -> str:
    """Check that passes through the featurizer, forward and backward, are as many as the card says.

    Not asked of a class written for DomainBed, whose networks are its own and whose passes can't be counted.
    """
    if not subject.entry.features:
        return ""
    rehearsal = subject.rehearse(domains, seed)
    rehearsal.until(SHORT)
    tally = count_passes(rehearsal.algorithm)
    steps = 12  # a multiple of the periods with which methods alternate
    for step in range(SHORT, SHORT + steps):
        batches = rehearsal.batches(step)
        rehearsal.algorithm.step = step
        rehearsal.algorithm.update(batches)
    rows = steps * sum(len(batch.y) for batch in batches)
    wrong = []
    for what, counted, stated in (
        ("forward", tally.forwards / rows, subject.card.forwards),
        ("backward", tally.backwards / rows, subject.card.backwards),
    ):
        # Cards are rounded to one decimal place.
        if abs(counted - stated) > 0.051:
            wrong.append(f"{counted:.2f} {what} passes, the card says {stated:g}")
    return ", ".join(wrong)


def takes_inputs(subject: Subject, domains: int, seed: int) -> str:
    """Check that an algorithm trains on each kind of input and label that its card lets in, with every listed option.

    Problems with an option that `Hparams` refuses are found in planning; this question finds what would fail during a
    run.
    """
    found = []
    with worlds() as all_worlds:
        if not subject.entry.features:  # no card tells which inputs a network of its own takes
            all_worlds = [world for world in all_worlds if world.kind == "images"]
        for world, fixed in product(all_worlds, _options(subject)):
            values = subject.values(seed, fixed)
            if not any(need.what in world.lacks and holds(need.when, values) for need in needs_of(subject.card)):
                found.append((_trained(subject, world, values, domains), f"{world.name}{with_values(fixed)}"))
    wrong = group_values((what, where) for what, where in found if what)
    # The same problem everywhere is reported once, without its places.
    if len(wrong) == 1 and all(what for what, _ in found):
        return next(iter(wrong))
    return "; ".join(f"on {', '.join(where)}: {what}" for what, where in wrong.items())


def _trained(subject: Subject, world: World, values: Mapping[str, Any], domains: int) -> str:
    """Train in a world for a few steps; return the problem found, or an empty text."""
    try:
        rehearsal = subject.rehearse_on(world.material(domains), values, world.setting, [4] * domains)
        return _not_finite(rehearsal, rehearsal.until(world.setting.steps))
    except Exception as error:
        return format_error(error, subject.entry)


def _options(subject: Subject) -> Iterator[Mapping[str, Value]]:
    """Yield the defaults, then each other value of each hyperparameter whose values are listed words or booleans."""
    yield {}
    for spec in subject.entry.space:
        drawn = spec.draw.options if spec.draw else ()
        listed = spec.options or ((True, False) if spec.type == "bool" else drawn)
        yield from ({spec.name: value} for value in listed if isinstance(value, bool | str) and value != spec.default)


QUESTIONS = (
    Question("learns", "loss falls and accuracy beats chance", learns, DOMAINS, _STEP),
    Question("moves", "what should move moves, what should not doesn't", moves, DOMAINS, ("build", *_STEP)),
    Question(
        "weights", "penalties answer to their weights; at 0 the base method remains", answers_to_weights, (3,), _STEP
    ),
    Question("resumes", "saved and loaded in mid-run, bit for bit the same", resumes, DOMAINS, ("build", *_STEP)),
    Question(
        *("alone", "a prediction doesn't depend on its batch, or the card says so", predicts_alone),
        *(DOMAINS, ("forward", "build")),
        drawn=False,
    ),
    Question("json", "hyperparameters survive JSON", survives_json, (3,), ("Hparams",), drawn=False),
    Question("uneven", "unequal minibatches and missing classes work or are refused", takes_uneven, DOMAINS, _STEP),
    Question(
        *("no sync", "no step waits for the device unless the card says why", reads_nothing, DOMAINS, _STEP),
        drawn=False,
    ),
    Question(
        *("passes", "a step may evaluate the loss twice, as step rules do", passes_again, (2,), _STEP), drawn=False
    ),
    Question("repeats", "the same seed gives the same numbers", repeats, DOMAINS, _STEP, drawn=False),
    Question(
        *("inputs", "it trains on every input and label that its card lets in", takes_inputs, (3,), _STEP), drawn=False
    ),
    Question(
        name="features",
        requirement="stored features of a frozen network do for inputs, or the card says why not",
        ask=trains_on_features,
        numbers=(2,),
        about=("build", *_STEP),
        drawn=False,
    ),
    Question(
        *("cost", "forward and backward passes are those on the card", costs_what_it_says, (3,), _STEP), drawn=False
    ),
)
"""The questions to algorithms."""
