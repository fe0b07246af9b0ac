"""Labelled rows of a small grammar, and runs on them that take a second."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hub.tiny_runs import phrases
from training.train import main

CLASSIFY = Path(__file__).resolve().parents[3] / "training" / "recipes" / "text_jepa" / "classify.yaml"
# An encoder of its own size, for runs that start from nothing.
FLAGS = [
    *("--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"),
    *("--max_position_embeddings", "16"),
]
_SHORT = [
    *("--max_steps", "60", "--warmup_steps", "2", "--per_device_train_batch_size", "16", "--learning_rate", "2e-2"),
    *("--eval_steps", "20", "--logging_steps", "1", "--milestones", "0", "--threads", "1", "--device", "cpu"),
]


def write_labelled(folder: Path, label: Callable[[int, int], Any], kind: str) -> Path:
    """A folder with train, valid and test of sentences; their first animal, (0: cat, 1: dog, place), has a label."""
    data = folder / "labelled"
    data.mkdir()
    for seed, (split, count) in enumerate((("train", 160), ("valid", 30), ("test", 40))):
        rows = []
        for place, line in enumerate(phrases(seed, count)):
            animal = place % 2
            rest = line.split(" ", 3)[3]
            rows.append({"text": f"the old {['cat', 'dog'][animal]} {rest}", "label": label(animal, place)})
        path = data / f"{split}.{kind}"
        if kind == "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["text", "label"])
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return data


def train_encoder(folder: Path) -> Path:
    """A latent text model of a few steps on plain text."""
    (folder / "text.txt").write_text("\n".join(phrases(9, 300)) + "\nthe old cat sees a dog\n" * 3)
    recipe = folder / "encoder.yaml"
    recipe.write_text(
        f"family: text_jepa\nmodel:\n  hidden_size: 16\n  num_hidden_layers: 1\n  num_attention_heads: 2\n"
        f"  max_position_embeddings: 16\ndata:\n  data: {folder}/text.txt\n  max_vocab: 80\n"
        "loss:\n  num_negatives: 8\ntraining:\n  max_steps: 4\n  per_device_train_batch_size: 8\n"
        "evaluation:\n  final_score: false\n  eval_steps: 4\n  milestones: []\n"
    )
    assert main([str(recipe), "--output_dir", str(folder / "encoder"), "--device", "cpu", "--threads", "1"]) == 0
    return folder / "encoder"


def train_classifier(folder: Path, source: Path, *flags: str, name: str = "classifier") -> tuple[int, Path]:
    """Exit code and folder of a run of the recipe `classify`."""
    run_dir = folder / name
    given = [*_SHORT, *flags, "--data", str(source), "--output_dir", str(run_dir)]
    return main([str(CLASSIFY), *given]), run_dir
