import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from eval.diagnose import diagnose
from eval.diagnose.checks import sampling
from eval.diagnose.checks.sampling_claims import Scored, claims_of_record, expected_accuracies
from eval.diagnose.opening import make_subject
from training.data.settings import DataSettings
from training.data.tokenization import build_tokenizer

NAMES = ["congress", "the senate", "a farmer", "our army", "the people", "no nation"]
VERBS = ["must find", "has given", "will not keep", "asks for", "can build"]
THINGS = ["peace with all of its neighbours", "a new road to the west and back", "more than one reason to hope"]
TEXTS = [f"{name} {verb} {thing}" for name in NAMES for verb in VERBS for thing in THINGS]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(DataSettings(max_vocab=128), TEXTS, 32)


@pytest.fixture(scope="module")
def gpt2(tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def bert(tokenizer):
    torch.manual_seed(0)
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=48, **fields)).eval()


class Noisy(GPT2LMHeadModel):
    def forward(self, *args, **rest):
        output = super().forward(*args, **rest)
        output.logits = torch.nn.functional.dropout(output.logits, 0.3)
        return output


class Stuck(GPT2LMHeadModel):
    def forward(self, *args, **rest):
        output = super().forward(*args, **rest)
        output.logits = output.logits * 0
        output.logits[..., 7] = 50.0
        return output


@dataclass
class Record:
    claims: dict
    eval_loss: float
    ours: bool = False

    def values(self, name):
        return [100], [self.eval_loss]


def subject_of(model, tokenizer, **given):
    return make_subject(model, tokenizer, TEXTS, **given)


def metric_of(model, tokenizer, folder, compute, **given):
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to="none")
    trainer = Trainer(model, arguments, compute_metrics=compute, **given)
    return sampling.claimed_accuracy(subject_of(model, tokenizer, trainer=trainer))


def test_healthy_models_are_deterministic(gpt2, bert, tokenizer):
    for model in (gpt2, bert):
        assert sampling.greedy_deterministic(subject_of(model, tokenizer)).verdict == "pass"


def test_noise_in_the_forward_pass_is_named(gpt2, tokenizer):
    finding = sampling.greedy_deterministic(subject_of(Noisy(gpt2.config).eval(), tokenizer))
    assert (finding.check, finding.verdict) == ("sampling.greedy_deterministic", "fail")


def test_a_model_that_says_one_token_repeats_itself_even_when_drawn(gpt2, tokenizer):
    finding = sampling.repeats(subject_of(Stuck(gpt2.config).eval(), tokenizer))
    assert finding.verdict == "note"
    assert finding.evidence["drawn"] > 0.9
    assert "whatever the prompt" in finding.cause


def test_real_text_and_drawn_text_hardly_repeat(gpt2, tokenizer):
    evidence = sampling.repeats(subject_of(gpt2, tokenizer)).evidence
    assert evidence["drawn"] < 0.2
    assert evidence["real_text"] < 0.5


def test_ways_to_answer_score_what_a_count_of_draws_gives():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(400, 60, generator=generator)
    truth = torch.randint(0, 60, (400,), generator=generator)
    logits[torch.arange(400), truth] += 2
    expected = expected_accuracies(logits, truth)
    draws = torch.multinomial(logits.softmax(-1), 500, replacement=True, generator=generator)
    assert expected["sampled"] == pytest.approx(float((draws == truth[:, None]).double().mean()), abs=0.01)
    assert expected["greedy"] == float((logits.argmax(-1) == truth).double().mean())
    wins = 0
    for row in range(400):
        others = [token for token in range(60) if token != truth[row]]
        for _ in range(30):
            chosen = random.sample(others, 32)
            wins += bool((logits[row, chosen] < logits[row, truth[row]]).all())
    assert expected["among_negatives"] == pytest.approx(wins / 12000, abs=0.02)


def shifted(predictions, labels):
    return predictions[:, :-1], labels[:, 1:]


def greedy(asked):
    predictions, labels = shifted(asked.predictions, asked.label_ids)
    return {"accuracy": float((predictions.argmax(-1) == labels).mean()), "loss": 3.0}


def in_percent(asked):
    return {"accuracy": 100 * greedy(asked)["accuracy"]}


def drawn(asked, seed=None):
    predictions, labels = shifted(asked.predictions, asked.label_ids)
    noise = np.random.default_rng(seed).gumbel if seed is not None else np.random.gumbel
    return {"eval_accuracy": float(((predictions + noise(size=predictions.shape)).argmax(-1) == labels).mean())}


def drawn_with_a_seed(asked):
    return drawn(asked, seed=0)


def among_negatives(asked):
    predictions, labels = shifted(asked.predictions, asked.label_ids)
    others = np.random.default_rng(0).integers(0, predictions.shape[-1], (*labels.shape, 32))
    true = np.take_along_axis(predictions, labels[..., None], -1)
    rivals = np.take_along_axis(predictions, others, -1)
    return {"acc": float(((rivals < true) | (others == labels[..., None])).all(-1).mean())}


