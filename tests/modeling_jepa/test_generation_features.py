"""What `generate` can do, feature by feature."""

import copy
from threading import Thread

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import GenerationConfig, StaticCache, TextIteratorStreamer

from modeling_jepa import StagedGeneratorForCausalLM
from tests.families import tiny_tokenizer
from tests.modeling_jepa.tiny_generators import VOCABULARY, logits_of, random_tokens, tiny_generator

PROMPT = 12
NEW = 30
# Below 3 there is one road: 1 has all of its parts.
each_road = pytest.mark.parametrize("stage", [1, 3])


@pytest.fixture(scope="module", params=[1, 3], ids=lambda stage: f"stage {stage}")
def model(request) -> StagedGeneratorForCausalLM:
    return tiny_generator(request.param, "sdpa")


@pytest.fixture(scope="module")
def assistant() -> StagedGeneratorForCausalLM:
    """A smaller model of the first stage."""
    return tiny_generator(0, "sdpa", num_hidden_layers=1)


def generate(model: StagedGeneratorForCausalLM, prompt: torch.Tensor, new: int = NEW, **flags: object):
    """Exactly `new` tokens more."""
    return model.generate(prompt, max_new_tokens=new, min_new_tokens=new, **flags)


def greedy(model: StagedGeneratorForCausalLM, prompt: torch.Tensor, **flags: object) -> torch.Tensor:
    return generate(model, prompt, do_sample=False, **flags)


