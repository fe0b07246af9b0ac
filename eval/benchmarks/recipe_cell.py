"""The usual cell of a comparison: train a recipe with overrides, score it, keep what each test blank gave."""

from pathlib import Path
from typing import Any

import numpy as np

from eval.scorers.checkpoint import score_checkpoint
from eval.scorers.request import ScoreRequest
from eval.scorers.text_jepa import BlankAnswers
from training.train import main as train


def train_and_score(settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train `settings["recipe"]` with `settings["overrides"]` under a seed, and score its test part.

    `settings["max_rows"]` (default: all) bounds the test rows.

    Raises:
        RuntimeError: training ended with another exit code than 0.
    """
    output = folder / "run"
    overrides = [f"--{name}={value}" for name, value in settings.get("overrides", {}).items()]
    arguments = [settings["recipe"], *overrides, f"--seed={seed}", f"--output_dir={output}", "--final_score=false"]
    code = train(arguments)
    if code != 0:
        raise RuntimeError(f"training ended with exit code {code}: {' '.join(arguments)}")
    request = ScoreRequest(checkpoint=str(output), split="test", max_rows=settings.get("max_rows"))
    scores = score_checkpoint(request).scores
    return {
        "metrics": scores.metrics,
        "baselines": scores.baselines,
        "num_examples": scores.num_examples,
        "examples": blank_examples(scores.answers),
    }


def blank_examples(answers: BlankAnswers) -> dict[str, list]:
    """Per blank: `ids`, `clusters` (rows), `top1`, `top5`, `top10` (0 or 1) and `mrr` (1 / rank), for pairing."""
    ids = [f"{row}:{place}" for row, place in zip(answers.row_ids.tolist(), answers.positions.tolist(), strict=True)]
    hits = {f"top{k}": (answers.ranks <= k).astype(np.int64).tolist() for k in (1, 5, 10)}
    return {"ids": ids, "clusters": answers.row_ids.tolist(), **hits, "mrr": (1.0 / answers.ranks).tolist()}
