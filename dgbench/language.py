"""Language models as featurizers of texts: tokens and their mask in, one vector a text out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dgbench.errors import UserError
from dgbench.hub import from_hub


class TextFeaturizer(nn.Module):
    """The state in which a language model leaves the first token of a text (encoders), or the last (all others).

    Takes (B, 2, length), int64: tokens, and 1 where there is one, 0 behind the end. Gives (B, hidden size).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # a head of its own, which nothing here would train
        self.model = model
        self.reads_both_ways = model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
        names = {module: name for name, module in self.named_modules()}
        self.feature_info = [{"module": names[layer]} for layer in layers]
        """Its stages, as timm's networks tell theirs."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens, mask = x.unbind(1)
        states: Tensor = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        if self.reads_both_ways:
            return states[:, 0]
        return states[torch.arange(len(x), device=x.device), mask.sum(1) - 1]


def language_model(name: str, length: int, *, pretrained: bool = False) -> tuple[nn.Module, int]:
    """The featurizer of that name (a folder, or what the hub calls it), and its number of features.

    Raises `UserError` if it can't be had, or reads no texts of so many tokens.
    """
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise UserError(f"backbone {name!r} needs the package transformers: pip install 'dgbench[text]'") from error
    models: Any = AutoModel
    try:
        config = from_hub(AutoConfig.from_pretrained, name)
        model = from_hub(models.from_pretrained, name) if pretrained else models.from_config(config)
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(
            f"the language model {name!r} could not be had ({why}). Fetch it once where there is a network and copy "
            "~/.cache/huggingface here, name a folder that holds it (./folder), or use "
            '--hparams \'{"backbone": "MLP"}\' on bags of words'
        ) from error
    longest = getattr(config, "max_position_embeddings", length)
    if length > longest:
        raise UserError(f"backbone {name!r} reads texts of at most {longest} tokens, and these have {length}")
    return TextFeaturizer(model), int(config.hidden_size)
