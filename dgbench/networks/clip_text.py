"""Read class names by the text tower of a CLIP, and make a classifier of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.core.errors import Problems, UserError
from dgbench.core.setting import Setting
from dgbench.networks.clip import build_clip, in_open_clips_words
from dgbench.networks.clip_names import configuration, import_open_clip, zero_shot_problem
from dgbench.networks.hub import clip_tensors
from dgbench.networks.weights import THE_FILE, read_weights_file

_BATCH = 32
"""Classes whose prompts are read at once."""
_LONGEST = 500
"""Tokens to which texts are cut, far more than any tower reads."""


class TextTower:
    """The text tower of a CLIP, frozen, with its tokenizer and the scale of its logits; `text_tower` makes it."""

    def __init__(self, model: Any, tokenizer: Any, length: int) -> None:
        self.model: nn.Module = model
        """open_clip's model without its image tower."""
        self.tokenizer = tokenizer
        """open_clip's: maps a list of n texts and a length to tokens (n, length), with 0 after the end."""
        self.length = length
        """Tokens of a text that the tower reads, with those for its start and its end."""

    @property
    def width(self) -> int:
        """Return the length of a token's vector."""
        return int(self.model.get_submodule("text.token_embedding").embedding_dim)  # type: ignore[arg-type]

    @property
    def scale(self) -> Tensor:
        """Return the factor on cosines, which makes logits of them."""
        scale: Tensor = self.model.logit_scale.detach().exp()  # type: ignore[operator]
        return scale.reshape(())

    def embed(self, classes: Sequence[str], prompt: str) -> Tensor:
        """Return the embedding of each class, (classes, n), of length 1: the mean over the prompt's templates.

        Args:
            classes: Names of the classes.
            prompt: See `Setting.prompt`.
        """
        open_clip, device = import_open_clip(), next(self.model.parameters()).device
        found: Tensor = open_clip.build_zero_shot_classifier(
            self.model, self.tokens, [in_words(name) for name in classes], _templates(prompt), _BATCH, device
        )
        return found.T

    def embed_with(self, context: Tensor, tokens: Tensor) -> Tensor:
        """Return the embeddings (n, features), of length 1, of texts whose first tokens are learned vectors.

        Args:
            context: (k, width of the tower), the vectors; they take the places of k tokens behind the start of a text.
            tokens: (n, length), of the texts.
        """

        def put(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
            first, rest = embedded[:, :1], embedded[:, 1 + len(context) :]
            return torch.cat([first, context.expand(len(embedded), -1, -1), rest], dim=1)

        embedding = self.model.get_submodule("text.token_embedding")
        hook = embedding.register_forward_hook(put)
        try:
            found: Tensor = self.model.encode_text(tokens, normalize=True)  # type: ignore[operator]
        finally:
            hook.remove()
        return found

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens of n texts, (n, length); raise `UserError` if one is too long, which would lose its end."""
        found: Tensor = self.tokenizer(list(texts), context_length=_LONGEST)
        for text, length in zip(texts, (found != 0).sum(dim=1).tolist(), strict=True):
            if length > self.length:
                raise UserError(f"{text!r} has {length} tokens, and this CLIP reads {self.length}: set another prompt")
        return found[:, : self.length]


def in_words(name: str) -> str:
    """Return a class name as a text: underscores are spaces."""
    return " ".join(name.replace("_", " ").split())


def _templates(prompt: str) -> Sequence[Any]:
    """Return the templates that a prompt stands for, as open_clip takes them."""
    metadata = import_open_clip().zero_shot_metadata
    known = {"imagenet": metadata.OPENAI_IMAGENET_TEMPLATES, "imagenet_simple": metadata.SIMPLE_IMAGENET_TEMPLATES}
    found: Sequence[Any] = known.get(prompt, [prompt])
    return found


def text_tower(setting: Setting, input_shape: Sequence[int], device: torch.device) -> TextTower:
    """Build the text tower of a setting's backbone, from the same weights as its featurizer.

    Args:
        setting: The run's, with the place of the file of weights that it may name.
        input_shape: Shape of an image.
        device: Where it computes.

    Raises:
        UserError: The backbone has none that can be used, or its weights can't be had.
    """
    name = setting.backbone
    if problem := zero_shot_problem(name):
        raise UserError(problem)
    # The draws of random weights leave the caller's generator alone: they are no part of the run's initial weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_clip(name, input_shape, image_tower=False)
    if setting.weights:
        _load(model, read_weights_file(setting), THE_FILE)
    elif setting.pretrained:
        _load(model, *clip_tensors(name))
    del model.visual
    text = configuration(name)["text_cfg"]
    length = int(text.get("context_length", 77))
    return TextTower(
        model.requires_grad_(False).eval().to(device), _tokenizer(**text.get("tokenizer_kwargs", {})), length
    )


@cache
def _tokenizer(**how: Any) -> Any:
    """Return open_clip's tokenizer, of which it makes the usual one in its import."""
    open_clip = import_open_clip()
    return open_clip.SimpleTokenizer(**how) if how else open_clip.tokenize


@torch.no_grad()
def write_zero_shot(
    classifier: nn.Module, setting: Setting, input_shape: Sequence[int], classes: Sequence[str]
) -> None:
    """Overwrite a linear classifier by the embeddings of the class names, times the scale of CLIP's logits; no bias.

    Args:
        classifier: On embeddings of length 1.
        setting: The run's, see `text_tower`.
        input_shape: Shape of an image.
        classes: Names of the classes, in the order of the logits.
    """
    assert isinstance(classifier, nn.Linear), "refused in planning"
    tower = text_tower(setting, input_shape, classifier.weight.device)
    classifier.weight.copy_(tower.scale * tower.embed(classes, setting.prompt))
    classifier.bias.zero_()


def _load(model: Any, tensors: Mapping[str, Tensor], source: str) -> None:
    """Set all weights of open_clip's model but those of its image tower."""
    found = in_open_clips_words(_unwrapped(tensors), model)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("visual.")}
    for name in {"logit_scale", "logit_bias"} & own.keys() & found.keys():
        found[name] = found[name].reshape(own[name].shape)  # a number in some files, a list of one in others
    problems = Problems()
    if missing := [name for name in own if name not in found]:
        problems.add(f"{source} lacks {', '.join(missing)}")
    for name in own.keys() & found.keys():
        if own[name].shape != found[name].shape:
            problems.add(f"{source}: {name} is {tuple(found[name].shape)}, not {tuple(own[name].shape)}")
    problems.raise_if_any()
    model.load_state_dict({name: found[name] for name in own}, strict=False)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without a prefix of all names, such as `module.` or `state_dict.`."""
    found = next((name for name in tensors if name.endswith("logit_scale")), "")
    before = found.removesuffix("logit_scale")
    return {name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}
