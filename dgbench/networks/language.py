"""Turn language models into featurizers: one vector for each text, or one for each place of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.core.errors import UserError
from dgbench.networks.hub import from_hub


class TextFeaturizer(nn.Module):
    """A language model that represents a text by its state at one token: the first in encoders, the last in all others.

    It takes (B, 2, length) whole numbers: tokens, and a mask that is 1 for tokens and 0 after the end. It returns (B,
    hidden size).

    Args:
        model: A model of transformers, without a head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            # A head behind the state that is read, so that nothing would train it.
            model.pooler = None
        self.model = model
        self.reads_both_ways = _reads_both_ways(model.config)
        self.feature_info = _stages(self)
        """Its stages, in the form that timm's networks list theirs."""

    @property
    def embedder(self) -> nn.Module:
        """Return the layer that gives each token its vector."""
        return self.model.get_input_embeddings()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, hidden size) for (B, 2, length)."""
        tokens, mask = x.long().unbind(1)
        states: Tensor = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        if self.reads_both_ways:
            return states[:, 0]
        # The last token that counts: padding follows the text.
        return states[torch.arange(len(x), device=x.device), mask.sum(1) - 1]


class SequenceFeaturizer(nn.Module):
    """A causal language model's states at each place of a sequence, which depend on the tokens up to there alone.

    It takes tokens (B, length), whole numbers, all of which count. It returns (B, length, hidden size).

    Args:
        model: A causal language model of transformers, with its output layer.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.base_model
        embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
        self.vocabulary = int(embedding.num_embeddings)
        """Number of tokens that the model knows."""
        if output.weight is embedding.weight:
            output = OutputOfEmbedding(embedding, output.bias)
        # In a tuple, so that torch doesn't register it: it becomes the classifier, outside of this module.
        self._output: tuple[nn.Module] = (output,)
        self.feature_info = _stages(self)
        """Its stages, in the form that timm's networks list theirs."""

    @property
    def embedder(self) -> nn.Module:
        """Return the layer that gives each token its vector."""
        return self.model.get_input_embeddings()  # type: ignore[no-any-return]

    @property
    def output(self) -> nn.Module:
        """Return the language model's output layer, from states to logits (B, length, vocabulary)."""
        return self._output[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, length, hidden size) for (B, length)."""
        states: Tensor = self.model(input_ids=x.long(), use_cache=False).last_hidden_state
        return states


class OutputOfEmbedding(nn.Module):
    """An output layer tied to the embedding: a token's logit is the product of the state with the token's embedding.

    The shared weights have one name in the network, the embedding's, so that they are saved, averaged and replaced
    once.

    Args:
        embedding: The layer whose weights are shared.
        bias: (tokens,), the output layer's own; None: it has none.
    """

    def __init__(self, embedding: nn.Embedding, bias: nn.Parameter | None) -> None:
        super().__init__()
        # In a tuple, so that torch doesn't register it under a second name.
        self._embedding = (embedding,)
        self.bias = bias

    def forward(self, states: Tensor) -> Tensor:
        """Return logits (..., tokens) of states (..., hidden size)."""
        return F.linear(states, self._embedding[0].weight, self.bias)


def language_model(name: str, input_shape: Sequence[int], *, pretrained: bool = False) -> tuple[nn.Module, int]:
    """Build the featurizer of a language model, and return its hidden size too.

    Args:
        name: Of a folder, or of a repository on the hub.
        input_shape: (2, length) for texts, (length,) for sequences.
        pretrained: Start from the model's weights; False: from random ones.

    Raises:
        UserError: The model can't be had, can't read so many tokens, or is no causal one and is given sequences.
    """
    length, sequences = input_shape[-1], len(input_shape) == 1
    try:
        # Imported inside: an optional dependency, and slow.
        import transformers
    except ImportError as error:
        raise UserError(f"backbone {name!r} needs the package transformers: pip install 'dgbench[text]'") from error
    models: Any = transformers.AutoModelForCausalLM if sequences else transformers.AutoModel
    try:
        config = from_hub(transformers.AutoConfig.from_pretrained, name)
        # Where peft is installed, transformers looks for an adapter too, and would ask the hub for it each time.
        load = partial(models.from_pretrained, adapter_kwargs={"local_files_only": True})
        model = from_hub(load, name) if pretrained else models.from_config(config)
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        instead = "" if sequences else ', or use --hparams \'{"backbone": "MLP"}\' on bags of words'
        raise UserError(
            f"the language model {name!r} could not be had ({why}). Fetch it once where there is a network and copy "
            f"~/.cache/huggingface here, or name a folder that holds it (./folder){instead}"
        ) from error
    longest = getattr(config, "max_position_embeddings", length)
    if length > longest:
        raise UserError(f"backbone {name!r} reads texts of at most {longest} tokens, and these have {length}")
    if sequences and _reads_both_ways(config):
        raise UserError(
            f"backbone {name!r} reads both ways, so it would see the tokens that it must predict: name a causal "
            "language model"
        )
    model = model.float()  # files may hold half precision; the setting decides precision
    return SequenceFeaturizer(model) if sequences else TextFeaturizer(model), int(config.hidden_size)


def _reads_both_ways(config: Any) -> bool:
    # An optional dependency, and slow to import.
    """Return whether a model is an encoder, whose states depend on later tokens as well."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _stages(featurizer: nn.Module) -> list[dict[str, str]]:
    """Return the layers of a language model, by their names in the featurizer."""
    layers = next(m for m in featurizer.modules() if isinstance(m, nn.ModuleList))
    names = {module: name for name, module in featurizer.named_modules()}
    return [{"module": names[layer]} for layer in layers]
