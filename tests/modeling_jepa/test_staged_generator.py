"""What is special to the staged generator: its stages, blocks, memory, routing, loss and figures."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import DynamicCache, StaticCache, Trainer, TrainingArguments

from configuration_jepa import StagedGeneratorConfig
from modeling_jepa import StagedGeneratorForCausalLM, StagedGeneratorModel
from modeling_jepa.layers import apply_rotary, rotary_position_embeddings
from modeling_jepa.semantic_blocks import BlockAttention, block_cosines, block_decorrelation
from modeling_jepa.temporal_memory import Forgetting, decay_columns, sums_of
from tests.families import ROUTED_GENERATOR, STAGED_GENERATOR
from tests.modeling_jepa.tiny_generators import (
    LENGTH,
    STAGES,
    VOCABULARY,
    logits_of,
    random_tokens,
    tiny_config,
    tiny_generator,
)

each_stage = pytest.mark.parametrize("stage", STAGES)


# Configuration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": -1}, "stage=-1 is not possible: it must be from 0 to 3"),
        ({"stage": 4}, "stage=4"),
        ({"semantic_blocks": "both"}, "semantic_blocks='both' is not possible: it must be one of simple, full"),
        ({"num_semantic_blocks": 5}, "embedding_size=24 is not a multiple of num_semantic_blocks=5"),
        ({"num_semantic_blocks": 0}, "num_semantic_blocks=0"),
        ({"embedding_size": 0}, "embedding_size=0"),
        ({"time_dim": 0}, "time_dim=0"),
        ({"decay_source": "time"}, "decay_source='time' is not possible: it must be one of hidden, token"),
        ({"routing_edges": []}, "routing_edges=.* one or more, each once, of successors, places"),
        ({"routing_edges": ["similar"]}, "routing_edges"),
        ({"routing_edges": ["pairs", "pairs"]}, "routing_edges"),
        ({"routing_occurrences": 0}, "routing_occurrences=0 is not possible: it must be at least 1"),
        ({"routing_window": -1}, "routing_window=-1"),
        ({"routing_code_bits": 31}, "routing_code_bits=31"),
        ({"routing_blocks": []}, "routing_blocks"),
        ({"routing_blocks": [0, 0]}, "routing_blocks"),
        ({"routing_blocks": [4]}, "null, or different numbers from 0 to 3"),
        ({"block_decorrelation_weight": -1.0}, "block_decorrelation_weight=-1.0"),
        ({"z_loss_weight": -1.0}, "z_loss_weight=-1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
    ],
)
def test_an_impossible_value_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**{"stage": 0, **change})


FIRST_FORM = {"time_dim": 8, "routing_top_k": 16, "routing_candidates": 1024, "routing_shortcuts": True}


def test_a_checkpoint_of_the_first_form_is_opened_at_stage_0_and_refused_by_name_after_it() -> None:
    assert StagedGeneratorConfig(stage=0, **FIRST_FORM).stage == 0
    for stage in (1, 2, 3):
        with pytest.raises(
            ValueError, match=f"stage={stage}: this checkpoint is of the first form.*Start from its st"
        ):
            StagedGeneratorConfig(stage=stage, **FIRST_FORM)


# Growing


def is_new(name: str, stage: int) -> bool:
    return any(part in name for part in StagedGeneratorForCausalLM.new_parameters(stage))


@each_stage
@pytest.mark.parametrize("source", ["hidden", "token"])
def test_a_stage_holds_all_parameters_of_the_one_before(stage: int, source: str) -> None:
    if stage == 0:
        assert StagedGeneratorForCausalLM.new_parameters(0) == ()
        return
    before, after = (set(tiny_generator(number, decay_source=source).state_dict()) for number in (stage - 1, stage))
    assert before <= after
    assert after - before == {name for name in after if is_new(name, stage)}
    assert (after == before) == (stage == 2)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_grown_stage_gives_the_same_logits(stage: int, implementation: str, tmp_path) -> None:
    small = tiny_generator(stage - 1, implementation).double()
    small.save_pretrained(tmp_path)
    grown, info = StagedGeneratorForCausalLM.from_pretrained(
        tmp_path, stage=stage, attn_implementation=implementation, output_loading_info=True
    )
    grown.double()
    assert {name for name in grown.state_dict() if is_new(name, stage)} == set(info["missing_keys"])
    assert grown.config.stage == stage
    tokens = random_tokens(4)
    assert (logits_of(grown, tokens) - logits_of(small, tokens)).abs().max() <= 1e-9
    labels = tokens
    grown.train()(tokens, labels=labels).loss.backward()  # what is new is held back by a gate, and the gate learns
    gates = [parameter for name, parameter in grown.named_parameters() if name.endswith((".gate", ".taps"))]
    assert all(gate.grad.abs().max() > 0 for gate in gates)


@each_stage
def test_one_sentence_is_memorised_within_100_steps(stage: int) -> None:
    torch.manual_seed(0)
    model = StagedGeneratorForCausalLM(tiny_config(stage)).train()
    sentence = random_tokens(1, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(100):
        optimizer.zero_grad()
        model(sentence, labels=sentence).loss.backward()
        optimizer.step()
    assert model.eval()(sentence, labels=sentence).loss < 0.1
    continued = model.generate(sentence[:, :3], do_sample=False, max_new_tokens=13)
    assert torch.equal(continued, sentence)


# Semantic blocks


def test_blocks_of_a_token_are_mixed_with_no_other_token() -> None:
    attention = tiny_generator(0).model.block_attention
    embeddings = torch.randn(2, 6, 24)
    changed = embeddings.clone()
    changed[:, 3, :6] += 1  # the first block of the fourth token
    difference = (attention(changed) - attention(embeddings)).abs().amax((0, 2))
    assert difference[3] > 0
    assert difference.count_nonzero() == 1
    blocks = (attention(changed) - attention(embeddings))[:, 3].unflatten(-1, (4, 6)).abs().amax((0, 2))
    assert (blocks > 1e-4).all()  # all of its blocks hear of it


def test_block_attention_starts_as_the_identity() -> None:
    model = StagedGeneratorForCausalLM(tiny_config(0))
    embeddings = torch.randn(2, 6, 24)
    assert torch.equal(model.model.block_attention(embeddings), embeddings)


def test_simple_blocks_have_no_parameters() -> None:
    simple = set(tiny_generator(0, semantic_blocks="simple").state_dict())
    full = set(tiny_generator(0).state_dict())
    assert simple < full
    assert all(name.startswith("model.block_attention.") for name in full - simple)


def test_the_number_of_blocks_needs_no_more_than_the_embedding() -> None:
    whole = BlockAttention(tiny_config(0, num_semantic_blocks=1))
    assert whole(torch.randn(1, 2, 24)).shape == (1, 2, 24)


def test_decorrelation_is_the_mean_squared_cosine_between_blocks() -> None:
    one = torch.tensor([[1.0, 0.0, 2.0, 0.0]])  # equal directions
    two = torch.tensor([[1.0, 0.0, 0.0, 3.0]])  # a right angle
    three = torch.tensor([[1.0, 0.0, 1.0, 1.0]])  # half of it
    values = block_decorrelation(torch.cat((one, two, three)), 2)
    torch.testing.assert_close(values, torch.tensor([1.0, 0.0, 0.5]))
    assert block_decorrelation(one, 1) == 0
    assert block_decorrelation(torch.zeros(1, 4), 2).isfinite()
    assert block_cosines(three, 2)[0, 0, 1] == pytest.approx(0.5**0.5)


def test_block_figures_tell_copies_from_differences() -> None:
    model = tiny_generator(0)
    table = model.model.embed_tokens.weight.data
    table.copy_(table[:, :6].repeat(1, 4))
    copies = model.block_figures()
    assert copies["block_cosine"] == pytest.approx(1, abs=1e-4)
    assert 1 < copies["effective_rank"] <= 6
    nn.init.normal_(table)
    different = model.block_figures()
    assert different["block_cosine"] < 0.5
    assert 12 < different["effective_rank"] <= 24


def test_effective_rank_counts_equal_directions() -> None:
    model = tiny_generator(0)
    table = model.model.embed_tokens.weight.data.zero_()
    for direction in range(8):  # opposite pairs: a mean of zero
        table[2 * direction, direction], table[2 * direction + 1, direction] = 1.0, -1.0
    assert model.block_figures()["effective_rank"] == pytest.approx(8, abs=1e-3)


# Memory


def by_the_formula(model: StagedGeneratorForCausalLM, hidden: torch.Tensor) -> torch.Tensor:
    """Self-attention of the first layer at stage 1, `(1, T, H)`, written out with T x T decays."""
    part = model.model.layers[0].self_attn
    length = hidden.shape[1]
    states = []
    for proj, convolution in zip((part.q_proj, part.k_proj, part.v_proj), part.convolutions, strict=True):
        plain = proj(hidden)
        shifted = [nn.functional.pad(plain, (0, 0, back, 0))[:, :length] for back in range(4)]
        convolved = plain + sum(tap * each for tap, each in zip(convolution.taps, shifted, strict=True))
        states.append(convolved.unflatten(-1, (4, 8)).transpose(1, 2))
    query, key, value = part.q_norm(states[0]), part.k_norm(states[1]), states[2]
    turns = rotary_position_embeddings(torch.arange(length)[None], 8, 10000.0, hidden.dtype)
    scores = apply_rotary(query, turns) @ apply_rotary(key, turns).transpose(-1, -2) * 8**-0.5
    memory = part.forgetting
    decays = -8 * memory.gate * nn.functional.softplus(hidden @ memory.proj.weight.T - 3)
    for i in range(length):
        for j in range(length):
            total = decays[0, j + 1 : i + 1].sum(0) if j <= i else torch.full((4,), float("-inf"))
            scores[0, :, i, j] += total
    return part.o_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_forgetting_and_convolution_are_those_of_the_formula(implementation: str) -> None:
    model, heard = tiny_generator(1, implementation).double(), {}
    layer = model.model.layers[0].self_attn
    layer.register_forward_hook(
        lambda module, given, named, made: heard.update(
            hidden=given[0] if given else named["hidden_states"], made=made[0]
        ),
        with_kwargs=True,
    )
    with torch.no_grad():
        model(random_tokens(1, 20))
        expected = by_the_formula(model, heard["hidden"])
    torch.testing.assert_close(heard["made"], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_columns_of_a_decay_keep_it_to_a_thousandth(dtype: torch.dtype) -> None:
    sums = -torch.rand(1, 2, 3000).cumsum(-1)  # down to -1,500
    columns = decay_columns(sums, dtype, 0.18)
    assert torch.equal(columns, columns.to(dtype).to(columns.dtype))  # nothing is lost on the way to a kernel
    assert columns.shape[-1] == (1 if dtype is torch.float32 else 3)
    torch.testing.assert_close(sums_of(columns, 0.18), sums, atol=1e-3, rtol=0)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_model_in_bfloat16_answers_like_itself_in_float32(stage: int) -> None:
    """With decays of hundreds, which bfloat16 alone would round to whole numbers."""
    model, tokens = tiny_generator(stage, "sdpa"), random_tokens(2, 180)
    for part in model.modules():
        if isinstance(part, Forgetting):
            nn.init.constant_(part.gate, 2.0)
    precise = logits_of(model, tokens)
    found = logits_of(copy.deepcopy(model).bfloat16(), tokens).float()
    assert (found - precise).abs().mean() < 0.05 * precise.abs().mean()


def test_embeddings_in_place_of_ids_are_refused_only_where_tokens_are_needed() -> None:
    tokens = random_tokens(1)
    for stage in (0, 1, 2):
        model = tiny_generator(stage)
        given = model.model.embed_tokens(tokens)
        assert torch.equal(model(inputs_embeds=given).logits, model(tokens).logits)
    with pytest.raises(
        ValueError, match="inputs_embeds: at stage 1 decay_source=token needs the tokens: give input_i"
    ):
        tiny_generator(1, decay_source="token")(inputs_embeds=given)
    with pytest.raises(ValueError, match="inputs_embeds: at stage 3 far edges go by the tokens: give input_ids"):
        tiny_generator(3)(inputs_embeds=given)


@pytest.mark.parametrize("given", [{}, {"input_ids": torch.ones(1, 2).long(), "inputs_embeds": torch.ones(1, 2, 24)}])
def test_exactly_one_input_is_needed(given: dict) -> None:
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        tiny_generator(0)(**given)


# Routing in the model


def test_attentions_of_stage_3_are_near_and_the_kinds_of_far_edges() -> None:
    model = tiny_generator(3)
    kinds = model.attention_kinds()
    assert kinds == ["near", "successors", "places", "pairs", "blocks", "fibonacci"]
    tokens = random_tokens(2, LENGTH // 2).repeat(1, 2)  # so that every pair comes again
    attentions = model(tokens, output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in attentions] == [(2, 4, LENGTH, len(kinds))] * 2
    assert (attentions[0][..., 0] == 1).all()
    assert not attentions[0][:, :, 0, 1:].any()  # nothing stands before the first token
    gates = torch.stack([model.model.layers[0].self_attn.far[kind].gate.abs() for kind in kinds[1:]], dim=-1)
    assert (attentions[0][..., 1:] <= gates[:, None] + 1e-6).all()
    assert (attentions[0][:, :, -1, 1:].amax((0, 1)) > 0).all()


def test_a_repeated_token_sees_what_followed_it_before() -> None:
    """Only far edges lead beyond a window of one."""
    model = tiny_generator(3, routing_window=1, routing_edges=["successors"], num_hidden_layers=1)
    tokens = torch.tensor([[7, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 7]])
    other = tokens.clone()
    other[0, 1], elsewhere = 40, tokens.clone()
    elsewhere[0, 3] = 40
    answers = [logits_of(model, each)[0, -1] for each in (tokens, other, elsewhere)]
    assert (answers[0] - answers[1]).abs().max() > 1e-3
    # The convolution reaches three tokens further.
    nn.init.zeros_(model.model.layers[0].self_attn.convolutions[1].taps)
    nn.init.zeros_(model.model.layers[0].self_attn.convolutions[2].taps)
    answers = [logits_of(model, each)[0, -1] for each in (tokens, elsewhere)]
    torch.testing.assert_close(answers[0], answers[1], atol=1e-5, rtol=0)


def test_only_the_chosen_blocks_decide_which_tokens_are_alike() -> None:
    """Tokens differ in their last block alone: the first says they are all alike."""
    tokens = random_tokens(1)
    logits = {}
    for blocks in ([0], [1], [3]):
        model = tiny_generator(3, routing_edges=["blocks"], routing_blocks=blocks, semantic_blocks="simple")
        model.model.embed_tokens.weight.data[:, :18] = 1.0
        logits[blocks[0]] = logits_of(model, tokens)
    assert torch.equal(logits[0], logits[1])
    assert (logits[0] - logits[3]).abs().max() > 1e-3


def test_a_prepared_mask_is_taken_at_stage_0_and_refused_after_it() -> None:
    tokens = random_tokens(2)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None].expand(2, -1, -1, -1)
    model = tiny_generator(0, "sdpa")
    torch.testing.assert_close(
        logits_of(model, tokens, attention_mask=causal), logits_of(model, tokens), atol=1e-5, rtol=0
    )
    for stage in (1, 3):
        with pytest.raises(ValueError, match=rf"attention_mask has 4 axes: at stage {stage} it must be \(B, S\)"):
            tiny_generator(stage)(tokens, attention_mask=causal)


# Loss


def test_loss_is_the_mean_of_what_is_predicted() -> None:
    model, tokens = tiny_generator(1), random_tokens(3)
    labels = tokens.clone()
    labels[0, 5:9] = -100
    labels[1] = -100
    output = model(tokens, labels=labels)
    targets = labels[:, 1:]
    expected = nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)
    nats, count = output.loss_parts["cross_entropy"].tolist()
    assert count == (targets != -100).sum()
    assert nats / count == pytest.approx(expected.item(), abs=1e-5)
    correct, count = output.loss_parts["accuracy"].tolist()
    assert correct == (output.logits[:, :-1].argmax(-1) == targets).sum()
    assert set(output.loss_parts) == {"cross_entropy", "accuracy"}


@each_stage
def test_training_and_evaluation_have_one_loss_and_one_gradient(stage: int) -> None:
    """In training the logits never exist, and gathered keys are not kept."""
    model = tiny_generator(stage, label_smoothing=0.1, z_loss_weight=1e-3, block_decorrelation_weight=0.5)
    tokens, gradients, losses = random_tokens(3), [], []
    for training in (True, False):
        model.train(training).zero_grad()
        output = model(tokens, labels=tokens)
        assert (output.logits is None) == training
        output.loss.backward()
        losses.append(output.loss.item())
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-3)


def test_what_else_is_learned_does_not_enter_the_cross_entropy() -> None:
    tokens = random_tokens(2)
    plain = tiny_generator(1)(tokens, labels=tokens)
    weighted = tiny_generator(1, label_smoothing=0.2, z_loss_weight=0.1, block_decorrelation_weight=2.0)
    output = weighted(tokens, labels=tokens)
    torch.testing.assert_close(output.loss_parts["cross_entropy"], plain.loss_parts["cross_entropy"])
    assert output.loss > plain.loss
    total, count = output.loss_parts["block_decorrelation"].tolist()
    table = weighted.model.embed_tokens.weight[tokens.unique()]
    assert count == len(table)
    assert total / count == pytest.approx(block_decorrelation(table, 4).mean().item(), abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"block_decorrelation_weight": 0.5}])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_in_which_nothing_is_predicted_is_harmless(training: bool, changes: dict) -> None:
    model, tokens = tiny_generator(1, **changes).train(training), random_tokens(2)
    output = model(tokens, labels=torch.full_like(tokens, -100))
    output.loss.backward()
    assert output.loss == 0
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_padding_token_that_also_begins_documents_learns() -> None:
    model = StagedGeneratorForCausalLM(tiny_config(0, pad_token_id=4, bos_token_id=4, eos_token_id=4))
    assert model.model.embed_tokens.weight[4].abs().sum() > 0
    model.model(torch.tensor([[4, 7, 8]])).last_hidden_state.pow(2).sum().backward()
    assert model.model.embed_tokens.weight.grad[4].abs().sum() > 0


@each_stage
def test_a_whole_step_in_which_nothing_is_predicted_has_a_loss_of_zero(stage: int) -> None:
    model = tiny_generator(stage, block_decorrelation_weight=0.1).train()
    labels = torch.full((1, 4), -100)
    output = model(random_tokens(1, 4), labels=labels, num_items_in_batch=torch.tensor(0))
    output.loss.backward()
    assert output.loss.item() == 0


def test_the_trunk_alone_can_be_resized() -> None:
    trunk = tiny_generator(1).model
    trunk.resize_token_embeddings(VOCABULARY + 3)
    assert trunk(torch.tensor([[VOCABULARY + 2]])).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("stage", [1, 3])
def test_an_empty_cache_joins_no_documents(stage: int) -> None:
    model, tokens = tiny_generator(stage), random_tokens(1, 12)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        plain = model(tokens, position_ids=positions).logits
        cached = model(tokens, position_ids=positions, past_key_values=DynamicCache(config=model.config)).logits
    assert torch.equal(plain, cached)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_mask_as_long_as_a_static_cache_counts_positions_from_its_start(stage: int) -> None:
    model, tokens = tiny_generator(stage), random_tokens(1, 12)
    cache = StaticCache(config=model.config, max_cache_len=20)
    mask = torch.zeros(1, 20, dtype=torch.long)
    with torch.no_grad():
        whole = model(tokens).logits
        for start, end in ((0, 8), (8, 12)):
            mask[:, :end] = 1
            part = model(tokens[:, start:end], attention_mask=mask, past_key_values=cache).logits
            torch.testing.assert_close(part, whole[:, start:end], atol=1e-4, rtol=0)


def test_several_documents_in_a_row_are_refused_where_they_would_see_each_other() -> None:
    model = tiny_generator(0).model
    model.config._attn_implementation = "flash_attention_2"
    documents = torch.tensor([[1, 1, 2, 2]])
    with pytest.raises(ValueError, match="several documents need attn_implementation eager"):
        model._refuse_blind_attention(documents, None)
    model._refuse_blind_attention(documents, torch.tensor([[0, 0, 1, 1]]))  # padding before the only document


def test_only_the_wanted_logits_are_made() -> None:
    model, tokens = tiny_generator(3), random_tokens(2)
    whole = logits_of(model, tokens)
    torch.testing.assert_close(logits_of(model, tokens, logits_to_keep=2), whole[:, -2:], atol=1e-5, rtol=0)
    places = torch.tensor([3, 40])
    torch.testing.assert_close(logits_of(model, tokens, logits_to_keep=places), whole[:, places], atol=1e-5, rtol=0)


# What stays with the model


def test_token_counts_are_kept_in_the_checkpoint(tmp_path) -> None:
    model, counts = tiny_generator(2), torch.arange(VOCABULARY) * 2**40
    model.set_token_counts(counts)
    model.save_pretrained(tmp_path)
    assert torch.equal(StagedGeneratorForCausalLM.from_pretrained(tmp_path).token_counts, counts)
    with pytest.raises(ValueError, match=r"counts has shape \(59,\); it must be \(60,\)"):
        model.set_token_counts(counts[1:])


@each_stage
def test_a_resized_vocabulary_keeps_answers_counts_and_time(stage: int) -> None:
    model, tokens = tiny_generator(stage, decay_source="token"), random_tokens(2)
    model.set_token_counts(torch.arange(VOCABULARY))
    before = logits_of(model, tokens)
    model.resize_token_embeddings(VOCABULARY + 7)
    assert torch.equal(logits_of(model, tokens)[..., :VOCABULARY], before)
    assert model.token_counts.tolist() == [*range(VOCABULARY), *[0] * 7]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    new = torch.full((1, 3), VOCABULARY + 3)
    assert model(new, labels=new).loss.isfinite()
    model.resize_token_embeddings(VOCABULARY - 1)
    assert logits_of(model, tokens.clamp_max(VOCABULARY - 2)).shape[-1] == VOCABULARY - 1


@each_stage
def test_weights_shared_by_input_and_output_stay_shared_after_reload(stage: int, tmp_path) -> None:
    model = tiny_generator(stage)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    opened = StagedGeneratorForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert opened.lm_head.weight is opened.model.embed_tokens.weight
    tokens = random_tokens(2)
    assert torch.equal(logits_of(opened, tokens), logits_of(model, tokens))
    trunk = StagedGeneratorModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(trunk(tokens).last_hidden_state, model.model(tokens).last_hidden_state)


def test_no_moving_average_follows_it() -> None:
    assert tiny_generator(0).has_teacher is False


# LoRA


@each_stage
def test_lora_is_trained_saved_loaded_and_merged(stage: int, tmp_path) -> None:
    base, tokens = tiny_generator(stage), random_tokens(2)
    before = logits_of(base, tokens)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(base), adapter).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2  # two matrices for each of two projections of two layers
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = model.eval()(input_ids=tokens).logits
    assert (after - before).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert torch.equal(loaded(input_ids=tokens).logits, after)
    merged = loaded.merge_and_unload()
    assert type(merged) is StagedGeneratorForCausalLM
    torch.testing.assert_close(logits_of(merged, tokens), after, atol=1e-4, rtol=0)
    assert torch.equal(logits_of(base, tokens), before)


def test_shifted_labels_take_the_place_of_labels() -> None:
    """As sequence parallel training gives them; -100 where nothing is predicted."""
    model = STAGED_GENERATOR.model()
    inputs = STAGED_GENERATOR.learning_inputs(model.config)
    expected = model(**inputs).loss
    labels = inputs.pop("labels")
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    for given in ({}, {"labels": torch.full_like(labels, 42)}):
        torch.testing.assert_close(model(**inputs, shift_labels=shifted, **given).loss, expected)


def test_a_stock_trainer_shifts_labels_before_it_smooths_them(tmp_path) -> None:
    """Every row repeats the tokens 5 to 20 in order, so that the next one follows from the one before."""
    model = STAGED_GENERATOR.model(vocab_size=21, semantic_blocks="simple", stage=0)
    rows = [{"input_ids": [5 + (start + place) % 16 for place in range(8)]} for start in range(16)]
    rows = [row | {"labels": row["input_ids"]} for row in rows]
    arguments = TrainingArguments(
        tmp_path,
        max_steps=60,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        label_smoothing_factor=0.1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=rows).train()
    ids = torch.tensor([row["input_ids"] for row in rows])
    best = model.eval()(ids).logits.argmax(-1)
    assert (best[:, :-1] == ids[:, 1:]).float().mean() > 0.9


@pytest.mark.parametrize("family", [STAGED_GENERATOR, ROUTED_GENERATOR], ids=lambda family: family.name)
def test_an_early_exit_says_what_the_whole_model_says(family) -> None:
    model = family.model()
    prompt = torch.tensor([[5, 6, 7]])
    plain = model.generate(prompt, max_new_tokens=5, do_sample=False)
    assert torch.equal(model.generate(prompt, max_new_tokens=5, do_sample=False, assistant_early_exit=1), plain)
    assert model.config.num_hidden_layers == 2