def allowed_logits(model: StagedGeneratorForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """`(B, T, V)`, with the special tokens at -inf."""
    logits = logits_of(model, tokens)
    logits[..., list(model.config.special_token_ids)] = -torch.inf
    return logits


def test_greedy_takes_the_most_likely_token(model) -> None:
    generated = greedy(model, random_tokens(2, PROMPT))
    best = allowed_logits(model, generated).argmax(-1)
    assert torch.equal(generated[:, PROMPT:], best[:, PROMPT - 1 : -1])


def test_guidance_is_the_formula_of_its_paper(model) -> None:
    """Classifier-free guidance (arXiv:2306.17806): the scores with the prompt, and without all but its last token."""
    tokens = random_tokens(2, PROMPT)
    guided = greedy(model, tokens, new=5, guidance_scale=1.5)
    for _ in range(5):
        with_it, without = (
            logits_of(model, each)[:, -1].log_softmax(-1) for each in (tokens, tokens[:, PROMPT - 1 :])
        )
        scores = without + 1.5 * (with_it - without)
        scores[:, list(model.config.special_token_ids)] = -torch.inf
        tokens = torch.cat((tokens, scores.argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(guided, tokens)


def test_continuous_batching_works_at_stage_0_and_is_refused_at_others(model, assistant) -> None:
    prompts = random_tokens(2, PROMPT)
    settings = copy.deepcopy(assistant.generation_config)
    settings.update(max_new_tokens=4, do_sample=False, eos_token_id=-1, use_cache=True)
    found = assistant.generate_batch(prompts.tolist(), generation_config=settings)
    said = torch.tensor([result.generated_tokens for result in found.values()])
    assert torch.equal(said, greedy(assistant, prompts, new=4)[:, PROMPT:])
    with pytest.raises(ValueError, match=f"generate_batch .* a model of stage {model.config.stage} needs more"):
        model.generate_batch(prompts.tolist())


def test_greedy_is_deterministic(model) -> None:
    prompt = random_tokens(2, PROMPT)
    assert torch.equal(greedy(model, prompt), greedy(model, prompt))


def test_top_k_alone_samples(model) -> None:
    """As the prototype's users call it: the library would be greedy without the model's own defaults."""
    prompt, drawn = random_tokens(1, PROMPT), []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(generate(model, prompt, top_k=50))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_top_k_sampling_draws_among_the_k_most_likely(model) -> None:
    generated = generate(model, random_tokens(8, PROMPT), top_k=3, temperature=5.0)
    ranks = ranks_of_the_next(model, generated)
    assert set(ranks.tolist()) == {0, 1, 2}


def test_top_p_sampling_draws_from_the_nucleus(model) -> None:
    generated = generate(model, random_tokens(8, PROMPT), top_k=0, top_p=0.5, temperature=1.0)
    shares = allowed_logits(model, generated)[:, PROMPT - 1 : -1].softmax(-1)
    drawn = shares.gather(-1, generated[:, PROMPT:, None])
    more_likely = shares.where(shares > drawn, 0.0).sum(-1)
    assert more_likely.max() < 0.5
    assert ranks_of_the_next(model, generated).max() > 0


def ranks_of_the_next(model: StagedGeneratorForCausalLM, generated: torch.Tensor) -> torch.Tensor:
    """Of every generated token among all that could have stood there, 0 the most likely."""
    logits = allowed_logits(model, generated)[:, PROMPT - 1 : -1]
    return (logits > logits.gather(-1, generated[:, PROMPT:, None])).sum(-1).flatten()


def test_a_low_temperature_is_nearly_greedy(model) -> None:
    prompt = random_tokens(2, PROMPT)
    assert torch.equal(generate(model, prompt, temperature=1e-4), greedy(model, prompt))


def test_samples_of_one_prompt_differ(model) -> None:
    generated = generate(model, random_tokens(1, PROMPT), num_return_sequences=4)
    assert len(generated.unique(dim=0)) == 4


def log_likelihood(model: StagedGeneratorForCausalLM, generated: torch.Tensor) -> torch.Tensor:
    shares = logits_of(model, generated).log_softmax(-1)[:, PROMPT - 1 : -1]
    return shares.gather(-1, generated[:, PROMPT:, None]).sum((-1, -2))


def test_beams_find_what_is_at_least_as_likely(model) -> None:
    prompt = random_tokens(4, PROMPT)
    beams = greedy(model, prompt, num_beams=4)
    assert (log_likelihood(model, beams) >= log_likelihood(model, greedy(model, prompt)) - 1e-4).all()
    assert not torch.equal(beams, greedy(model, prompt))


def test_beams_with_a_cache_equal_beams_without(model) -> None:
    """Reordered with its beams, a cache still holds their routing."""
    prompt = random_tokens(2, PROMPT)
    assert torch.equal(greedy(model, prompt, num_beams=3), greedy(model, prompt, num_beams=3, use_cache=False))


def test_assisted_generation_equals_greedy(model, assistant) -> None:
    prompt = random_tokens(1, PROMPT)
    assert torch.equal(greedy(model, prompt, assistant_model=copy.deepcopy(assistant)), greedy(model, prompt))


def test_a_generator_assists_itself(model) -> None:
    """Nearly every guess is taken, so caches grow by several tokens at once."""
    prompt = random_tokens(1, PROMPT)
    assert torch.equal(greedy(model, prompt, assistant_model=copy.deepcopy(model)), greedy(model, prompt))


def test_guesses_from_the_prompt_equal_greedy(model) -> None:
    prompt = random_tokens(1, 4).repeat(1, 4)
    assert torch.equal(greedy(model, prompt, prompt_lookup_num_tokens=3), greedy(model, prompt))


def test_tokens_are_streamed_as_they_come(model) -> None:
    tokenizer, prompt = tiny_tokenizer(model.config), random_tokens(1, PROMPT)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)

    def generate() -> None:
        try:
            greedy(model, prompt, streamer=streamer)
        finally:
            streamer.end()  # also where it fails, so that the reader does not wait for more

    worker = Thread(target=generate)
    worker.start()
    pieces = list(streamer)
    worker.join()
    assert len(pieces) > NEW // 2
    assert "".join(pieces) == tokenizer.decode(greedy(model, prompt)[0, PROMPT:])


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_left_padded_rows_continue_as_if_alone(model, cache: str) -> None:
    tokens, lengths = random_tokens(3, PROMPT), (PROMPT, 3, PROMPT - 4)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        mask[row, PROMPT - length :] = 1
    flags = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}[cache]
    together = greedy(model, tokens * mask, attention_mask=mask, **flags)
    for row, length in enumerate(lengths):
        alone = greedy(model, tokens[row : row + 1, PROMPT - length :])
        assert torch.equal(together[row, PROMPT - length :], alone[0])


def test_a_static_cache_changes_nothing(model) -> None:
    prompt = random_tokens(2, PROMPT)
    expected = greedy(model, prompt)
    assert torch.equal(greedy(model, prompt, cache_implementation="static"), expected)
    # One that is used again.
    cache = StaticCache(model.config, max_cache_len=PROMPT + NEW + 7)
    for _ in range(2):
        assert torch.equal(greedy(model, prompt, past_key_values=cache), expected)
        cache.reset()


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_prompt_taken_in_pieces_changes_nothing(model, cache: str) -> None:
    prompt = random_tokens(2, PROMPT)
    pieces = greedy(model, prompt, prefill_chunk_size=5, cache_implementation=cache)
    assert torch.equal(pieces, greedy(model, prompt))


def test_beams_in_a_static_cache_change_nothing(model) -> None:
    prompt = random_tokens(2, PROMPT)
    beams = greedy(model, prompt, num_beams=3, cache_implementation="static")
    assert torch.equal(beams, greedy(model, prompt, num_beams=3))


@each_road
def test_a_compiled_model_generates_the_same(stage: int) -> None:
    """One graph for the prompt, one for all tokens after it: a static cache has one shape."""
    torch.compiler.reset()
    graphs = CompileCounter()
    model, prompt = tiny_generator(stage, "sdpa"), random_tokens(2, PROMPT)
    expected = greedy(model, prompt)
    model.forward = torch.compile(model.forward, backend=graphs, fullgraph=True)
    assert torch.equal(greedy(model, prompt, cache_implementation="static"), expected)
    assert graphs.frame_count == 2


def test_a_repetition_penalty_makes_tokens_new(model) -> None:
    prompt = random_tokens(1, PROMPT, high=12)
    generated = greedy(model, prompt, repetition_penalty=1e6)[0, PROMPT:]
    assert len(generated.unique()) == NEW
    assert not torch.isin(generated, prompt).any()
    assert len(greedy(model, prompt, no_repeat_ngram_size=2)[0].unfold(0, 2, 1)[PROMPT:].unique(dim=0)) == NEW - 1


@pytest.mark.parametrize("flags", [{"do_sample": False}, {"do_sample": True}, {"do_sample": False, "num_beams": 2}])
def test_generation_ends_where_the_context_does(model, flags: dict) -> None:
    limit = model.config.max_position_embeddings
    prompt = random_tokens(1, limit - 5)
    assert generate(model, prompt, new=50, **flags).shape == (1, limit)
    assert model.generate(prompt, max_length=limit + 9, eos_token_id=None, **flags).shape == (1, limit)
    assert model.generate(prompt, eos_token_id=None, **flags).shape == (1, limit)


def test_assisted_generation_ends_where_the_context_does(model, assistant) -> None:
    limit = model.config.max_position_embeddings
    prompt = random_tokens(1, limit - 5)
    assisted = greedy(model, prompt, new=50, assistant_model=copy.deepcopy(assistant))
    assert torch.equal(assisted, greedy(model, prompt, new=50))


@pytest.mark.parametrize("extra", [0, 1, 30])
def test_a_prompt_that_fills_the_context_is_refused_by_name(model, extra: int) -> None:
    length = model.config.max_position_embeddings + extra
    with pytest.raises(ValueError, match=f"prompt of {length} tokens .* max_position_embeddings=192: shorten it"):
        model.generate(random_tokens(1, length), max_new_tokens=5)


def test_special_tokens_are_never_generated(model) -> None:
    generated = generate(model, random_tokens(8, PROMPT), new=100, temperature=50.0, top_k=0)
    never = sorted({0, 1, 2, 3})
    assert model.generation_config.suppress_tokens == never
    assert not torch.isin(generated[:, PROMPT:], torch.tensor(never)).any()
    freely = generate(model, random_tokens(8, PROMPT), new=100, temperature=50.0, top_k=0, suppress_tokens=None)
    assert torch.isin(freely[:, PROMPT:], torch.tensor(never)).any()


def test_generation_stops_at_the_end_token(model) -> None:
    prompt = random_tokens(1, PROMPT)
    expected = greedy(model, prompt)[0]
    end = int(expected[PROMPT + 6])
    first = expected[PROMPT:].tolist().index(end)
    stopped = model.generate(prompt, do_sample=False, max_new_tokens=NEW, eos_token_id=end)
    assert torch.equal(stopped[0], expected[: PROMPT + first + 1])


def test_generation_goes_on_from_a_returned_cache(model) -> None:
    prompt = random_tokens(1, PROMPT)
    first = greedy(model, prompt, new=10, return_dict_in_generate=True)
    second = greedy(model, first.sequences, new=NEW - 10, past_key_values=first.past_key_values)
    assert torch.equal(second, greedy(model, prompt))


def test_defaults_travel_with_the_checkpoint(model, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    stored = GenerationConfig.from_pretrained(tmp_path)
    assert (stored.do_sample, stored.top_k, stored.temperature) == (True, 50, 0.7)
    assert stored.suppress_tokens == [0, 1, 2, 3]
    assert (stored.pad_token_id, stored.bos_token_id, stored.eos_token_id) == (0, 3, 4)
    opened = StagedGeneratorForCausalLM.from_pretrained(tmp_path)
    assert opened.generation_config.suppress_tokens == stored.suppress_tokens


def test_a_token_that_is_both_begin_and_end_can_still_end() -> None:
    """As GPT-2's tokens are."""
    model = tiny_generator(0, pad_token_id=None, unk_token_id=59, mask_token_id=None, bos_token_id=59, eos_token_id=59)
    assert model.generation_config.suppress_tokens is None


def test_embeddings_can_be_continued_at_stage_0() -> None:
    model, prompt = tiny_generator(0), random_tokens(1, PROMPT)
    embeddings = model.get_input_embeddings()(prompt)
    continued = model.generate(inputs_embeds=embeddings, do_sample=False, max_new_tokens=8, min_new_tokens=8)
    assert torch.equal(continued, greedy(model, prompt, new=8)[:, PROMPT:])


def test_a_cache_of_stage_0_is_refused_at_stage_3() -> None:
    tokens = random_tokens(1, PROMPT)
    cache = tiny_generator(0)(tokens, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values: this cache was not filled by a model of stage 3"):
        tiny_generator(3)(tokens[:, :1], past_key_values=cache)


def test_a_resized_vocabulary_still_generates(model) -> None:
    grown = copy.deepcopy(model)
    grown.resize_token_embeddings(VOCABULARY + 5)
    assert greedy(grown, random_tokens(1, PROMPT)).shape == (1, PROMPT + NEW)
