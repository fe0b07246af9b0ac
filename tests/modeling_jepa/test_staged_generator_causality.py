"""The generator never sees its own answer, another row, padding or another document; and these tests would notice."""

import copy

import pytest
import torch
from torch import nn

from configuration_jepa.configuration_staged_generator import EDGES
from modeling_jepa import StagedGeneratorForCausalLM, modeling_staged_generator, staged_attention
from tests.modeling_jepa.tiny_generators import (
    LENGTH,
    STAGES,
    VOCABULARY,
    logits_of,
    random_tokens,
    tiny_generator,
    trained_generator,
)

IMPLEMENTATIONS = ("eager", "sdpa")
SAME = {"atol": 1e-9, "rtol": 0.0}  # in float64, where the order of a sum is far below what a wrong mask would change
each_stage = pytest.mark.parametrize("stage", STAGES)
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@pytest.fixture(scope="module", params=[(stage, state) for stage in STAGES for state in ("untrained", "trained")])
def model(request) -> StagedGeneratorForCausalLM:
    stage, state = request.param
    return tiny_generator(stage) if state == "untrained" else trained_generator(stage)


@pytest.fixture(scope="module")
def precise(model: StagedGeneratorForCausalLM) -> StagedGeneratorForCausalLM:
    """The same in float64."""
    return copy.deepcopy(model).double()


def leak(model: StagedGeneratorForCausalLM) -> float:
    """Largest change of a logit at or before t when all tokens after t change, over every t (one row per t)."""
    rows = LENGTH - 1
    tokens = random_tokens(1).expand(rows, -1)
    later = torch.arange(LENGTH)[None] > torch.arange(rows)[:, None]
    changed = torch.where(later, random_tokens(rows, seed=1), tokens)
    difference = (logits_of(model, changed) - logits_of(model, tokens)).abs().amax(-1)
    return difference.masked_fill(later, 0.0).max().item()


@torch.no_grad()
def prefix_only_loss(model: StagedGeneratorForCausalLM, tokens: torch.Tensor) -> float:
    """Mean nats per token, each predicted by a model that is given nothing but the tokens before it."""
    nats = [
        nn.functional.cross_entropy(model(tokens[:, :t]).logits[:, -1], tokens[:, t])
        for t in range(1, tokens.shape[1])
    ]
    return torch.stack(nats).mean().item()


