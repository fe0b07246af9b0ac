import json

import numpy as np
import pytest
import torch

from training.common.errors import InputError
from training.data.collators import TextCollator
from training.data.dialogue_jepa import pairs as pairs_module
from training.data.dialogue_jepa.pairs import DialogueMasker, PairPreparation, count_seen
from training.data.sampling import PassDataset
from training.data.settings import DialogueDataSettings

DIALOGUES = [
    [f"hello {name} {n}", f"hello to {name}", "how are you ?", f"well , {n} of {n}"]
    for n in range(30)
    for name in ("ann", "bob")
]


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "a.jsonl", DIALOGUES)


def write(path, dialogues):
    path.write_text("".join(f"{json.dumps({'turns': turns})}\n" for turns in dialogues), encoding="utf-8")
    return path


def settings(source, **changes):
    return DialogueDataSettings(data=str(source), **{"max_vocab": 300, **changes})


def prepared(source, length=64, reply_length=32, tokenizer=None, **changes):
    return PairPreparation(settings(source, **changes), length, reply_length).prepare(tokenizer)


def test_every_reply_of_the_source_is_a_row_with_its_context_and_both_texts(source):
    ready = prepared(source, context_turns=2)
    everything = PairPreparation(settings(source, context_turns=2), 64, 32).split("all", ready.tokenizer)
    assert everything.report["tokens"]["pairs"] == len(everything.dataset) == 3 * len(DIALOGUES)
    row = everything.dataset[2]
    assert (row["prompt"], row["reply"]) == ("hello to ann\nhow are you?", "well, 0 of 0")
    assert ready.tokenizer.decode(row["input_ids"]) == "[BOS]hello to ann[EOS]how are you?[EOS]"
    assert ready.tokenizer.decode(row["labels"]) == "well, 0 of 0[EOS]"


def test_the_parts_share_no_dialogue_and_the_test_part_is_made_when_asked(source):
    ready = prepared(source)
    assert set(ready.reports) == {"train", "valid"}
    parts = [set(part["dialogue_id"]) for part in (ready.train, ready.valid, ready.test)]
    assert set(ready.reports) == {"train", "valid", "test"}
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(DIALOGUES)


def test_the_counts_are_those_of_what_is_to_be_predicted(source):
    ready = prepared(source)
    labels = np.concatenate(ready.train["labels"])
    assert ready.counts.tolist() == np.bincount(labels, minlength=300).tolist()
    assert ready.counts[ready.tokenizer.eos_token_id] == len(ready.train)
    assert ready.reports["train"]["tokens"]["reply_tokens"] == ready.counts.sum()


def test_what_is_too_long_is_cut_context_at_its_beginning_reply_at_its_end_and_counted(source):
    ready = prepared(source)
    short = prepared(source, length=8, reply_length=5, tokenizer=ready.tokenizer)
    for whole, cut in zip(ready.train, short.train, strict=True):
        assert cut["input_ids"][1:] == whole["input_ids"][1:][-7:]
        assert cut["labels"] == whole["labels"][:4]
    counts = short.reports["train"]["tokens"]
    for column, size, name in (("input_ids", 8, "context"), ("labels", 4, "reply")):
        over = [len(ids) - size for ids in ready.train[column] if len(ids) > size]
        assert counts["contexts_cut" if name == "context" else "replies_cut"] == len(over) > 0
        assert counts[f"{name}_tokens_cut"] == sum(over)


def test_held_out_replies_that_the_training_part_has_are_counted_whatever_their_case_and_punctuation(source, caplog):
    with caplog.at_level("INFO"):
        ready = prepared(source)
    seen = ready.reports["valid"]["seen_in_training"]
    assert seen == count_seen(ready.train, ready.valid)
    known = {reply.lower().strip("?") for reply in ready.train["reply"]}
    assert seen["pairs"] == len(ready.valid)
    assert seen["replies"] == sum(reply.lower().strip("?") in known for reply in ready.valid["reply"]) > 0
    assert f"valid: {seen['replies']} of its {seen['pairs']} replies stand in the training part too" in caplog.text
    shouted = ready.valid.map(lambda row: {"reply": f"{row['reply'].upper()} !"})
    assert count_seen(ready.train, shouted) == seen
    assert count_seen(ready.valid, ready.valid)["whole_pairs"] == len(ready.valid)
    new = ready.valid.map(lambda row: {"reply": f"{row['reply']} anew"})
    assert count_seen(ready.train, new) == {"pairs": len(ready.valid), "replies": 0, "whole_pairs": 0}


def test_a_second_time_nothing_is_made_and_a_moved_file_stays_prepared(source, monkeypatch):
    first = prepared(source)
    moved = source.rename(source.with_name("moved.jsonl"))
    monkeypatch.setattr(pairs_module, "load_dialogues", lambda *_: pytest.fail("dialogues were read again"))
    again = prepared(moved)
    assert again.data_hash == first.data_hash
    assert again.train.to_dict() == first.train.to_dict()


@pytest.mark.parametrize(
    "changes",
    [
        *({"context_turns": 1}, {"max_vocab": 290}, {"lowercase": False}, {"max_rows": 20}),
        *({"length": 32}, {"reply_length": 16}, {"min_reply_words": 2}, {"join_punctuation": False}),
    ],
)
def test_another_setting_or_length_makes_other_rows(source, changes):
    assert prepared(source, **changes).data_hash != prepared(source).data_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 2}, "max_position_embeddings: 2 leaves no room"),
        ({"reply_length": 1}, "max_reply_length: 1 leaves no room"),
        ({"length": 16, "reply_length": 17}, "max_reply_length: got 17.*max_position_embeddings=16"),
        ({"min_reply_words": 9}, "min_reply_words: got 9, and no reply"),
    ],
)
def test_lengths_and_filters_that_leave_nothing_are_named(source, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        prepared(source, **changes)
    assert "\n" not in str(caught.value)


def test_rows_come_by_number_and_make_batches_padded_on_either_side_by_itself(source):
    ready = prepared(source)
    rows = PassDataset(ready.train)
    numbers = [0, 1, 2, len(rows) - 1]
    batch = TextCollator(ready.tokenizer.pad_token_id)([rows[number, 7] for number in numbers])
    for place, number in enumerate(numbers):
        row = ready.train[number]
        assert batch["input_ids"][place][batch["attention_mask"][place] == 1].tolist() == row["input_ids"]
        assert batch["labels"][place][batch["labels"][place] != -100].tolist() == row["labels"]
        assert rows.lengths[number] == len(row["input_ids"]) + len(row["labels"])
    assert batch["labels"].shape == (4, max(len(ready.train[number]["labels"]) for number in numbers))
    assert batch["row_id"].tolist() == [ready.train[number]["row_id"] for number in numbers]
    assert batch["pass_index"].tolist() == [7] * 4


@pytest.mark.parametrize("decoder_latent", ["predicted", "target", "mixed"])
def test_the_model_is_given_the_share_of_the_target_only_where_both_are_mixed(decoder_latent):
    names = ("input_ids", "attention_mask", "labels", "row_id", "pass_index")
    batch = {name: torch.ones(2, 3, dtype=torch.long) for name in names}
    masker = DialogueMasker(decoder_latent)
    inputs = masker(batch, 0.25)
    share = inputs.pop("target_share", None)
    assert set(inputs) == {"input_ids", "attention_mask", "labels"}
    assert (None if share is None else float(share)) == (0.75 if decoder_latent == "mixed" else None)
