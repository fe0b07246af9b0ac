"""Randomness without state: numbers that are a function of (seed, keys), the same on any device and in any batch.

Integer mixing is SplitMix64 (Steele et al., 2014, https://doi.org/10.1145/2660193.2660195), applied once per key;
counter-based generation as in Salmon et al., 2011 (https://doi.org/10.1145/2063384.2063405). 64-bit integers wrap.
"""

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_FACTOR_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_FACTOR_2 = -7723592293110705685  # 0x94D049BB133111EB


def counter_hash(seed: int, *keys: torch.Tensor | int) -> torch.Tensor:
    """Well-mixed 64 bits for each combination of keys.

    Args:
        seed: any integer; of larger ones the low 64 bits count.
        keys: integers or int64 tensors that broadcast against each other, most general first. Their order matters.

    Returns:
        int64 tensor of the keys' broadcast shape, on their device.
    """
    device = next((key.device for key in keys if isinstance(key, torch.Tensor)), torch.device("cpu"))
    state = _mix(torch.tensor(_signed(seed), dtype=torch.int64, device=device) + _GOLDEN)
    for key in keys:
        number = key.to(torch.int64) if isinstance(key, torch.Tensor) else torch.tensor(_signed(key), device=device)
        state = _mix((state + _GOLDEN) ^ _mix(number + _GOLDEN))
    return state


def counter_uniform(seed: int, *keys: torch.Tensor | int) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64, 53 random bits; arguments as of `counter_hash`."""
    return _shift_right(counter_hash(seed, *keys), 11).to(torch.float64) * 2.0**-53


def counter_integers(seed: int, *keys: torch.Tensor | int, high: int) -> torch.Tensor:
    """Integers in [0, high), int64; arguments as of `counter_hash`. The bias of the modulo is below high / 2^63."""
    return _shift_right(counter_hash(seed, *keys), 1) % high


def counter_normal(seed: int, *keys: torch.Tensor | int) -> torch.Tensor:
    """Standard normal numbers, float32, by the Box-Muller transform; arguments as of `counter_hash`."""
    radius = torch.sqrt(-2.0 * torch.log1p(-counter_uniform(seed, *keys, 0)))
    return (radius * torch.cos(2.0 * torch.pi * counter_uniform(seed, *keys, 1))).to(torch.float32)


def _mix(state: torch.Tensor) -> torch.Tensor:
    state = (state ^ _shift_right(state, 30)) * _FACTOR_1
    state = (state ^ _shift_right(state, 27)) * _FACTOR_2
    return state ^ _shift_right(state, 31)


def _shift_right(state: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift: torch's own keeps the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The low 64 bits of `number`, read as a signed integer."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
