"""The small files by which `sentence-transformers` opens a checkpoint: encoder, then the mean over the tokens.

In the form that its versions from 2 on read.
"""

import json
import os
from pathlib import Path


def write_sentence_transformers_files(
    folder: str | os.PathLike[str], hidden_size: int, max_position_embeddings: int
) -> None:
    """Write `modules.json` and what it names into an existing folder, beside `config.json` and the weights."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    pooling = {"word_embedding_dimension": hidden_size, "pooling_mode_mean_tokens": True}
    transformer = {"max_seq_length": max_position_embeddings, "do_lower_case": False}
    Path(folder, "1_Pooling").mkdir(exist_ok=True)
    for name, content in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", transformer),
    ):
        Path(folder, name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
