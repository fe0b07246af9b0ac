"""The shared layers, as every family uses them: bidirectional, causal with a cache, across sequences."""

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from modeling_jepa.layers import Block, RMSNorm, apply_rotary, rotary_position_embeddings
from tests.families import TEXT_JEPA


@pytest.fixture(params=["eager", "sdpa"])
def config(request):
    config = TEXT_JEPA.config()
    config._attn_implementation = request.param
    return config


def causal_pass(blocks, config, states, start=0, cache=None, attended=None) -> torch.Tensor:
    """Run `states` (B, T, H) through the blocks, positions from `start`."""
    positions = torch.arange(start, start + states.shape[1])[None]
    rotary = rotary_position_embeddings(positions, 8, config.rope_theta, states.dtype)
    decoder_cache = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    mask = create_causal_mask(
        config=config,
        inputs_embeds=states,
        attention_mask=None,
        past_key_values=decoder_cache,
        position_ids=positions,
    )
    for block in blocks:
        states = block(
            states,
            position_embeddings=rotary,
            attention_mask=mask,
            encoder_hidden_states=attended,
            past_key_values=cache,
        )
    return states


def blocks_of(config, **kwargs) -> torch.nn.ModuleList:
    torch.manual_seed(0)
    return torch.nn.ModuleList(Block(config, index, is_causal=True, **kwargs) for index in range(2)).eval()


@torch.no_grad()
def test_causal_blocks_do_not_see_what_follows(config) -> None:
    blocks, states = blocks_of(config), torch.randn(2, 9, 32)
    changed = states.clone()
    changed[:, 5:] = torch.randn(2, 4, 32)
    before, after = causal_pass(blocks, config, states), causal_pass(blocks, config, changed)
    torch.testing.assert_close(
        after[:, :5], before[:, :5], atol=0 if config._attn_implementation == "eager" else 1e-6, rtol=0
    )
    assert not torch.allclose(after[:, 5:], before[:, 5:])


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_cache_continues_exactly_where_it_stopped(config, cut: int) -> None:
    blocks, states = blocks_of(config), torch.randn(2, 9, 32)
    cache = DynamicCache()
    first = causal_pass(blocks, config, states[:, :cut], cache=cache)
    rest = [causal_pass(blocks, config, states[:, i : i + 1], start=i, cache=cache) for i in range(cut, 9)]
    whole = causal_pass(blocks, config, states)
    torch.testing.assert_close(torch.cat([first, *rest], dim=1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_cross_attention_reads_the_other_sequence_once_with_a_cache(config) -> None:
    blocks, states = blocks_of(config, has_cross_attention=True), torch.randn(2, 5, 32)
    attended = torch.randn(2, 7, 32)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    first = causal_pass(blocks, config, states[:, :3], cache=cache, attended=attended)
    # What is attended later must not matter: its keys are in the cache.
    rest = causal_pass(blocks, config, states[:, 3:], start=3, cache=cache, attended=torch.randn(2, 7, 32))
    whole = causal_pass(blocks, config, states, attended=attended)
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole, atol=1e-5, rtol=0)
    assert not torch.allclose(causal_pass(blocks, config, states, attended=attended + 1.0), whole)


def test_cross_attention_without_a_sequence_says_what_is_missing(config) -> None:
    block = Block(config, 0, has_cross_attention=True)
    with pytest.raises(ValueError, match="key_value_states is None"):
        block(torch.randn(1, 2, 32))


@torch.no_grad()
def test_bidirectional_blocks_see_both_sides_and_no_padding(config) -> None:
    torch.manual_seed(0)
    block, states = Block(config, 0).eval(), torch.randn(1, 6, 32)
    kept = torch.tensor([[1, 1, 1, 1, 0, 0]])
    mask = create_bidirectional_mask(config=config, inputs_embeds=states, attention_mask=kept)
    before = block(states, attention_mask=mask)
    seen, padded = states.clone(), states.clone()
    seen[:, 3] += 1.0
    padded[:, 4:] += 1.0
    assert not torch.allclose(block(seen, attention_mask=mask)[:, 0], before[:, 0])
    torch.testing.assert_close(block(padded, attention_mask=mask)[:, :4], before[:, :4], atol=1e-6, rtol=0)


def test_attention_runs_in_float32_under_a_cpus_autocast(config) -> None:
    torch.manual_seed(0)
    block, states, dtypes = Block(config, 0).eval(), torch.randn(1, 6, 32), []
    attend = block.self_attn._attend

    def watched(query, *args, **kwargs):
        dtypes.append(query.dtype)
        return attend(query, *args, **kwargs)

    block.self_attn._attend = watched
    with torch.autocast("cpu", torch.bfloat16):
        rough = block(states)
    exact = block(states)
    assert dtypes == [torch.float32, torch.float32]
    assert (rough - exact).norm() / exact.norm() < 0.02


def test_rotary_scores_depend_on_the_distance_only() -> None:
    query, key = torch.randn(2, 1, 1, 1, 8)

    def score(first: int, second: int) -> torch.Tensor:
        angles = [rotary_position_embeddings(torch.tensor([[at]]), 8, 1e4, torch.float32) for at in (first, second)]
        return (apply_rotary(query, angles[0]) * apply_rotary(key, angles[1])).sum()

    torch.testing.assert_close(score(3, 1), score(30, 28), atol=1e-5, rtol=0)
    assert not torch.allclose(score(3, 1), score(3, 2))


def test_rms_norm_gives_a_root_mean_square_of_one() -> None:
    states = 5.0 * torch.randn(3, 4, 32) + 1.0
    torch.testing.assert_close(RMSNorm(32)(states).pow(2).mean(-1).sqrt(), torch.ones(3, 4), atol=1e-4, rtol=0)
