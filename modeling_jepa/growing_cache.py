"""A cache that does not copy all that it holds for every further token."""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

_LEAST_ROOM, _SHARE_OF_ROOM = 64, 8


class GrowingLayer(DynamicLayer):
    """The library's dynamic layer, with room kept behind the last token, so that further ones are written in place.

    `keys` and `values`, `(B, N, S, D)`, are views of larger tensors. Where gradients flow, under a compiler, and after
    the cache was reordered, repeated or cropped, new tensors are made, as the library does.
    """

    _room: tuple[torch.Tensor, ...] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `(B, N, T, D)` states; returns those of all S places."""
        flows = torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad)
        if flows or torch.compiler.is_compiling():
            self._room = None
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.get_seq_length()
        length = past + key_states.shape[-2]
        if not self._fits(length):
            size = length + max(_LEAST_ROOM, length // _SHARE_OF_ROOM)
            pairs = ((self.keys, key_states), (self.values, value_states))
            self._room = tuple(_roomy(held, states, past, size) for held, states in pairs)
        assert self._room is not None
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., past:length, :] = states
        self.keys, self.values = (room[..., :length, :] for room in self._room)
        return self.keys, self.values

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end; what others hold of them stays as it was."""
        super().crop(tokens_to_remove)
        self._room = None

    def reset(self) -> None:
        """Forget everything."""
        self._room = None
        super().reset()

    def _fits(self, length: int) -> bool:
        """Whether the tensors at hand are still the front of the room, and so many places find it there."""
        if self._room is None or self.keys is None or self.values is None or self._room[0].shape[-2] < length:
            return False
        if self._room[0].is_inference() and not torch.is_inference_mode_enabled():
            return False
        return all(
            held.data_ptr() == room.data_ptr() and held.shape[:2] == room.shape[:2] and held.stride() == room.stride()
            for held, room in zip((self.keys, self.values), self._room, strict=True)
        )


def growing(cache: Cache | None) -> Cache | None:
    """The cache, whose dynamic layers grow where they hold nothing yet; others stay as they are."""
    if isinstance(cache, DynamicCache) and not torch.compiler.is_compiling():
        if cache.layer_class_to_replicate is DynamicLayer:
            cache.layer_class_to_replicate = GrowingLayer
        for place, layer in enumerate(cache.layers):
            if type(layer) is DynamicLayer and not layer.is_initialized:
                cache.layers[place] = GrowingLayer()
    return cache


def _roomy(held: torch.Tensor | None, states: torch.Tensor, past: int, size: int) -> torch.Tensor:
    """`(B, N, size, D)` that begins with what was held."""
    room = states.new_empty(*states.shape[:-2], size, states.shape[-1])
    if held is not None and past:
        room[..., :past, :] = held
    return room
