import random
import time
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from configuration_jepa import TextJepaConfig
from eval.diagnose.checks import data
from eval.diagnose.checks.data_batches import padding_in_loss, special_targets, visible_positions
from eval.diagnose.checks.training import step_time
from eval.diagnose.opening import make_subject
from eval.diagnose.subject.onlooker import training_batches, training_loss
from modeling_jepa import TextJepaForMaskedLM
from training.common.errors import InputError
from training.data.collators import TextCollator
from training.data.sampling import PassDataset
from training.data.settings import DataSettings, MaskingSettings
from training.data.text_jepa.masking import TextMasker
from training.data.text_overlap import Words, repeated, standing_in
from training.data.tokenization import TokenIds, build_tokenizer, encode_rows
from training.data.unknown import check_unknown
from training.run.state import RunState
from training.trainer.trainer import JepaTrainer, TrainingParts

NAMES = ["congress", "the senate", "a farmer", "our army", "the people", "no nation"]
VERBS = ["must find", "has given", "will not keep", "asks for", "can build"]
THINGS = ["peace with all of its neighbours", "a new road to the west and back", "more than one reason to hope"]
YEARS = ["now", "in this year", "after the war was over"]
TEXTS = [f"{name} {verb} {thing} {year}" for name in NAMES for verb in VERBS for thing in THINGS for year in YEARS]
WORDS = [
    f"{start}{end}" for start in ("riv", "mount", "hor", "wint", "lant", "copp") for end in ("er", "on", "ale", "ing")
]
OTHERS = [" ".join(random.Random(number).sample(WORDS, 14)) for number in range(300)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(DataSettings(max_vocab=128), TEXTS + OTHERS, 32)


@pytest.fixture(scope="module")
def gpt2(tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=48)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def bert(tokenizer):
    torch.manual_seed(0)
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=48, **fields)).eval()


@pytest.fixture(scope="module")
def text_jepa(tokenizer):
    torch.manual_seed(0)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "unk_token_id", "mask_token_id")}
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 48}
    return TextJepaForMaskedLM(TextJepaConfig(vocab_size=len(tokenizer), num_negatives=8, **fields, **ids)).eval()


@pytest.fixture(scope="module")
def t5(tokenizer):
    torch.manual_seed(0)
    fields = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), pad_token_id=0, **fields)).eval()


def subject_of(model, tokenizer, parts=TEXTS, trainer=None):
    return make_subject(model, tokenizer, parts, trainer=trainer)


def trainer_of(model, tokenizer, folder, collator, cls=Trainer, texts=TEXTS):
    rows = Dataset.from_list([{"input_ids": ids} for ids in tokenizer(list(texts))["input_ids"]])
    arguments = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True
    )
    return cls(model, arguments, train_dataset=rows, data_collator=collator)


def right(tokenizer):
    def collate(rows):
        batch = dict(tokenizer.pad(rows, return_tensors="pt"))
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    return collate


# ---- texts ----


def test_rows_that_repeat_are_counted_by_their_words():
    words = Words.of(["one two three four five six", "One, two three four five SIX!", "seven", "seven"], 100)
    assert repeated(words, 6).exact == pytest.approx(0.5)
    assert repeated(words, 1).exact == pytest.approx(7 / 14)


def test_the_same_words_in_another_order_are_another_row():
    words = Words.of(["one two three four five six", "six five four three two one"], 100)
    assert repeated(words, 1).exact == 0


def test_a_row_with_a_word_changed_is_found_by_its_ngrams_and_ngrams_do_not_cross_rows():
    row = " ".join(f"w{number}" for number in range(40))
    changed = row.replace("w39", "other")
    train = Words.of([row], 1000)
    assert standing_in(Words.of([changed], 1000), train, 6, 8, 0.7).near == 1
    assert standing_in(Words.of([changed], 1000), train, 6, 8, 0.7).exact == 0
    halves = [" ".join(f"w{number}" for number in numbers) for numbers in (range(36, 40), range(4))]
    assert standing_in(Words.of([" ".join(halves)], 1000), Words.of(halves, 1000), 6, 8, 0.7).near == 0


