"""A language model small enough for tests, as its library writes one."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "kind", "awful", "they", "said")


def save_model(folder: Path, length: int = 16) -> str:
    """A DistilBERT of one layer with random weights, and its vocabulary; its name as a backbone."""
    import transformers

    sizes = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": length}
    config = transformers.DistilBertConfig(vocab_size=len(WORDS), **sizes)
    transformers.DistilBertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DistilBertTokenizer"}))
    return str(folder)


def save_causal_model(folder: Path, vocabulary: int, length: int, width: int = 16) -> str:
    """A GPT-2 of one layer with random weights that knows so many tokens; its name as a backbone."""
    import transformers

    sizes = {"n_embd": width, "n_layer": 1, "n_head": 2, "n_positions": length, "bos_token_id": 0, "eos_token_id": 1}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=vocabulary, **sizes)).save_pretrained(folder)
    return str(folder)
