import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from configuration_jepa import TextJepaConfig
from eval.diagnose import thresholds
from eval.diagnose.checks.memorise import one_sentence
from eval.diagnose.examine import examine
from eval.diagnose.opening import make_subject
from eval.diagnose.probes.by_heart import Lesson, learn
from eval.diagnose.report.report import FAIL
from eval.diagnose.subject.subject import Limits
from modeling_jepa import TextJepaForMaskedLM
from training.data.settings import DataSettings
from training.data.tokenization import build_tokenizer

NAMES = ["congress", "the senate", "a farmer", "our army", "the people", "no nation"]
VERBS = ["must find", "has given", "will not keep", "asks for", "can build"]
THINGS = ["peace with all of its neighbours", "a new road to the west", "more than one reason to hope for better days"]
TEXTS = [f"{name} {verb} {thing} in this year of {name}" for name in NAMES for verb in VERBS for thing in THINGS]
LIMITS = {"rows": 4, "length": 24}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(DataSettings(max_vocab=128), TEXTS, 32)


@pytest.fixture
def only_sentence(monkeypatch):
    """A batch is tried for some steps, and 100 samples are not."""
    monkeypatch.setattr(thresholds, "BATCH_STEPS", 60)
    monkeypatch.setattr(thresholds, "SAMPLE_STEPS", 0)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Other tests at the same time change no verdict."""
    monkeypatch.setattr(thresholds, "PATIENCE", 100.0)


def gpt2(tokenizer, **changes):
    torch.manual_seed(0)
    fields = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, **changes}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **fields)).eval()


def bert(tokenizer):
    torch.manual_seed(0)
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **fields)).eval()


def text_jepa(tokenizer, **changes):
    torch.manual_seed(0)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "unk_token_id", "mask_token_id")}
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    return TextJepaForMaskedLM(TextJepaConfig(vocab_size=len(tokenizer), **fields, **ids, **changes)).eval()


def found(model, tokenizer, seconds=1000.0, **given):
    """Findings of the group by name."""
    subject = make_subject(model, tokenizer, TEXTS, limits=Limits(seconds=seconds, **LIMITS), **given)
    return {finding.check: finding for finding in examine(subject, ["memorise"]).findings}


def trainer(model, folder, **arguments):
    return Trainer(model, TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", **arguments))


@pytest.mark.parametrize("make", [gpt2, bert, text_jepa])
def test_a_healthy_model_memorises(make, tokenizer):
    findings = found(make(tokenizer), tokenizer)
    assert {finding.verdict for finding in findings.values()} == {"pass"}
    assert findings["memorise.sentence"].evidence["loss"] < 0.1
    assert findings.keys() == {"memorise.sentence", "memorise.batch", "memorise.samples"}


def test_the_model_at_hand_is_not_trained(tokenizer, only_sentence):
    model = gpt2(tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found(model, tokenizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_whose_answers_ignore_the_input_is_broken(tokenizer):
    class Deaf(GPT2LMHeadModel):
        def forward(self, input_ids=None, **rest):
            return super().forward(input_ids=torch.zeros_like(input_ids), **{**rest, "position_ids": input_ids * 0})

    finding = found(Deaf(gpt2(tokenizer).config).eval(), tokenizer)["memorise.sentence"]
    assert finding.verdict == FAIL
    assert finding.cause.startswith("broken")


def test_a_model_whose_weights_get_no_gradient_is_broken(tokenizer):
    class Detached(GPT2LMHeadModel):
        def forward(self, *args, **rest):
            output = super().forward(*args, **rest)
            output.logits = output.logits.detach() + 0 * self.lm_head.weight.sum()
            if output.loss is not None:
                output.loss = output.loss.detach() + 0 * self.lm_head.weight.sum()
            return output

    assert found(Detached(gpt2(tokenizer).config).eval(), tokenizer)["memorise.sentence"].verdict == FAIL


def test_a_loss_that_teaches_another_token_is_told_apart_from_a_broken_model(tokenizer):
    class TwoAhead(GPT2LMHeadModel):
        def forward(self, input_ids=None, labels=None, **rest):
            shifted = None if labels is None else torch.cat([labels[:, 1:], labels[:, :1] * 0 - 100], 1)
            return super().forward(input_ids=input_ids, labels=shifted, **rest)

    finding = found(TwoAhead(gpt2(tokenizer).config).eval(), tokenizer)["memorise.sentence"]
    assert finding.verdict == FAIL
    assert "by its own loss it is not" in finding.cause


def test_a_parameter_that_is_not_finite_is_said(tokenizer):
    model = gpt2(tokenizer)
    model.transformer.h[0].mlp.c_fc.weight.data[0, 0] = float("nan")
    finding = found(model, tokenizer)["memorise.sentence"]
    assert finding.verdict == FAIL
    assert "not finite" in finding.cause
    assert finding.evidence["loss"] is None


def test_a_loss_with_label_smoothing_is_no_fault(tokenizer, only_sentence):
    class Smoothed(GPT2LMHeadModel):
        def forward(self, input_ids=None, labels=None, **rest):
            output = super().forward(input_ids=input_ids, **rest)
            if labels is not None:
                answers = output.logits[:, :-1].flatten(0, 1)
                output.loss = torch.nn.functional.cross_entropy(answers, labels[:, 1:].flatten(), label_smoothing=0.2)
            return output

    findings = found(Smoothed(gpt2(tokenizer).config).eval(), tokenizer)
    assert {finding.verdict for finding in findings.values()} == {"pass"}


@pytest.mark.parametrize(("rate", "verdict"), [(3e-3, "pass"), (1e-4, "pass"), (1e-9, FAIL), (0.0, FAIL), (3.0, FAIL)])
def test_a_wrong_learning_rate_is_told_apart_from_a_broken_model(tokenizer, tmp_path, rate, verdict, only_sentence):
    model = gpt2(tokenizer)
    findings = found(model, tokenizer, trainer=trainer(model, tmp_path, learning_rate=rate))
    assert findings["memorise.sentence"].verdict == "pass"
    assert findings["memorise.learning_rate"].verdict == verdict


def test_a_rate_of_another_optimizer_is_not_judged(tokenizer, tmp_path, only_sentence):
    model = gpt2(tokenizer)
    findings = found(model, tokenizer, trainer=trainer(model, tmp_path, learning_rate=3.0, optim="sgd"))
    assert "memorise.learning_rate" not in findings


def test_without_time_nothing_is_claimed(tokenizer):
    findings = found(gpt2(tokenizer), tokenizer, seconds=1e-3)
    assert not [finding for finding in findings.values() if finding.verdict == FAIL]


def test_a_fixed_scale_of_cosines_leaves_a_floor(tokenizer):
    subject = make_subject(text_jepa(tokenizer, logit_scale="fixed", temperature=0.25), tokenizer, TEXTS)
    attempt = learn(subject, Lesson([one_sentence(subject)], 3e-3, 1, 10.0))
    expected = torch.tensor(len(tokenizer) - 1.0).mul(torch.tensor(-4.0).exp()).log1p()
    assert attempt.floor == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("changes", [{"logit_scale": "length"}, {"head": "softmax"}])
def test_a_head_that_is_not_bound_has_no_floor(tokenizer, changes):
    subject = make_subject(text_jepa(tokenizer, **changes), tokenizer, TEXTS)
    assert learn(subject, Lesson([one_sentence(subject)], 3e-3, 1, 10.0)).floor == pytest.approx(0, abs=1e-6)