def test_no_text_at_all_is_no_error():
    assert repeated(Words.of([], 10), 6).exact == 0
    assert standing_in(Words.of(["a b"], 10), Words.of([], 10), 1, 8, 0.7).near == 0


@pytest.mark.parametrize(("copies", "verdict"), [(0, "pass"), (0.05, "note"), (1.0, "fail")])
def test_rows_that_stand_twice_are_named(gpt2, tokenizer, copies, verdict):
    texts = TEXTS + TEXTS[: int(copies * len(TEXTS))]
    (finding,) = data.duplicates(subject_of(gpt2, tokenizer, {"train": texts, "valid": OTHERS}))
    assert (finding.check, finding.verdict) == ("data.duplicates", verdict)


@pytest.mark.parametrize(("leaked", "verdict"), [(0, "pass"), (0.02, "note"), (0.2, "fail"), (1.0, "fail")])
@pytest.mark.parametrize("part", ["valid", "test"])
def test_held_out_rows_inside_training_are_named(gpt2, tokenizer, leaked, part, verdict):
    train = TEXTS + OTHERS[: int(leaked * len(OTHERS))]
    (finding,) = data.overlap(subject_of(gpt2, tokenizer, {"train": train, part: OTHERS}))
    assert (finding.check, finding.verdict) == ("data.overlap", verdict)
    assert part in finding.evidence["part"]


def test_a_file_without_parts_is_not_compared_with_itself(gpt2, tokenizer):
    (finding,) = data.overlap(subject_of(gpt2, tokenizer, TEXTS))
    assert finding.verdict == "pass"


def test_the_sets_of_a_trainer_are_compared_too(gpt2, tokenizer, tmp_path):
    trainer = trainer_of(gpt2, tokenizer, tmp_path, right(tokenizer))
    trainer.eval_dataset = trainer.train_dataset.select(range(60))
    findings = data.overlap(subject_of(gpt2, tokenizer, {"train": TEXTS, "valid": OTHERS}, trainer))
    assert [finding.verdict for finding in findings] == ["pass", "fail"]
    assert "Trainer" in findings[1].evidence["part"]


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        (TEXTS, "pass"),
        ([text.replace("e", "é").replace("a", "á") for text in TEXTS], "fail"),
        ([text + " zebras" for text in TEXTS], "pass"),
    ],
)
def test_a_tokenizer_of_other_text_is_named(gpt2, tokenizer, texts, verdict):
    assert data.tokens(subject_of(gpt2, tokenizer, texts)).verdict == verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.08, "pass"), (0.2, "note"), (0.45, "note"), (0.6, "fail")])
def test_unknown_tokens_are_noted_and_failed_where_training_warns_and_refuses(gpt2, tokenizer, share, verdict):
    known, unknown = TEXTS[0].split()[:1], ["zzzz"]
    texts = [" ".join(known * round(100 * (1 - share)) + unknown * round(100 * share))] * 4
    assert data.tokens(subject_of(gpt2, tokenizer, texts)).verdict == verdict
    if verdict == "fail":
        with pytest.raises(InputError, match="60% of the tokens"):
            check_unknown(share, "the text", allowed=False)
    else:
        check_unknown(share, "the text", allowed=False)


def test_a_tokenizer_that_drops_all_of_the_text_is_named(gpt2, tokenizer):
    subject = subject_of(gpt2, tokenizer, TEXTS)
    subject.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocab={"я": 0}, merges=[])))
    finding = data.tokens(subject)
    assert (finding.verdict, finding.evidence["tokens_looked_at"]) == ("fail", 0)
    assert "makes no token of the text" in finding.cause


# ---- padding in the loss ----


