"""The dialogue model: what it reads, what its decoder sees, its teacher, its generation, both roads of loading."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSeq2SeqLM
from transformers.generation import configuration_utils

from configuration_jepa import DialogueJepaConfig
from modeling_jepa import DialogueJepaForConditionalGeneration, DialogueJepaModel
from tests.clean_process import run_clean
from tests.families import DIALOGUE_JEPA, tiny_tokenizer

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 97,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VARIANTS = {
    "both": {},
    "latent": {"context_access": "latent", "num_latents": 3, "collapse_protection": "sigreg"},
    "deep": {"decoder_layers": 3, "tie_word_embeddings": False, "ranking_target": "online", "bag_weight": 0.3},
    "gpt2": {"decoder_config": GPT2},
    "llama": {"decoder_config": LLAMA, "context_access": "latent", "collapse_protection": "none"},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def dialogue(variant: str = "both", **changes) -> DialogueJepaForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 16}
    config = DialogueJepaConfig(**{**sizes, "max_reply_length": 12, **VARIANTS[variant], **changes})
    model = DialogueJepaForConditionalGeneration(config).eval()
    if "decoder_config" in VARIANTS[variant]:  # what adds nothing before it has learnt has learnt
        torch.nn.init.normal_(model.decoder.word_proj.weight, std=0.1)
    return model


def pairs(rows: int = 4, length: int = 9, reply: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Contexts and replies of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randint(5, 97, (rows, length), generator=generator)
    labels = torch.randint(5, 97, (rows, reply), generator=generator)
    ends = torch.arange(rows) % 3
    attention_mask = (torch.arange(length)[None] < (length - ends)[:, None]).long()
    labels[torch.arange(reply)[None] >= (reply - ends)[:, None]] = -100
    return {"input_ids": context * attention_mask, "attention_mask": attention_mask, "labels": labels}


def asked(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


# ---- loading ----


@every_variant
def test_every_auto_class_opens_a_checkpoint_bitwise(variant: str, tmp_path: Path) -> None:
    model, inputs = dialogue(variant), pairs()
    model.save_pretrained(tmp_path)
    opened, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(opened(**inputs).loss, model(**inputs).loss)
    assert torch.equal(opened(**inputs).logits, model(**inputs).logits)
    reader, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(reader) is DialogueJepaModel
    assert not any(info.values()), info
    assert torch.equal(reader(**asked(inputs)).predicted_latents, model(**inputs).predicted_latents)
    assert not any("teacher" in name for name in reader.state_dict())


def test_a_checkpoint_opens_where_the_packages_are_not(tmp_path: Path) -> None:
    model, inputs = dialogue(), pairs()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer(model.config).save_pretrained(tmp_path / "model")
    save_file({f"input.{name}": tensor for name, tensor in asked(inputs).items()}, tmp_path / "answers.safetensors")
    code = (
        "import sys; import torch; from safetensors.torch import load_file, save_file;"
        "from transformers import AutoModel, AutoModelForSeq2SeqLM; import json;"
        "given = {n.removeprefix('input.'): t for n, t in load_file('answers.safetensors').items()};"
        "reader = AutoModel.from_pretrained('model', trust_remote_code=True);"
        "model = AutoModelForSeq2SeqLM.from_pretrained('model', trust_remote_code=True);"
        "said = model.generate(**given, do_sample=False); latents = reader(**given).predicted_latents.detach();"
        "model.save_pretrained('again'); save_file({'said': said, 'latents': latents}, 'out.safetensors');"
        "print(json.dumps([type(reader).__module__, type(model).__module__]))"
    )
    child = run_clean(["-c", code], cwd=tmp_path, modules=tmp_path / "modules")
    assert child.returncode == 0, child.stderr
    assert all(name.startswith("transformers_modules.") for name in json.loads(child.stdout.splitlines()[-1]))
    out = load_file(tmp_path / "out.safetensors")
    assert torch.equal(out["said"], model.generate(**asked(inputs), do_sample=False))
    assert torch.equal(out["latents"], model(**inputs).predicted_latents.detach())
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again(**inputs).loss, model(**inputs).loss)


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_every_word_of_a_pretrained_decoder_reads_the_latents(variant: str) -> None:
    model, inputs = dialogue(variant, context_access="latent"), pairs(rows=2)
    inputs["labels"][1] = inputs["labels"][0]
    read = []
    model.decoder.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(**inputs)
    first, second = read.pop()[:, -inputs["labels"].shape[1] :]
    assert (first - second).norm(dim=-1).min() > 1e-3
    torch.testing.assert_close(first - second, (first - second)[:1].expand_as(first))
    torch.nn.init.zeros_(model.decoder.word_proj.weight)
    model(**inputs).loss.backward()
    first, second = read.pop()[:, -inputs["labels"].shape[1] :]
    assert torch.equal(first, second)
    assert model.decoder.word_proj.weight.grad.any()


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_a_pretrained_decoder_adds_nothing_to_its_words_before_it_has_learnt(variant: str) -> None:
    config = dialogue(variant).config
    assert not DialogueJepaForConditionalGeneration(config).decoder.word_proj.weight.any()


@every_variant
def test_logits_word_by_word_are_those_of_the_whole_reply(variant: str) -> None:
    model, inputs = dialogue(variant), pairs()
    said = model.prepare_decoder_input_ids_from_labels(inputs["labels"].clamp_min(5))
    with torch.no_grad():
        whole = model(**asked(inputs), decoder_input_ids=said).logits
        read, cache, steps = model.get_encoder()(**asked(inputs)), None, []
        for place in range(said.shape[1]):
            output = model(
                encoder_outputs=read,
                attention_mask=inputs["attention_mask"],
                decoder_input_ids=said[:, place : place + 1],
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_tied_tables_are_tied_after_reload(tmp_path: Path) -> None:
    dialogue().save_pretrained(tmp_path)
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    table = opened.get_input_embeddings().weight
    assert opened.get_output_embeddings().weight is table
    assert opened.decoder.embed_tokens.weight is table


def test_a_checkpoint_of_the_model_before_tokens_were_scaled_is_refused(tmp_path: Path) -> None:
    dialogue().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config.pop("scale_embeddings") is True
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"made by an earlier version.*train it again"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path)


@every_variant
def test_a_model_in_half_precision_gives_every_part_of_its_loss(variant: str) -> None:
    model = dialogue(variant, bag_weight=0.3)
    expected = model(**pairs()).loss_parts
    found = model.to(torch.bfloat16)(**pairs()).loss_parts
    assert found.keys() == expected.keys()
    for name in ("reply", "bag"):
        torch.testing.assert_close(found[name], expected[name], atol=0, rtol=0.05)


# ---- what is read, and what the decoder sees ----


@every_variant
def test_padding_on_either_side_and_batch_mates_change_no_answer(variant: str) -> None:
    model, inputs = dialogue(variant), pairs()
    logits = model(**inputs).logits
    for row in range(4):
        length, reply = int(inputs["attention_mask"][row].sum()), int((inputs["labels"][row] != -100).sum())
        alone = {name: tensor[row : row + 1, :length] for name, tensor in asked(inputs).items()}
        labels = inputs["labels"][row : row + 1, :reply]
        torch.testing.assert_close(model(**alone, labels=labels).logits[0], logits[row, :reply], atol=1e-5, rtol=0)
        left = {name: torch.nn.functional.pad(tensor, (3, 0)) for name, tensor in alone.items()}
        torch.testing.assert_close(model(**left, labels=labels).logits[0], logits[row, :reply], atol=1e-5, rtol=0)


@every_variant
def test_a_token_that_is_said_later_moves_nothing_before(variant: str) -> None:
    model, inputs = dialogue(variant), pairs()
    said = torch.randint(5, 97, (4, 8), generator=torch.Generator().manual_seed(3))
    other = said.clone()
    other[:, 5:] = (other[:, 5:] + 11) % 90 + 5
    first, second = (model(**asked(inputs), decoder_input_ids=tokens).logits for tokens in (said, other))
    assert torch.equal(first[:, :5], second[:, :5])
    assert not torch.allclose(first[:, 5:], second[:, 5:])


@pytest.mark.parametrize(("access", "sees"), [("latent", False), ("both", True)])
def test_with_latent_access_the_context_reaches_the_decoder_by_the_latent_alone(access: str, sees: bool) -> None:
    model, inputs = dialogue(context_access=access), pairs()
    read = model.model(**asked(inputs))
    read.last_hidden_state = read.last_hidden_state + 1.0
    said = torch.full((4, 3), 7)
    whole = model(**asked(inputs), decoder_input_ids=said).logits
    changed = model(attention_mask=inputs["attention_mask"], encoder_outputs=read, decoder_input_ids=said).logits
    assert torch.equal(whole, changed) != sees
    read.predicted_latents = read.predicted_latents.flip(-1)
    moved = model(attention_mask=inputs["attention_mask"], encoder_outputs=read, decoder_input_ids=said).logits
    assert not torch.allclose(changed, moved)


def test_latents_and_context_have_a_softmax_each_however_long_the_context_is() -> None:
    model, inputs = dialogue(num_latents=3), pairs(length=9)
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True)
    for weights in output.cross_attentions:
        assert weights.shape[-1] == 3 + 9
        torch.testing.assert_close(weights[..., :3].sum(-1), torch.ones(weights.shape[:-1]))
        torch.testing.assert_close(weights[..., 3:].sum(-1), torch.ones(weights.shape[:-1]))
        padded = (inputs["attention_mask"] == 0)[:, None, None].expand_as(weights[..., 3:])
        assert not weights[..., 3:][padded].any()


@every_variant
def test_the_blocks_that_stay_whole_are_there(variant: str) -> None:
    model = dialogue(variant)
    assert {type(module).__name__ for module in model.modules()} >= set(model._no_split_modules)


@pytest.mark.parametrize("variant", ["both", "gpt2"])
def test_tokens_are_read_longer_than_they_stand_in_the_table_where_the_configuration_says_so(variant: str) -> None:
    scaled, plain = dialogue(variant), dialogue(variant, scale_embeddings=False)
    inputs, factor = pairs(), scaled.config.hidden_size**0.5
    before = plain(**inputs)
    assert not torch.allclose(scaled(**inputs).predicted_latents, before.predicted_latents, atol=1e-3)
    tables = {plain.model.get_input_embeddings().weight, plain.teacher.target.encoder.embed_tokens.weight}
    if variant == "both":
        plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.clone())
        tables.add(plain.decoder.embed_tokens.weight)
    with torch.no_grad():
        for table in tables:
            table.mul_(factor)
    after, expected = plain(**inputs), scaled(**inputs)
    for name in ("predicted_latents", "target_latents", "logits"):
        torch.testing.assert_close(after[name], expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("latent", "share"), [("predicted", 0.0), ("target", 1.0), ("mixed", 0.5)])
def test_in_training_the_decoder_sees_the_latents_that_the_recipe_says(latent: str, share: float) -> None:
    model, inputs = dialogue(decoder_latent=latent).train(), pairs()
    output = model(**inputs, target_share=0.5)
    expected = share * output.target_latents + (1 - share) * output.predicted_latents
    expected = expected * 32**0.5 / expected.norm(dim=-1, keepdim=True)
    seen = model._decoder_latents(output.predicted_latents, output.target_latents, 0.5)
    torch.testing.assert_close(seen, expected)
    assert torch.equal(model.eval()._decoder_latents(output.predicted_latents, output.target_latents, 0.5),
                       output.predicted_latents)  # fmt: skip


def test_a_reply_that_stands_twice_in_a_batch_is_no_wrong_answer() -> None:
    model, inputs = dialogue(), pairs(rows=2)
    twice = {name: tensor[[0, 0]] for name, tensor in inputs.items()}
    alone = {name: tensor[[0]] for name, tensor in inputs.items()}
    for given in (twice, alone):
        ranking = model(**given).loss_parts["ranking"]
        assert float(ranking[0]) == 0.0
    assert float(model(**inputs).loss_parts["ranking"][0]) > 0.0


def test_a_cache_of_a_fixed_size_is_used_or_refused_by_name() -> None:
    asked = {"cache_implementation": "static", "do_sample": False, "max_length": 8}
    model, inputs = dialogue("latent"), {name: tensor for name, tensor in pairs().items() if name != "labels"}
    assert torch.equal(
        model.generate(**inputs, **asked), model.generate(**inputs, **{**asked, "cache_implementation": None})
    )
    with pytest.raises(ValueError, match="'static' is not possible with context_access='both'"):
        dialogue("both").generate(**inputs, **asked)
    with pytest.raises(ValueError, match="'static' is not possible with a pretrained decoder"):
        dialogue("llama").generate(**inputs, **asked)


@pytest.mark.parametrize("access", ["latent", "both"])
@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_a_pretrained_decoder_records_its_words_and_not_its_prefix(variant: str, access: str) -> None:
    model, inputs = dialogue(variant, context_access=access, attn_implementation="eager"), pairs()
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    words = inputs["labels"].shape[1]
    last = output.decoder_hidden_states[-1]
    assert {states.shape[1] for states in output.decoder_hidden_states} == {words}
    torch.testing.assert_close(model.decoder.language_model.get_output_embeddings()(last), output.logits)
    assert {rows.shape[2] for rows in output.decoder_attentions} == {words}
    assert output.decoder_attentions[0].shape[3] > words  # they look at the prefix too


# ---- learning ----


def test_the_bag_of_words_counts_each_token_of_a_reply_whatever_its_place() -> None:
    model, inputs = dialogue(bag_weight=1.0), pairs()
    total, count = model(**inputs).loss_parts["bag"]
    backwards = inputs["labels"].clone()
    for row in backwards:
        known = row != -100
        row[known] = row[known].flip(0)
    torch.testing.assert_close(model(**{**inputs, "labels": backwards}).loss_parts["bag"][0], total)
    vectors = model.bag_head(model(**inputs).predicted_latents)
    scores = (vectors @ model.get_input_embeddings().weight.T).log_softmax(-1)
    by_hand = [-scores[row, labels[labels != -100]].mean() for row, labels in enumerate(inputs["labels"])]
    assert float(count) == 4
    torch.testing.assert_close(total / count, torch.stack(by_hand).mean())
    assert "bag" not in dialogue()(**inputs).loss_parts


@every_variant
def test_every_trainable_parameter_gets_a_gradient(variant: str) -> None:
    model = dialogue(variant).train()
    model(**pairs()).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_without_a_gradient_into_the_encoder_the_reply_teaches_the_decoder_alone() -> None:
    weights = {"alignment_weight": 0.0, "ranking_weight": 0.0, "collapse_protection": "none"}
    model = dialogue("latent", decoder_gradient=False, tie_word_embeddings=False, **weights).train()
    model(**pairs()).loss.backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"decoder", "lm_head"}


@pytest.mark.parametrize("target", ["teacher", "online"])
def test_the_reply_side_of_the_ranking_learns_where_the_student_reads_it(target: str) -> None:
    only = {"reply_weight": 0.0, "alignment_weight": 0.0, "collapse_protection": "none", "predictor_layers": 0}
    model, inputs = dialogue(ranking_target=target, **only).train(), pairs()
    context_words = inputs["input_ids"].unique()
    reply_words = [word for word in inputs["labels"].unique().tolist() if word > 0 and word not in context_words]
    model(**inputs).loss.backward()
    table = model.get_input_embeddings().weight.grad
    assert bool(table[reply_words].any()) == (target == "online")
    assert all(p.grad is None for p in model.teacher.parameters())


def test_both_ranking_targets_are_the_same_before_the_teacher_has_moved() -> None:
    inputs = pairs()
    losses = [dialogue(ranking_target=target)(**inputs).loss for target in ("teacher", "online")]
    torch.testing.assert_close(*losses)


def test_the_teacher_follows_the_reader_is_saved_and_stays_frozen(tmp_path: Path) -> None:
    model, inputs = dialogue(teacher_momentum=0.5).train(), pairs()
    student = dict(model.model.reader.named_parameters())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        before = {name: own.clone() for name, own in model.teacher.target.named_parameters()}
        model.update_teacher()
    for name, own in model.teacher.target.named_parameters():
        torch.testing.assert_close(own, 0.5 * before[name] + 0.5 * student[name])
    model.save_pretrained(tmp_path)
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert opened.teacher.num_updates == 3
    assert not any(p.requires_grad for p in opened.teacher.parameters())
    assert torch.equal(opened(**inputs).target_latents, model.eval()(**inputs).target_latents)


@every_variant
def test_one_batch_of_replies_is_memorised(variant: str) -> None:
    model, inputs = dialogue(variant, ranking_weight=0.0, alignment_weight=0.0, collapse_weight=0.0).train(), pairs()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        output = model(**inputs)
        total, count = output.loss_parts["reply"]
        if float(total / count) < 0.1:
            return
        output.loss.backward()
        optimizer.step()
    pytest.fail(f"{float(total / count)} after 300 steps")


def test_the_reply_s_loss_is_a_share_of_the_step_s_mean() -> None:
    model, inputs = dialogue(alignment_weight=0.0, ranking_weight=0.0, collapse_protection="none"), pairs()
    items = int((inputs["labels"] != -100).sum())
    halves = [
        model(**{name: tensor[rows] for name, tensor in inputs.items()}, num_items_in_batch=items).loss
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(halves), model(**inputs).loss)


def test_training_makes_no_logits_and_the_same_loss() -> None:
    model, inputs = dialogue(), pairs()
    whole = model(**inputs)
    trained = model.train()(**inputs)
    assert trained.logits is None
    torch.testing.assert_close(trained.loss, whole.loss)


# ---- generation ----


@every_variant
def test_cached_greedy_equals_uncached_greedy(variant: str) -> None:
    model, inputs = dialogue(variant), asked(pairs())
    cached = model.generate(**inputs, do_sample=False)
    assert torch.equal(cached, model.generate(**inputs, do_sample=False, use_cache=False))
    assert cached.shape[1] <= model.config.max_reply_length
    assert (cached[:, 0] == model.config.bos_token_id).all()


@every_variant
def test_beams_and_several_samples_work(variant: str) -> None:
    model, inputs = dialogue(variant), asked(pairs())
    assert len(model.generate(**inputs, num_beams=3, do_sample=False)) == 4
    assert len(model.generate(**inputs, top_k=50, num_return_sequences=2)) == 8


def test_generation_samples_by_default() -> None:
    model, inputs = dialogue(), asked(pairs())
    torch.manual_seed(1)
    drawn = {tuple(model.generate(**inputs, top_k=50)[0].tolist()) for _ in range(5)}
    assert len(drawn) > 1


def test_the_temperature_of_the_ranking_loss_is_not_taken_for_that_of_sampling(monkeypatch, tmp_path: Path) -> None:
    warnings: list[str] = []
    for level in ("warning", "warning_once"):
        monkeypatch.setattr(configuration_utils.logger, level, lambda message, *args: warnings.append(message))
    dialogue(temperature=0.03).save_pretrained(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert (model.generation_config.temperature, model.config.temperature) == (0.7, 0.03)
    assert warnings == []


# ---- bad input ----


@every_variant
def test_more_tokens_change_no_answer_and_the_checkpoint_opens_again(variant: str, tmp_path: Path) -> None:
    model, inputs = dialogue(variant), pairs()
    before = model(**inputs)
    model.resize_token_embeddings(101)
    after = model(**inputs)
    torch.testing.assert_close(after.logits[..., :97], before.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.target_latents, before.target_latents, atol=1e-5, rtol=0)
    inputs["labels"][:, 0] = inputs["input_ids"][:, 0] = 100
    assert model(**inputs).loss.isfinite()
    model.update_teacher()
    model.save_pretrained(tmp_path)
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(opened(**inputs).logits, model(**inputs).logits)
    assert opened.token_counts.shape == (101,)


def test_neither_what_was_said_nor_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder_input_ids"):
        dialogue()(**asked(pairs()))


def test_a_context_longer_than_the_model_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"17 tokens .* max_position_embeddings=16"):
        dialogue()(**pairs(length=17))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"context_access": "none"}, "context_access='none'"),
        ({"decoder_latent": "own"}, "decoder_latent='own'"),
        ({"num_latents": 0}, "num_latents=0"),
        ({"temperature": 0}, "temperature=0"),
        ({"max_reply_length": 1}, "max_reply_length=1"),
        ({"decoder_config": {}}, "decoder_config has no model_type"),
        ({"reply_weight": 0, "alignment_weight": 0, "ranking_weight": 0}, "leave nothing to learn"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(change: dict, said: str) -> None:
    with pytest.raises(Exception, match=said):
        DialogueJepaConfig(**change)


@pytest.mark.parametrize(
    "setting",
    [
        {"guidance_scale": 2.0},
        {"assistant_early_exit": 1},
        {"prefill_chunk_size": 4},
        {"inputs_embeds": torch.zeros(1, 4, 32)},
        {"cache_implementation": "sliding_window"},
        {"cache_implementation": "offloaded_static"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_of_generation_without_a_meaning_are_refused_by_name(setting: dict) -> None:
    model = DIALOGUE_JEPA.model(context_access="both")
    with pytest.raises(ValueError, match=f"{next(iter(setting))}.* is not possible with"):
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, **setting)
    with pytest.raises(ValueError, match="generate_batch"):
        model.generate_batch([[5, 6, 7]])


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_any_batch_and_lengths_of_an_exported_model_with_a_pretrained_decoder(variant: str) -> None:
    model = dialogue(variant)
    model.config.use_cache = False

    def given(rows: int, length: int, reply: int) -> dict[str, torch.Tensor]:
        inputs = pairs(rows, length, reply)
        return {**asked(inputs), "decoder_input_ids": inputs["labels"].clamp_min(0)}

    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    inputs, others = given(2, 9, 6), given(3, 7, 5)
    program = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=dict.fromkeys(inputs, sizes)).module()
    torch.testing.assert_close(program(**others)[0], model(**others)[0], atol=1e-5, rtol=0)
