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