@pytest.mark.parametrize("name", ["gpt2", "bert", "text_jepa", "t5"])
def test_padding_has_no_part_in_a_healthy_loss(name, tokenizer, request):
    (finding,) = padding_in_loss(subject_of(request.getfixturevalue(name), tokenizer))
    assert finding.verdict == "pass"


def test_a_model_that_averages_over_padding_is_named(gpt2, tokenizer):
    class Diluted(GPT2LMHeadModel):
        def forward(self, input_ids=None, labels=None, **rest):
            output = super().forward(input_ids=input_ids, **rest)
            if labels is not None:
                each = torch.nn.functional.cross_entropy(
                    output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
                )
                output.loss = each.mean()
            return output

    (finding,) = padding_in_loss(subject_of(Diluted(gpt2.config).eval(), tokenizer))
    assert finding.verdict == "fail"


def test_a_healthy_trainer_counts_no_padding(gpt2, tokenizer, tmp_path):
    trainer = trainer_of(gpt2, tokenizer, tmp_path, right(tokenizer))
    finding = padding_in_loss(subject_of(gpt2, tokenizer, trainer=trainer))[1]
    assert finding.verdict == "pass"
    assert finding.evidence["padded_positions"] > 0


def padded_labels(tokenizer):
    def collate(rows):
        batch = dict(tokenizer.pad(rows, return_tensors="pt"))
        return {**batch, "labels": batch["input_ids"].clone()}

    return collate


def without_mask(tokenizer):
    def collate(rows):
        batch = padded_labels(tokenizer)(rows)
        return {"input_ids": batch["input_ids"], "labels": batch["labels"]}

    return collate


@pytest.mark.parametrize("wrong", [padded_labels, without_mask])
def test_labels_at_padding_are_named(gpt2, tokenizer, tmp_path, wrong):
    trainer = trainer_of(gpt2, tokenizer, tmp_path, wrong(tokenizer))
    finding = padding_in_loss(subject_of(gpt2, tokenizer, trainer=trainer))[1]
    assert (finding.check, finding.verdict) == ("data.padding_in_loss", "fail")
    assert finding.evidence["labels_at_padding"] > 0


def test_a_trainer_that_makes_labels_of_padding_itself_is_named(gpt2, tokenizer, tmp_path):
    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **rest):
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            targets = inputs["input_ids"][:, 1:].flatten()
            return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets)

    trainer = trainer_of(gpt2, tokenizer, tmp_path, right(tokenizer), Own)
    assert padding_in_loss(subject_of(gpt2, tokenizer, trainer=trainer))[1].verdict == "fail"


def test_padding_labels_of_a_decoder_are_named(t5, tokenizer, tmp_path):
    def collate(rows, pad=tokenizer.pad_token_id):
        batch = dict(tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt"))
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad)}

    def ignoring(rows):
        return collate(rows, -100)

    for collator, verdict in ((collate, "fail"), (ignoring, "pass")):
        trainer = trainer_of(t5, tokenizer, tmp_path, collator)
        assert padding_in_loss(subject_of(t5, tokenizer, trainer=trainer))[1].verdict == verdict


# ---- positions that were never hidden, special tokens ----


def test_the_masks_of_the_library_are_healthy(bert, tokenizer, tmp_path):
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.25)
    subject = subject_of(bert, tokenizer, trainer=trainer_of(bert, tokenizer, tmp_path, collator))
    assert visible_positions(subject).verdict == "pass"
    assert special_targets(subject).verdict == "pass"
    assert padding_in_loss(subject)[1].verdict == "pass"


def test_a_loss_on_visible_positions_is_named(bert, tokenizer, tmp_path):
    masked = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.25)

    def collate(rows):
        batch = masked(rows)
        intact = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
        return {**batch, "labels": intact.masked_fill(batch["attention_mask"] == 0, -100)}

    subject = subject_of(bert, tokenizer, trainer=trainer_of(bert, tokenizer, tmp_path, collate))
    assert (visible_positions(subject).check, visible_positions(subject).verdict) == ("data.visible_positions", "fail")


