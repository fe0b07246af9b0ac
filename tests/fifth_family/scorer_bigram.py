"""Scores of a bigram model: perplexity, beside that of a guess by frequency."""

import math
from typing import Any

import datasets
import torch
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel

from eval.loading import open_model, open_tokenizer
from eval.scorers.request import Scores
from training.data.sources.locate import load_rows
from training.data.sources.rows import RowReport
from training.data.tokenization import encode_rows


@torch.no_grad()
def score_rows(model: PreTrainedModel, dataset: datasets.Dataset, max_rows: int) -> Scores:
    """Scores on the first rows; the model stays in its mode."""
    rows = [torch.tensor(ids, device=model.device) for ids in dataset[:max_rows]["input_ids"]]
    counts = (model.token_counts + 1).double()
    frequencies = (counts / counts.sum()).log()
    nll = guessed = 0.0
    for ids in rows:
        logs = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
        nll -= float(logs.gather(-1, ids[1:, None]).sum())
        guessed -= float(frequencies[ids[1:]].sum())
    count = sum(len(ids) - 1 for ids in rows)
    baselines = {"unigram": {"perplexity": math.exp(guessed / count)}}
    return Scores({"perplexity": math.exp(nll / count)}, baselines, count, len(rows))


def score_request(request: Any, settings: Any, split: str) -> tuple[Scores, RowReport]:
    """The scores of a checkpoint on the rows of a source, and what became of those rows."""
    model = open_model(request.checkpoint, AutoModelForCausalLM, request.device)
    tokenizer = open_tokenizer(request.checkpoint)
    rows = load_rows(settings, split)
    encoded = encode_rows(rows.dataset, tokenizer, model.config.max_position_embeddings, settings.long_rows)
    return score_rows(model, encoded.dataset, request.rows(len(encoded.dataset))), rows.report


def bigram_table(record: dict[str, Any]) -> Table:
    """The figures of a Score JSON."""
    table = Table("", "perplexity")
    for name, figures in {"model": record["metrics"], **record["baselines"]}.items():
        table.add_row(name, f"{figures['perplexity']:.2f}")
    return table
