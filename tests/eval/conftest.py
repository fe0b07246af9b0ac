"""One tiny tokenizer, model, data set and checkpoint for all tests of eval; none of it is trained."""

import json
import random
from pathlib import Path

import datasets
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from configuration_jepa import TextJepaConfig
from eval.benchmarks import comparison
from eval.benchmarks.cells import Outcome, run_one
from modeling_jepa import TextJepaForMaskedLM
from training.common.records import write_json
from training.data.settings import DataSettings
from training.data.tokenization import build_tokenizer, count_tokens, encode_rows

SENTENCES = [
    "the people of the united states",
    "the congress of the united states of america",
    "we must work for peace and freedom",
    "the state of the union is strong",
    "in the last year we spent more than we had",
    "peace is the hope of the people",
] * 5


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(DataSettings(max_vocab=64), SENTENCES, 16)


@pytest.fixture(scope="session")
def rows(tokenizer) -> datasets.Dataset:
    texts = datasets.Dataset.from_dict({"text": SENTENCES, "row_id": list(range(100, 100 + len(SENTENCES)))})
    return encode_rows(texts, tokenizer, 16).dataset


@pytest.fixture(scope="session")
def token_counts(rows, tokenizer) -> torch.Tensor:
    return torch.as_tensor(count_tokens(rows, len(tokenizer), tuple(tokenizer.all_special_ids))).float()


@pytest.fixture(scope="session")
def config(tokenizer) -> TextJepaConfig:
    return TextJepaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        num_negatives=8,
        dropout=0.3,
    )


@pytest.fixture
def model(config, token_counts) -> TextJepaForMaskedLM:
    torch.manual_seed(0)
    made = TextJepaForMaskedLM(config).eval()
    made.set_token_counts(token_counts)
    return made


@pytest.fixture
def bert(tokenizer) -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    ).eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, config, token_counts, tokenizer) -> Path:
    """A checkpoint folder as a run leaves it, run.json included; copy it before changing it."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    source = folder.parent / "trained_on.txt"
    source.write_text("\n".join(f"{line} number {n}" for n, line in enumerate(SENTENCES)), encoding="utf-8")
    torch.manual_seed(0)
    model = TextJepaForMaskedLM(config)
    model.set_token_counts(token_counts)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = {"recipe": {"data": {"data": str(source), "max_vocab": 64}}}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


@pytest.fixture
def cells_in_this_process(monkeypatch, repository):
    """Cells as the runner makes them, without a process each; the list tells which ones were run."""
    ran = []

    def run_cells(cells, workers, progress):
        outcome = Outcome(kept=[cell for cell in cells if cell.done])
        for cell in (cell for cell in cells if not cell.done):
            write_json(run_one(cell.arm, cell.seed, cell.key), cell.path, indent=None)
            outcome.ran.append(cell)
            ran.append(f"{cell.arm.name}/{cell.seed}")
        return outcome

    monkeypatch.setattr(comparison, "run_cells", run_cells)
    monkeypatch.chdir(repository)
    return ran


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A folder with train, valid and test dialogues of four turns."""
    folder = tmp_path_factory.mktemp("dialogue-source")
    generator = random.Random(3)
    words = [f"word{number}" for number in range(40)]
    for name, count in (("train", 20), ("valid", 12), ("test", 10)):
        turns = [[" ".join(generator.choices(words, k=5)) for _ in range(4)] for _ in range(count)]
        lines = [json.dumps({"turns": row}) for row in turns]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
