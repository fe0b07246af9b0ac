"""What the dialogue model is compared with: each is our own network with a part taken out, of our sizes.

Where a configuration says the same, it says it: `ANCHOR_FIELDS`. The rest is here. What a twin does not use gets no
gradient, is no part of its size, and is not computed in training where that would cost time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from configuration_jepa import DialogueJepaConfig
from modeling_jepa import DialogueJepaForConditionalGeneration
from modeling_jepa.chunked_cross_entropy import NextTokenParts
from modeling_jepa.layers import Attention
from modeling_jepa.modeling_dialogue_jepa import (
    DialogueJepaModel,
    DialogueLatentOutput,
    PretrainedDecoder,
    ReplyDecoder,
    full_length,
)

OF_REPLIES = ("perplexity", "accuracy", "distinct_1", "distinct_2")
OF_RETRIEVAL = ("hits_at_1", "hits_at_5", "mrr", "effective_rank", "target_effective_rank")
_NO_LATENT_LOSSES = {
    "ranking_target": "teacher",  # what `read_replies` gives, which a twin says itself
    "alignment_weight": 0.0,
    "ranking_weight": 0.0,
    "bag_weight": 0.0,
    "collapse_protection": "none",
    "decoder_latent": "predicted",
    "decoder_gradient": True,
}


class Twin(DialogueJepaForConditionalGeneration):
    """Ours without a teacher. `unused`: names of the modules and parameters that it has no use for."""

    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__(config)
        self._take_out()
        self.tie_weights()
        for parameter in self._still():
            parameter.requires_grad_(False)

    @property
    def has_teacher(self) -> bool:
        """Nothing follows the student."""
        return False

    def _take_out(self) -> None:
        """Replace parts; the weights are tied afterwards."""

    def _still(self) -> Iterator[nn.Parameter]:
        """Parameters of what is not used. The table is everybody's, but a pretrained decoder has its own."""
        table = None if isinstance(self.decoder, PretrainedDecoder) else self.get_input_embeddings().weight
        for name, parameter in self.named_parameters():
            if parameter is not table and name.startswith(self.unused):
                yield parameter


class BiEncoder(Twin):
    """Reads context and reply with one encoder, both with gradient, and learns which belong together among those of
    the batch (Henderson et al., 2019, arXiv:1911.03688, section 3.2). It says nothing.
    """

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.reader.encoder.embed_tokens.weight"}

    def read_replies(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Latents `(B, S, H)` of whole replies `(B, L)`, by the same reader."""
        _, latents, _ = self.model.reader(input_ids, attention_mask)
        return full_length(latents)

    def _take_out(self) -> None:
        self.decoder = Silence()

    def _logits(self, decoded: torch.Tensor) -> torch.Tensor:
        return decoded.expand(*decoded.shape[:-1], self.config.vocab_size)

    def _reply_parts(self, decoded: torch.Tensor, labels: torch.Tensor) -> NextTokenParts:
        nothing = decoded.new_zeros(())
        return NextTokenParts(loss=nothing, cross_entropy=nothing, correct=nothing)


class Silence(nn.Module):
    """Stands where a decoder was."""

    def forward(
        self, input_ids: torch.LongTensor, *args: Any, **kwargs: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """`(B, L)` -> zeros `(B, L, 1)`."""
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=torch.zeros(*input_ids.shape, 1, device=input_ids.device)
        )


class WithoutLatents(Twin):
    """Learns to say replies alone: nobody reads them. The latent losses have no weight in its configuration."""

    def read_replies(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Zeros `(B, S, H)`."""
        shape = (len(input_ids), self.config.num_latents, self.config.hidden_size)
        return torch.zeros(shape, device=input_ids.device)


class SequenceToSequence(WithoutLatents):
    """Encoder and decoder; the decoder attends to the context alone (Vaswani et al., 2017, arXiv:1706.03762)."""

    unused = (
        *("model.reader.queries", "model.reader.attention", "model.reader.norm", "model.predictor"),
        *("decoder.latent_proj", "log_scale"),
    )

    def _take_out(self) -> None:
        self.decoder = ContextDecoder(self.config)


class ContextDecoder(ReplyDecoder):
    """Our decoder, to which no latents are shown: its cross-attention has one softmax, over the context."""

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.cross_attn = Attention(config, layer.cross_attn.layer_idx, is_cross_attention=True)
        self.post_init()

    def _memory(
        self, latents: torch.Tensor, context: torch.Tensor | None, context_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if context is None:
            raise ValueError("context is None: a sequence-to-sequence model needs context_access='both'.")
        return context, context_mask


class Unconditional(WithoutLatents):
    """A language model of replies: the decoder sees learned constants where ours sees predicted latents."""

    unused = ("model.reader.encoder", "model.reader.attention", "model.reader.norm", "log_scale")

    def _take_out(self) -> None:
        self.model = ConstantLatents(self.config)


class ConstantLatents(DialogueJepaModel):
    """Our reader and predictor, of which only the queries are read: the same latents for every context."""

    def forward(  # type: ignore[override] # nothing is recorded
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> DialogueLatentOutput:
        """`(B, T)` -> latents `(B, S, H)` that depend on nothing."""
        queries = self.reader.queries.expand(len(input_ids), -1, -1)
        return DialogueLatentOutput(
            last_hidden_state=queries,
            context_latents=queries,
            predicted_latents=full_length(self.predictor(queries)),
        )


class LanguageModel(WithoutLatents):
    """A pretrained causal language model as it came: it says replies after nothing but the begin token."""

    unused = ("model.", "log_scale", "decoder.latent_proj", "decoder.word_proj", "decoder.context_proj")

    def _take_out(self) -> None:
        self.decoder = WithoutPrefix(self.config)


class WithoutPrefix(PretrainedDecoder):
    """A pretrained decoder that nothing is put before, and nothing added to its words."""

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__(config)
        nn.init.zeros_(self.word_proj.weight)

    def _prefix(
        self, latents: torch.Tensor, context: torch.Tensor | None, context_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width = self.language_model.get_input_embeddings().weight.shape[1]
        nothing = latents.new_zeros(len(latents), 0, width)
        return nothing, nothing.new_zeros(nothing.shape[:2], dtype=torch.long)


@dataclass(frozen=True)
class Anchor:
    """A model class, and which figures mean something for it."""

    model_class: type[PreTrainedModel]
    figures: tuple[str, ...]


ANCHORS = {
    "ours": Anchor(DialogueJepaForConditionalGeneration, ("latent_usage_ratio", *OF_REPLIES, *OF_RETRIEVAL)),
    "bi_encoder": Anchor(BiEncoder, OF_RETRIEVAL),
    "seq2seq": Anchor(SequenceToSequence, OF_REPLIES),
    "no_latent": Anchor(Unconditional, OF_REPLIES),
    "language_model": Anchor(LanguageModel, OF_REPLIES),
}
ANCHOR_FIELDS: dict[str, dict[str, Any]] = {
    "ours": {},
    "bi_encoder": {
        **_NO_LATENT_LOSSES,
        "context_access": "latent",
        "ranking_weight": 1.0,
        "reply_weight": 0.0,
    },
    "seq2seq": {**_NO_LATENT_LOSSES, "context_access": "both"},
    "no_latent": {**_NO_LATENT_LOSSES, "context_access": "latent"},
    "language_model": {**_NO_LATENT_LOSSES, "context_access": "latent"},
}