def top_5(asked):
    predictions, labels = shifted(asked.predictions, asked.label_ids)
    best = np.argsort(predictions, -1)[..., -5:]
    return {"accuracy": float((best == labels[..., None]).any(-1).mean())}


def honest_name(asked):
    return {"acc_neg": among_negatives(asked)["acc"], "top_5_accuracy_of_sampling": 0.9}


@pytest.mark.parametrize("compute", [greedy, in_percent])
def test_a_true_accuracy_passes(gpt2, tokenizer, tmp_path, compute):
    (finding,) = metric_of(gpt2, tokenizer, tmp_path, compute)
    assert finding.verdict == "pass"


def test_predictions_that_the_trainer_prepares_pass(gpt2, tokenizer, tmp_path):
    def compare(asked):
        return {"accuracy": float((asked.predictions[:, :-1] == asked.label_ids[:, 1:]).mean())}

    prepare = {"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}
    (finding,) = metric_of(gpt2, tokenizer, tmp_path, compare, **prepare)
    assert finding.verdict == "pass"


@pytest.mark.parametrize("compute", [drawn, drawn_with_a_seed, among_negatives, top_5])
def test_a_sampled_or_easier_metric_is_named(gpt2, tokenizer, tmp_path, compute):
    (finding,) = metric_of(gpt2, tokenizer, tmp_path, compute)
    assert (finding.check, finding.verdict) == ("sampling.claimed_accuracy", "fail")


def test_a_metric_with_an_honest_name_is_left_alone(gpt2, tokenizer, tmp_path):
    assert metric_of(gpt2, tokenizer, tmp_path, honest_name) == []
    assert metric_of(gpt2, tokenizer, tmp_path, None) == []


ACCURACIES = {"greedy": 0.22, "sampled": 0.08, "sampled_top_k": 0.14, "top_5": 0.45, "among_negatives": 0.82}


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [(0.22, "pass"), (0.29, "pass"), (0.8, "fail"), (0.46, "fail"), (0.135, "fail"), (0.64, "note"), (1.0, "note")],
)
def test_a_claim_of_a_run_is_held_against_what_the_model_does(gpt2, tokenizer, claim, verdict):
    subject = subject_of(gpt2, tokenizer)
    subject.record = Record({"eval_accuracy": claim}, eval_loss=4.0)
    (finding,) = claims_of_record(subject, Scored(ACCURACIES, 4.1, 1000))
    assert finding.verdict == verdict


def test_a_claim_about_other_text_is_never_called_false(gpt2, tokenizer):
    subject = subject_of(gpt2, tokenizer)
    subject.record = Record({"eval_accuracy": 0.81}, eval_loss=1.0)
    (finding,) = claims_of_record(subject, Scored(ACCURACIES, 4.1, 1000))
    assert finding.verdict == "note"


def test_scores_do_not_depend_on_how_many_logits_are_held_at_once(gpt2, tokenizer):
    subject = subject_of(gpt2, tokenizer)
    whole = Scored.of(subject, 8, 32)
    subject.limits.max_logit_bytes = 1
    pieces = Scored.of(subject, 8, 32)
    assert pieces.count == whole.count == 8 * 31
    assert pieces.accuracies == pytest.approx(whole.accuracies)
    assert pieces.loss == pytest.approx(whole.loss)


def test_a_sharp_model_that_is_wrong_is_noted(gpt2, tokenizer):
    class Wrong(GPT2LMHeadModel):
        """The true token has a fifth of the mass, another one slightly more."""

        def forward(self, input_ids=None, **rest):
            output = super().forward(input_ids=input_ids, **rest)
            following = torch.nn.functional.one_hot(input_ids.roll(-1, 1), output.logits.shape[-1])
            output.logits = 6.0 * following
            output.logits[..., 7] = 6.1
            return output

    subject = subject_of(Wrong(gpt2.config).eval(), tokenizer)
    assert sampling.greedy_vs_topk(subject)[0].verdict == "note"
    assert sampling.greedy_vs_topk(subject_of(gpt2, tokenizer))[0].verdict == "pass"


def test_weights_that_are_no_numbers_are_not_called_wrong_answers_or_a_fault_of_the_doctor(gpt2, tokenizer):
    broken = GPT2LMHeadModel(gpt2.config).eval()
    with torch.no_grad():
        broken.transformer.ln_f.weight.fill_(float("nan"))
    report = diagnose(broken, tokenizer, TEXTS, only=("sampling",))
    (finding,) = report.of("note")
    assert finding.cause == "the logits hold NaN or infinity, so nothing can be compared"
    assert "see gradient.non_finite" in finding.remedy
    assert report.fails() == set()
