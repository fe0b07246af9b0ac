"""Recipes of every family that train in a second, and their made data."""

import json
import random
from pathlib import Path

_TRUNK = """\
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
"""
_REST = """\
training:
  max_steps: 6
  warmup_steps: 1
  per_device_train_batch_size: 8
  learning_rate: 3e-3
  logging_steps: 3
  save_steps: 3
evaluation:
  eval_steps: 3
  eval_rows: 8
  milestones: [0, 3]
  score_rows: 8
"""
RECIPES = {
    "text_jepa": "  max_position_embeddings: 16\ndata:\n  data: {folder}/text\n  max_vocab: 60\n",
    "staged_generator": "  embedding_size: 16\n  num_semantic_blocks: 4\n  time_dim: 4\n"
    "  max_position_embeddings: 32\n"
    "data:\n  data: {folder}/text\n  max_vocab: 300\n",
    "dialogue_jepa": "  decoder_layers: 1\n  num_latents: 2\n  max_position_embeddings: 32\n  max_reply_length: 12\n"
    "data:\n  data: {folder}/dialogues\n  max_vocab: 300\n",
    "video_jepa": "  latent_size: 8\n  max_position_embeddings: 6\n  frame_size: 16\ndata:\n  num_clips: 48\n"
    "  code_levels: [4, 4]\n",
}


def write_recipes(folder: Path) -> dict[str, Path]:
    """Family -> its recipe in `folder`, with the data beside it."""
    _write_data(folder)
    paths = {}
    for family, middle in RECIPES.items():
        paths[family] = folder / f"{family}.yaml"
        text = f"family: {family}\nmodel:\n{_TRUNK}{middle.format(folder=folder)}{_REST}"
        paths[family].write_text(text, encoding="utf-8")
    return paths


def phrases(seed: int, count: int) -> list[str]:
    """Lines of a small grammar."""
    generator = random.Random(seed)
    adjectives, nouns, verbs = "red old big wet".split(), "dog cat cow hen fox".split(), "sees eats finds".split()
    words = (adjectives, nouns, verbs, ["the"], adjectives, nouns)
    return [" ".join(["the", *map(generator.choice, words), str(generator.randrange(20))]) for _ in range(count)]


def _write_data(folder: Path) -> None:
    for name in ("text", "dialogues"):
        (folder / name).mkdir()
    for seed, (split, count) in enumerate((("train", 200), ("valid", 30), ("test", 30))):
        lines = phrases(seed, count)
        (folder / "text" / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = [json.dumps({"turns": [f"do you see {line}?", f"yes, {line}."]}) for line in lines]
        (folder / "dialogues" / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
