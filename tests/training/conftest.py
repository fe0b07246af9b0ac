"""A recipe that trains in a second: a few hundred generated lines, 16 wide, one layer."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """\
# tiny
family: text_jepa
model:
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
  max_position_embeddings: 16
  dropout: 0.1
data:
  data: {data}
  max_vocab: 60
loss:
  num_negatives: 8
training:
  max_steps: 12
  warmup_steps: 2
  per_device_train_batch_size: 8
  learning_rate: 3e-3
  logging_steps: 3
  save_steps: 4
evaluation:
  eval_steps: 6
  eval_rows: 10
  milestones: [0, 6]
  sample_phrases: ["the red _ sees"]
  score_rows: 10
"""


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.txt, valid.txt and test.txt: phrases of a small grammar."""
    folder = tmp_path_factory.mktemp("tiny-data")
    generator = random.Random(7)
    adjectives, nouns, verbs = "red old big wet".split(), "dog cat cow hen fox".split(), "sees eats finds".split()
    for name, count in (("train", 200), ("valid", 30), ("test", 30)):
        lines = [
            " ".join(["the", generator.choice(adjectives), generator.choice(nouns), generator.choice(verbs)])
            + f" the {generator.choice(adjectives)} {generator.choice(nouns)} {generator.randrange(20)}"
            for _ in range(count)
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny_data: Path) -> Path:
    """The recipe above, as a file."""
    path = tiny_data / "tiny.yaml"
    path.write_text(RECIPE.format(data=tiny_data), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train_tiny(tiny_recipe: Path) -> Callable[..., int]:
    """`train_tiny(folder, "--max_steps", "4", ...)` runs the command line in this process; returns its exit code."""
    from training.train import main

    def train(output_dir: Path, *flags: str) -> int:
        return main([str(tiny_recipe), "--output_dir", str(output_dir), "--device", "cpu", *flags])

    return train


@pytest.fixture(scope="session")
def finished_run(train_tiny: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run that went to its end. Read only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train_tiny(folder) == 0
    return folder


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], list[dict]]:
    """Rows of a `log.jsonl` without what measures time."""

    def read(folder: Path) -> list[dict]:
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        return [{k: v for k, v in row.items() if k not in ("time", "tokens_per_second")} for row in rows]

    return read