def test_a_mask_token_among_the_labels_is_noted(bert, tokenizer, tmp_path):
    masked = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.25)

    def collate(rows):
        batch = masked(rows)
        return {**batch, "labels": batch["labels"].masked_fill(batch["labels"] != -100, tokenizer.mask_token_id)}

    finding = special_targets(subject_of(bert, tokenizer, trainer=trainer_of(bert, tokenizer, tmp_path, collate)))
    assert finding.verdict == "note"
    assert "mask" in finding.cause


# ---- our own Trainer, and leaving no trace ----


@pytest.fixture
def own_trainer(text_jepa, tokenizer, tmp_path):
    texts = Dataset.from_dict({"text": TEXTS, "row_id": list(range(len(TEXTS)))})
    rows = encode_rows(texts, tokenizer, 32).dataset
    masker = TextMasker(MaskingSettings(), TokenIds.from_tokenizer(tokenizer), seed=0, num_negatives=8)
    parts = TrainingParts(PassDataset(rows), TextCollator(tokenizer.pad_token_id), masker, lambda model: {}, 1)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=5, use_cpu=True, report_to="none", remove_unused_columns=False
    )
    return JepaTrainer(text_jepa, arguments, tokenizer, parts, RunState())


def test_our_own_trainer_is_healthy(own_trainer, text_jepa, tokenizer):
    subject = subject_of(text_jepa, tokenizer, trainer=own_trainer)
    found = [*padding_in_loss(subject), visible_positions(subject), special_targets(subject)]
    assert [finding.verdict for finding in found] == ["pass"] * 4
    assert found[2].evidence["labels"] > 0


def test_looking_leaves_no_trace_in_a_trainer(own_trainer, text_jepa):
    own_trainer.window.add("tokens", torch.ones(2))
    step_loss, loaders = own_trainer._step_loss, list(own_trainer.accelerator._dataloaders)
    first = training_batches(own_trainer, 2)
    training_loss(own_trainer, text_jepa, first[0])
    assert list(own_trainer.window.step) == ["tokens"]
    assert own_trainer.window._started is None
    assert own_trainer.state.max_steps == 0
    assert torch.equal(own_trainer._step_loss, step_loss)
    assert own_trainer._step_inputs == []
    assert own_trainer.accelerator._dataloaders == loaders
    again = training_batches(own_trainer, 2)
    assert all(torch.equal(first[0][name], again[0][name]) for name in first[0])


def test_a_collator_with_its_own_random_numbers_goes_on_as_if_nothing_had_been(gpt2, tokenizer, tmp_path):
    class Noisy:
        def __init__(self):
            self.generator = torch.Generator().manual_seed(0)
            self.calls = []

        def __call__(self, rows):
            self.calls.append(float(torch.rand(1, generator=self.generator)))
            return right(tokenizer)(rows)

    collator = Noisy()
    before = SimpleNamespace(state=collator.generator.get_state(), calls=list(collator.calls))
    training_batches(trainer_of(gpt2, tokenizer, tmp_path, collator), 2)
    assert torch.equal(collator.generator.get_state(), before.state)
    assert collator.calls == before.calls


def test_a_loader_that_is_slower_than_the_model_is_named(gpt2, tokenizer, tmp_path):
    def slow(rows):
        time.sleep(0.4)
        return right(tokenizer)(rows)

    found = step_time(subject_of(gpt2, tokenizer, trainer=trainer_of(gpt2, tokenizer, tmp_path, slow)))
    assert (found.verdict, found.check) == ("fail", "training.time")
    assert found.evidence["seconds_waiting_a_step"] > 0.4
    # On a loaded machine the model slows down as well: what is right stays right.
    found = step_time(subject_of(gpt2, tokenizer, trainer=trainer_of(gpt2, tokenizer, tmp_path, right(tokenizer))))
    assert found.verdict != "fail"
