"""CoOp against open_clip's own towers, with the learned words put into the embedded text by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbench.algorithms.coop import CoOp
from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.rehearsal import Rehearsal, Subject
from dgbench.networks.clip_names import import_open_clip

pytest.importorskip("open_clip", reason="extra `clip` is not installed")


@pytest.fixture
def rehearsal() -> Rehearsal:
    return Subject(Catalogue().get("algorithm", "CoOp"), torch.device("cpu")).rehearse(2, fixed={"context_tokens": 3})


def coop(rehearsal: Rehearsal) -> CoOp:
    assert isinstance(rehearsal.algorithm, CoOp)
    return rehearsal.algorithm


def by_hand(algorithm: CoOp, number: int) -> Tensor:
    """The embedding of one class: start, three learned words, the name, a full stop, end; read at the end."""
    text = algorithm.tower.model.get_submodule("text")
    name = import_open_clip().tokenize(f"class {number}.")[0]
    name = name[1 : int(name.argmax()) + 1]  # without the start, with the end
    table = text.token_embedding.weight
    words = torch.cat([table[49406][None], algorithm.context, table[name]])
    states = words + text.positional_embedding[: len(words)]
    mask = torch.full((len(words), len(words)), -torch.inf).triu(1)
    states = text.ln_final(text.transformer(states[None], attn_mask=mask))[0]
    embedding: Tensor = states[-1] @ text.text_projection
    return embedding / embedding.norm()


def test_logits_are_cosines_with_names_in_their_learned_context(rehearsal: Rehearsal) -> None:
    algorithm = coop(rehearsal)
    rehearsal.until(2)
    batches = rehearsal.batches(2)
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    tower = algorithm.tower.model
    features = torch.stack([f / f.norm() for f in algorithm.network.featurizer.visual(x.expand(-1, 3, -1, -1))])
    classes = torch.stack([by_hand(algorithm, number) for number in range(3)])
    logits = tower.logit_scale.exp() * features @ classes.T
    loss = torch.stack([row.logsumexp(0) - row[label] for row, label in zip(logits, y, strict=True)]).mean()
    (gradient,) = torch.autograd.grad(loss, algorithm.context)
    predicted = rehearsal.predict(x)
    assert torch.allclose(predicted, logits, rtol=1e-8, atol=1e-10), "the classifier follows each step"
    found = algorithm.update(batches)
    assert isinstance(found["loss"], Tensor)
    assert torch.allclose(found["loss"], loss, rtol=1e-10)
    assert algorithm.context.grad is not None
    assert torch.allclose(algorithm.context.grad, gradient, rtol=1e-8, atol=1e-12)


def test_only_the_words_learn(rehearsal: Rehearsal) -> None:
    algorithm = coop(rehearsal)
    assert [name for name, p in algorithm.named_parameters() if p.requires_grad] == ["context"]
    assert not any("token_embedding" in name for name in algorithm.training_state()["module"]), (
        "the text tower is not saved"
    )
    before = {name: tensor.clone() for name, tensor in algorithm.predictor_tensors().items()}
    rehearsal.until(1)
    changed = [name for name, now in algorithm.predictor_tensors().items() if not torch.equal(now, before[name])]
    assert changed == ["network.classifier.weight"]
