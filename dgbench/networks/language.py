"""Language models as featurizers: of texts, one vector for each; of sequences, one for each place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.core.errors import UserError
from dgbench.networks.hub import from_hub


class TextFeaturizer(nn.Module):
    """The state in which a language model leaves the first token of a text (encoders), or the last (all others).

    Takes (B, 2, length), whole numbers: tokens, and 1 where there is one, 0 behind the end. Gives (B, hidden size).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # a head of its own, which nothing here would train
        self.model = model
        self.reads_both_ways = _reads_both_ways(model.config)
        self.feature_info = _stages(self)
        """Its stages, as timm's networks tell theirs."""

    @property
    def embedder(self) -> nn.Module:
        """The layer that gives each token its vector."""
        return self.model.get_input_embeddings()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens, mask = x.long().unbind(1)
        states: Tensor = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        if self.reads_both_ways:
            return states[:, 0]
        return states[torch.arange(len(x), device=x.device), mask.sum(1) - 1]


class SequenceFeaturizer(nn.Module):
    """The states of a causal language model at each place, in which it knows the tokens up to there.

    Takes tokens (B, length), whole numbers, all of which count. Gives (B, length, hidden size).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.base_model
        embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
        self.vocabulary = int(embedding.num_embeddings)
        if output.weight is embedding.weight:
            output = OutputOfEmbedding(embedding, output.bias)
        self._output: tuple[nn.Module] = (output,)  # in a tuple, as it is no part of this module
        self.feature_info = _stages(self)
        """Its stages, as timm's networks tell theirs."""

    @property
    def embedder(self) -> nn.Module:
        """The layer that gives each token its vector."""
        return self.model.get_input_embeddings()  # type: ignore[no-any-return]

    @property
    def output(self) -> nn.Module:
        """The language model's own output layer, from states to logits (B, length, vocabulary)."""
        return self._output[0]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        states: Tensor = self.model(input_ids=x.long(), use_cache=False).last_hidden_state
        return states


class OutputOfEmbedding(nn.Module):
    """An output layer that is tied to the embedding: a token's logit is the product of the state with its embedding.

    The shared weights have one name in the network, the embedding's, for whoever saves, averages or replaces them.
    """

    def __init__(self, embedding: nn.Embedding, bias: nn.Parameter | None) -> None:
        super().__init__()
        self._embedding = (embedding,)
        self.bias = bias

    def forward(self, states: Tensor) -> Tensor:
        """Logits (..., tokens) of states (..., hidden size)."""
        return F.linear(states, self._embedding[0].weight, self.bias)


def language_model(name: str, input_shape: Sequence[int], *, pretrained: bool = False) -> tuple[nn.Module, int]:
    """The featurizer of that name (a folder, or what the hub calls it), and its number of features.

    Of texts (2, length), or of sequences (length,). Raises `UserError` if it can't be had, reads no so many tokens, or
    would see the tokens of a sequence that it is asked for.
    """
    length, sequences = input_shape[-1], len(input_shape) == 1
    try:
        import transformers  # an extra of the package, and slow to import
    except ImportError as error:
        raise UserError(f"backbone {name!r} needs the package transformers: pip install 'dgbench[text]'") from error
    models: Any = transformers.AutoModelForCausalLM if sequences else transformers.AutoModel
    try:
        config = from_hub(transformers.AutoConfig.from_pretrained, name)
        model = from_hub(models.from_pretrained, name) if pretrained else models.from_config(config)
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
            f"backbone {name!r} reads both ways, so it would see the tokens that it is asked for: name a causal "
            "language model"
        )
    model = model.float()  # whatever its file holds: precision is the setting's
    return SequenceFeaturizer(model) if sequences else TextFeaturizer(model), int(config.hidden_size)


def _reads_both_ways(config: Any) -> bool:
    # An extra of the package, and slow to import.
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _stages(featurizer: nn.Module) -> list[dict[str, str]]:
    """The layers of a language model by their names in the featurizer."""
    layers = next(m for m in featurizer.modules() if isinstance(m, nn.ModuleList))
    names = {module: name for name, module in featurizer.named_modules()}
    return [{"module": names[layer]} for layer in layers]