def teacher_forced_loss(model: StagedGeneratorForCausalLM, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        return model(tokens, labels=tokens).loss.item()


def repeated_tokens() -> torch.Tensor:
    half = random_tokens(4, LENGTH // 2, seed=7)
    return torch.cat((half, half), dim=1)


def see_the_next_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant an edge from each place to the one after it, in the usual attention."""
    honest = modeling_staged_generator.create_causal_mask

    def with_the_next(batch, head, query, key):
        return key == query + 1

    def leaking(**arguments: object) -> torch.Tensor:
        return honest(**{**arguments, "or_mask_function": with_the_next})

    monkeypatch.setattr(modeling_staged_generator, "create_causal_mask", leaking)


def lead_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far edges to a place well after an occurrence: where the token stood a little before, that is to come."""
    honest = staged_attention._EdgeFinder._following
    monkeypatch.setattr(staged_attention._EdgeFinder, "_following", lambda self: honest(self) + LENGTH // 2)


def count_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a token's occurrences the last ones of the whole row, wherever they stand."""
    honest = staged_attention.sorted_edges

    def flipped(groups, *given, **named):
        return honest(groups.flip(1), *given, **named)

    monkeypatch.setattr(staged_attention, "sorted_edges", flipped)


@each_implementation
@pytest.mark.parametrize("training", [False, True])
def test_later_tokens_change_no_logit(precise, implementation: str, training: bool) -> None:
    precise.set_attn_implementation(implementation)
    precise.train(training)
    found = leak(precise)
    precise.eval()
    assert found <= SAME["atol"]


@each_implementation
def test_teacher_forced_loss_is_the_prefix_only_loss(model, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    tokens = repeated_tokens()
    assert teacher_forced_loss(model, tokens) == pytest.approx(prefix_only_loss(model, tokens), abs=1e-4)


@each_stage
def test_no_gradient_reaches_a_later_token(stage: int) -> None:
    model, seen = tiny_generator(stage).train(), []
    model.model.embed_tokens.register_forward_hook(lambda module, given, made: seen.append(made) or made.retain_grad())
    model(random_tokens(2)).logits[:, 20].sum().backward()
    assert seen[0].grad[:, :21].abs().amax(-1).gt(0).any()
    assert not seen[0].grad[:, 21:].any()


@each_stage
@each_implementation
def test_an_edge_to_the_next_token_is_noticed(stage: int, implementation: str, monkeypatch) -> None:
    see_the_next_token(monkeypatch)
    model = tiny_generator(stage, implementation)
    assert leak(model) > 1e-2
    tokens = repeated_tokens()
    assert abs(teacher_forced_loss(model, tokens) - prefix_only_loss(model, tokens)) > 1e-3


def test_training_on_an_edge_to_the_next_token_pays_only_where_it_is_seen(monkeypatch) -> None:
    """The sign of a leak: a low loss that is not there when the model has only the prefix."""
    see_the_next_token(monkeypatch)
    for stage in (0, 3):
        model, tokens = trained_generator(stage, steps=60), repeated_tokens()
        assert prefix_only_loss(model, tokens) - teacher_forced_loss(model, tokens) > 0.1


@pytest.mark.parametrize("plant", [lead_too_far, count_from_the_end])
def test_a_far_edge_to_a_later_token_is_noticed(plant, monkeypatch) -> None:
    plant(monkeypatch)
    assert leak(tiny_generator(3, routing_edges=["successors"])) > 1e-2


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("kind", EDGES)
@pytest.mark.parametrize("trained", [False, True])
def test_no_kind_of_edge_sees_a_later_token(kind: str, window: int, trained: bool) -> None:
    make = trained_generator if trained else tiny_generator
    assert leak(make(3, routing_edges=[kind], routing_window=window).double()) <= SAME["atol"]


def test_batch_mates_change_nothing(precise) -> None:
    tokens = random_tokens(6)
    together = logits_of(precise, tokens)
    for row in range(len(tokens)):
        torch.testing.assert_close(logits_of(precise, tokens[row : row + 1])[0], together[row], **SAME)


@each_implementation
@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_padding_changes_nothing(precise, side: str, implementation: str) -> None:
    """Rows of different lengths, each against itself alone; what stands in the padding does not matter."""
    precise.set_attn_implementation(implementation)
    lengths = (LENGTH, 9, LENGTH - 13)
    tokens, mask = random_tokens(3), torch.zeros(3, LENGTH, dtype=torch.long)
    for row, length in enumerate(lengths):
        kept = slice(LENGTH - length, LENGTH) if side == "left" else slice(0, length)
        mask[row, kept] = 1
        if side == "middle":
            mask[row] = mask[row].roll(LENGTH // 3)
    padded = logits_of(precise, tokens, attention_mask=mask)
    assert padded.isfinite().all()
    for row in range(3):
        kept = mask[row].bool()
        alone = logits_of(precise, tokens[row : row + 1, kept])
        torch.testing.assert_close(padded[row, kept], alone[0], **SAME)


@each_implementation
@pytest.mark.parametrize("pieces", [(20, 1, 1, 1, 25), (1,) * LENGTH, (5, 43)])
def test_a_cache_continued_without_positions_equals_the_full_pass(precise, pieces, implementation: str) -> None:
    precise.set_attn_implementation(implementation)
    tokens = random_tokens(2)
    full, cache, made = logits_of(precise, tokens), None, []
    with torch.no_grad():
        for piece in tokens.split(pieces, dim=1):
            output = precise(piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            made.append(output.logits)
    torch.testing.assert_close(torch.cat(made, dim=1), full, **SAME)


@each_stage
def test_a_left_padded_cache_continued_without_positions_equals_the_full_pass(stage: int) -> None:
    model, tokens = tiny_generator(stage).double(), random_tokens(2)
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, :11] = 0
    full = logits_of(model, tokens, attention_mask=mask)
    with torch.no_grad():
        first = model(tokens[:, :30], attention_mask=mask[:, :30], use_cache=True)
        second = model(tokens[:, 30:], attention_mask=mask, past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, full[:, 30:], **SAME)


@each_stage
def test_a_cropped_cache_forgets(stage: int) -> None:
    model, tokens = tiny_generator(stage).double(), random_tokens(1)
    with torch.no_grad():
        cache = model(tokens, use_cache=True).past_key_values
        cache.crop(-8)  # the last eight
        again = model(tokens[:, -8:], past_key_values=cache).logits
    torch.testing.assert_close(again, logits_of(model, tokens)[:, -8:], **SAME)


DOCUMENTS = (19, 1, LENGTH - 20)


def packed_positions(rows: int) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in DOCUMENTS])[None].expand(rows, -1)


@each_implementation
def test_packed_documents_answer_as_if_alone(precise, implementation: str) -> None:
    precise.set_attn_implementation(implementation)
    tokens = random_tokens(3)
    packed = logits_of(precise, tokens, position_ids=packed_positions(3))
    alone = torch.cat([logits_of(precise, document) for document in tokens.split(DOCUMENTS, dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, **SAME)
    assert (logits_of(precise, tokens) - alone).abs().max() > 1e-3


@each_stage
def test_packed_documents_before_padding_answer_as_if_alone(stage: int) -> None:
    """As the collator makes them: padding on the right, at position 0."""
    model, tokens, padding = tiny_generator(stage).double(), random_tokens(2), torch.zeros(2, 6, dtype=torch.long)
    positions = packed_positions(2)
    packed = logits_of(
        model,
        torch.cat((tokens, padding), 1),
        attention_mask=torch.cat((torch.ones_like(tokens), padding), 1),
        position_ids=torch.cat((positions, padding), 1),
    )
    expected = logits_of(model, tokens, position_ids=positions)
    torch.testing.assert_close(packed[:, :LENGTH], expected, **SAME)


@each_stage
@each_implementation
def test_no_gradient_crosses_documents(stage: int, implementation: str) -> None:
    model, seen = tiny_generator(stage, implementation).double().train(), []
    model.model.embed_tokens.register_forward_hook(lambda module, given, made: seen.append(made) or made.retain_grad())
    tokens = random_tokens(2)
    labels = tokens.clone()
    labels[:, : DOCUMENTS[0] + 2] = -100  # only the last document is learned
    model(tokens, position_ids=packed_positions(2), labels=labels).loss.backward()
    # Sums of decays run through a row; what all keys have in common falls out of the softmax, up to rounding.
    assert seen[0].grad[:, : DOCUMENTS[0] + 1].abs().max() < 1e-14
    assert seen[0].grad[:, DOCUMENTS[0] + 1 :].any()


def first_tokens_unpredicted(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return tokens.masked_fill(positions == 0, -100)


@each_stage
def test_gradients_of_packed_documents_are_the_sum_of_their_own(stage: int) -> None:
    model, tokens, positions = tiny_generator(stage).double().train(), random_tokens(2), packed_positions(2)
    labels = first_tokens_unpredicted(tokens, positions)
    count = int((labels != -100).sum())
    model(tokens, position_ids=positions, labels=labels).loss.backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for document, label in zip(tokens.split(DOCUMENTS, 1), labels.split(DOCUMENTS, 1), strict=True):
        model(document, labels=label, num_items_in_batch=count).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-6, rtol=0)  # the loss is float32


def greedy(model: StagedGeneratorForCausalLM, tokens: torch.Tensor, **flags: object) -> torch.Tensor:
    return model.generate(tokens, do_sample=False, max_new_tokens=128, min_new_tokens=128, **flags)


@each_stage
def test_cached_greedy_equals_uncached_greedy_for_128_tokens(stage: int) -> None:
    model, prompt = trained_generator(stage, "sdpa"), random_tokens(2, 16)
    cached, uncached = greedy(model, prompt), greedy(model, prompt, use_cache=False)
    assert cached.shape == (2, 144)
    assert torch.equal(cached, uncached)


grown_stages = pytest.mark.parametrize(
    ("stage", "changes"), [(1, {}), (1, {"decay_source": "token"}), (3, {}), (3, {"routing_window": 5})]
)


@grown_stages
def test_a_padded_cache_that_is_cropped_reordered_and_repeated_equals_the_full_pass_for_300_tokens(
    stage: int, changes: dict
) -> None:
    model = tiny_generator(stage, "sdpa", max_position_embeddings=320, **changes).double()
    tokens, mask = random_tokens(2, 300), torch.ones(2, 300, dtype=torch.long)
    mask[0, :17], mask[1, 120:130] = 0, 0
    order, made, cache = torch.tensor([1, 0]), [], None
    with torch.no_grad():
        full = logits_of(model, tokens, attention_mask=mask)
        for start, end in ((0, 140), *((place, place + 1) for place in range(140, 150)), (150, 300)):
            if start == 145:  # as assisted decoding and beams do
                wrong = random_tokens(2, 6, seed=9)
                longer = torch.cat((mask[:, :start], torch.ones_like(wrong)), dim=1)
                model(wrong, attention_mask=longer, past_key_values=cache)
                cache.crop(-6)
                cache.reorder_cache(order)
                cache.batch_repeat_interleave(2)
                cache.batch_select_indices(torch.tensor([0, 2]))
                cache.reorder_cache(order)
            output = model(tokens[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            made.append(output.logits)
    found = torch.cat(made, dim=1)
    torch.testing.assert_close(found[mask.bool()], full[mask.bool()], **SAME)


@grown_stages
def test_packed_documents_go_on_from_a_cache_as_if_alone(stage: int, changes: dict) -> None:
    model, tokens, positions = tiny_generator(stage, **changes).double(), random_tokens(2), packed_positions(2)
    full, made, cache = logits_of(model, tokens, position_ids=positions), [], None
    with torch.no_grad():
        for part in (slice(0, 22), slice(22, 23), slice(23, LENGTH)):
            output = model(tokens[:, part], position_ids=positions[:, part], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            made.append(output.logits)
    torch.testing.assert_close(torch.cat(made, dim=1), full, **SAME)


@grown_stages
@pytest.mark.parametrize(
    "flags",
    [
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_every_way_to_generate_gives_what_no_cache_gives(stage: int, changes: dict, flags: dict) -> None:
    model = tiny_generator(stage, "sdpa", **changes).double()
    prompt = random_tokens(1, 12).repeat(1, 2)
    mask = torch.ones_like(prompt)
    mask[0, :5] = 0
    given = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 24, "disable_compile": True}
    beams = {"num_beams": flags["num_beams"]} if "num_beams" in flags else {}
    assert torch.equal(
        model.generate(prompt, **given, **flags), model.generate(prompt, **given, **beams, use_cache=False)
    )


@each_stage
def test_a_gap_in_the_mask_is_no_new_document(stage: int) -> None:
    """Batched conversations have one: what is masked in the middle counts for nothing, and forgets nothing."""
    model, tokens = tiny_generator(stage).double(), random_tokens(1, 10)
    gap = torch.cat((tokens[:, :6], torch.zeros(1, 2, dtype=torch.long), tokens[:, 6:]), dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 2 + [1] * 4])
    flags = {"do_sample": False, "max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    whole, holed = model.generate(tokens, **flags), model.generate(gap, attention_mask=mask, **flags)
    for ours, theirs in zip(holed.logits, whole.logits, strict=True):
        torch.testing.assert_close(ours, theirs, **SAME)


@each_stage
def test_every_token_counts_for_the_next_ones_prediction(stage: int) -> None:
    """The other side: a model blind to its past would pass every test above."""
    model, tokens = tiny_generator(stage), random_tokens(1, high=VOCABULARY - 1)
    for place in (0, 10, LENGTH - 2):
        other = tokens.index_fill(1, torch.tensor([place]), VOCABULARY - 1)
        assert (logits_of(model, other) - logits_of(model, tokens))[0, place + 1].abs().max() > 1e-3
