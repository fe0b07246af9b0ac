"""EleutherAI's lm-evaluation-harness opens the generator by its Auto class, and scores it as the model itself does."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tests.eval.causal_models import tiny_bpe, tiny_generator

pytestmark = pytest.mark.slow
lm_eval = pytest.importorskip("lm_eval")
tasks = pytest.importorskip("lm_eval.tasks")
QUESTIONS = [
    {"text": "the people of the united", "choices": ["states", "year", "freedom"], "answer": 0},
    {"text": "we must work for", "choices": ["peace", "union"], "answer": 1},
]
TEXTS = [{"text": "the state of the union"}, {"text": "peace"}]


@pytest.fixture(scope="module")
def generator() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = tiny_bpe()
    return tiny_generator(tokenizer, stage=3), tokenizer


@pytest.fixture(scope="module")
def scored(generator, repository: Path, tmp_path_factory) -> dict:
    """What the harness answers to the two tasks of docs/lm_eval.md, over the rows above, by the task's name."""
    folder = tmp_path_factory.mktemp("harness")
    for part in generator:
        part.save_pretrained(folder / "generator")
    page = (repository / "docs/lm_eval.md").read_text(encoding="utf-8")
    found = {}
    for name, rows, begins in (("addresses", QUESTIONS, True), ("addresses_text", TEXTS, False)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task = re.search(rf"```yaml\n(task: {name}\n.*?)```", page, re.DOTALL)[1]
        (folder / f"{name}.yaml").write_text(task.replace("PATH/TO", str(folder)), encoding="utf-8")
        given = f"pretrained={folder / 'generator'},trust_remote_code=True,dtype=float32,add_bos_token={begins}"
        found[name] = lm_eval.simple_evaluate(
            model="hf",
            model_args=given,
            tasks=[name],
            task_manager=tasks.TaskManager(include_path=str(folder), include_defaults=False),
            device="cpu",
            batch_size=2,
            bootstrap_iters=0,
        )
    return found


def test_every_choice_gets_the_likelihood_that_the_model_gives_it(generator, scored: dict) -> None:
    for question, sample in zip(QUESTIONS, scored["addresses"]["samples"]["addresses"], strict=True):
        for choice, (said, *_) in zip(question["choices"], sample["filtered_resps"], strict=True):
            assert float(said) == pytest.approx(loglikelihood(*generator, question["text"], f" {choice}"), abs=1e-3)


def test_text_gets_the_bits_per_byte_that_the_model_gives_it(generator, scored: dict) -> None:
    nats = sum(loglikelihood(*generator, "", row["text"]) for row in TEXTS)
    expected = -nats / sum(len(row["text"].encode()) for row in TEXTS) / torch.tensor(2.0).log().item()
    assert scored["addresses_text"]["results"]["addresses_text"]["bits_per_byte,none"] == pytest.approx(
        expected, abs=1e-4
    )


@torch.no_grad()
def loglikelihood(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: str, text: str) -> float:
    """Of a text behind the begin token and a context, in nats."""
    before, ids = tokenizer(context)["input_ids"], torch.tensor([tokenizer(context + text)["input_ids"]])
    logs = model(ids).logits[0, :-1].log_softmax(-1)
    return logs.gather(1, ids[0, 1:, None])[len(before) - 1 :].sum().item()
