"""What encoders know about the topic of a text: logistic regression on their frozen mean vectors.

    python -m eval.benchmarks.text_probe --data PATH/TO/agnews --checkpoints outputs/a outputs/b

The source is a folder with `train.jsonl` and `test.jsonl`, each line with `text` and `label`. Beside the checkpoints
stand the first one's encoder with random weights, the most frequent label, and a regression on TF-IDF weighted words,
which sees the words that a small vocabulary lacks. Exit codes: 0, 2 bad input.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from eval.benchmarks.columns import Record, Row, alone, figure
from eval.benchmarks.comparison import Benchmark, left_open
from eval.loading import open_model, open_tokenizer
from training.common.errors import InputError
from training.common.records import package_versions


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels, of one length."""

    texts: list[str]
    labels: np.ndarray


class TextProbe(Benchmark):
    """See the module."""

    name = "text_probe"
    width = 140
    heading = "encoder"
    columns = (figure("accuracy", "accuracy", ".3f"),)

    def parser(self) -> argparse.ArgumentParser:
        """The options."""
        parser = super().parser()
        parser.add_argument("--data", required=True, help="folder with train.jsonl and test.jsonl")
        parser.add_argument("--checkpoints", nargs="+", required=True, help="folders of our text models")
        parser.add_argument("--train_rows", type=int, default=8000, help="texts to learn from (default: %(default)s)")
        parser.add_argument("--test_rows", type=int, default=4000, help="texts to score on (default: %(default)s)")
        parser.add_argument("--seed", type=int, default=0, help="of subsets and random weights (default: %(default)s)")
        return parser

    def measure(self, options: argparse.Namespace) -> tuple[Record, bool]:
        """Accuracies of all encoders."""
        train = read_labelled(Path(options.data) / "train.jsonl", options.train_rows, options.seed)
        test = read_labelled(Path(options.data) / "test.jsonl", options.test_rows, options.seed)
        given = f"--data {left_open(options.data)} --checkpoints {' '.join(options.checkpoints)}"
        rest = f"--train_rows {options.train_rows} --test_rows {options.test_rows} --seed {options.seed}"
        record = {
            "schema_version": 1,
            "command": f"python -m eval.benchmarks.text_probe {given} {rest}",
            "num_train": len(train.texts),
            "num_examples": len(test.texts),
            "seed": options.seed,
            "accuracy": probe_all(options.checkpoints, train, test, options.seed),
            "versions": package_versions(),
        }
        return record, False

    def rows(self, record: Record) -> list[Row]:
        """A row per encoder, under its own name."""
        return [Row(name, name, {"accuracy": alone(value)}) for name, value in record["accuracy"].items()]


def probe_all(checkpoints: Sequence[str], train: Labelled, test: Labelled, seed: int) -> dict[str, float]:
    """Name -> accuracy on the test texts (share from 0 to 1): checkpoints first, then what they stand beside."""
    found = {}
    for checkpoint in checkpoints:
        model, tokenizer = open_model(checkpoint, AutoModel, "cpu"), open_tokenizer(checkpoint)
        found[Path(checkpoint).name] = probe(
            partial(model.encode, tokenizer=tokenizer, truncate=True), train, test, seed
        )
        found[f"{Path(checkpoint).name}: mean of its tokens' rows"] = probe(
            partial(mean_of_rows, model, tokenizer), train, test, seed
        )
    set_seed(seed)
    random = AutoModel.from_config(model.config)
    found["random encoder"] = probe(partial(random.encode, tokenizer=tokenizer, truncate=True), train, test, seed)
    words = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=1000, random_state=seed))
    found["TF-IDF of the words"] = float(words.fit(train.texts, train.labels).score(test.texts, test.labels))
    found["most frequent label"] = float(np.mean(test.labels == np.bincount(train.labels).argmax()))
    return found


def probe(encode: Callable[[list[str]], Tensor], train: Labelled, test: Labelled, seed: int) -> float:
    """Accuracy of a logistic regression on standardised vectors `(texts, width)`."""
    vectors = [encode(part.texts).numpy() for part in (train, test)]
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed))
    return float(regression.fit(vectors[0], train.labels).score(vectors[1], test.labels))


@torch.no_grad()
def mean_of_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Static vectors `(texts, width)`: the mean of the token table's rows, without special tokens."""
    table, found = model.get_input_embeddings().weight, []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        found.append(table[ids].mean(0) if ids else torch.zeros_like(table[0]))
    return torch.stack(found)


def read_labelled(path: Path, max_rows: int, seed: int) -> Labelled:
    """A seeded subset of the rows of a jsonl file with `text` and an integer `label`. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
        texts, labels = [str(row["text"]) for row in rows], np.array([int(row["label"]) for row in rows])
    except OSError as error:
        raise InputError(f"data: {path} cannot be read ({error.strerror}); give a folder with it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"data: {path} needs lines with `text` and an integer `label`: {error!r}") from error
    if max_rows < 1 or not rows:
        raise InputError(f"data: {max_rows} of the {len(rows)} rows of {path} is nothing to learn from")
    order = np.random.default_rng(seed).permutation(len(rows))[:max_rows]
    return Labelled([texts[index] for index in order], labels[order])


BENCHMARK = TextProbe()
main = BENCHMARK.main


if __name__ == "__main__":
    sys.exit(main())
