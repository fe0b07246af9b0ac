"""The dialogue model: read a context, predict the latent of its reply, then say it.

A reader (text encoder and pooling) turns texts into latents; a predictor goes from the context's to the reply's, which
a moving-average teacher reads; a decoder says them. Shapes: B batch, T context, L reply, S latents, H width,
V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GenerationMixin
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.generation.configuration_utils import ALL_STATIC_CACHE_IMPLEMENTATIONS
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from configuration_jepa.configuration_dialogue_jepa import DialogueJepaConfig
from modeling_jepa.chunked_cross_entropy import NextTokenParts, chunked_cross_entropy, cross_entropy_parts
from modeling_jepa.latent_head import Predictor
from modeling_jepa.layers import Attention, Block, RMSNorm, ZeroInitLinear, rotary_position_embeddings
from modeling_jepa.losses import alignment_loss, cosine, part, sigreg_penalty, unit, vicreg_penalty
from modeling_jepa.modeling_base import JepaPreTrainedModel
from modeling_jepa.modeling_text_jepa import TextJepaModel
from modeling_jepa.pipeline_reply import ReplyPipeline  # noqa: F401  (so that it travels along)
from modeling_jepa.teacher import MovingAverageTeacher, TaughtMixin

IGNORED = -100

# Settings of `generate` that have no meaning for a model that reads a context once, and what to do.
_NOT_HERE = {
    "guidance_scale": "leave it out",
    "assistant_early_exit": "leave it out",
    "prefill_chunk_size": "leave it out, as the context is read once and a reply begins with one token",
    "inputs_embeds": "give input_ids",
    "decoder_inputs_embeds": "give decoder_input_ids",
}


@dataclass
class DialogueLatentOutput(ModelOutput):
    """What is read from a context.

    Args:
        last_hidden_state: `(B, T, H)` of the encoder.
        context_latents: `(B, S, H)`, the context read into latents.
        predicted_latents: `(B, S, H)`, the reply's, each of length sqrt(H).
        hidden_states, attentions: of the encoder, as everywhere in the library.
    """

    last_hidden_state: torch.Tensor | None = None
    context_latents: torch.Tensor | None = None
    predicted_latents: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class DialogueOutput(ModelOutput):
    """Output of the dialogue model.

    Args:
        loss: 0-d, when labels are given.
        loss_parts: name -> (sum, count), float32 `(2,)`, without gradient: `reply` in nats and `accuracy` of the
            greedy token, per token; `alignment`, `ranking`, `batch_accuracy` (the right reply first among those of the
            batch) and `cos_mean`, per pair; `bag` in nats per token, averaged over each reply, per pair; `collapse`.
        logits: `(B, L, V)`, or the last `logits_to_keep`; None in training with labels, where they never exist.
        past_key_values: the cache.
        predicted_latents, target_latents: `(B, S, H)`, each of length sqrt(H); targets where labels are given.
        encoder_last_hidden_state, encoder_hidden_states, encoder_attentions, decoder_hidden_states,
            decoder_attentions, cross_attentions: as everywhere in the library.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    predicted_latents: torch.Tensor | None = None
    target_latents: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


class LatentReader(nn.Module):
    """A text encoder, and learned queries that gather what it says into S latents."""

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TextJepaModel(config)  # type: ignore[arg-type] # it reads the trunk's fields, which all families have
        self.queries = nn.Parameter(torch.zeros(config.num_latents, config.hidden_size))
        self.attention = Attention(config, layer_idx=0, is_cross_attention=True)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """`(B, T)` tokens -> `(B, T, H)` of the encoder, `(B, S, H)` latents, and the encoder's whole output."""
        encoded = self.encoder(input_ids, attention_mask=attention_mask, **kwargs)
        states = encoded.last_hidden_state
        queries = self.queries.expand(states.shape[0], -1, -1)
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=queries,
            attention_mask=attention_mask,
            encoder_hidden_states=states,
        )
        gathered, _ = self.attention(queries, attention_mask=mask, key_value_states=states)
        return states, self.norm(gathered), encoded


class DialogueJepaPreTrainedModel(JepaPreTrainedModel):
    """Base of the dialogue models."""

    config: DialogueJepaConfig
    # Latents and replies attend to more or fewer places than there are of them: flash attention takes the mask of the
    # attended for that of the asking. Flex attention's masks cannot be cut into those of latents and of context.
    _supports_flash_attn = False
    _supports_flex_attn = False
    _keys_to_ignore_on_load_unexpected = [
        r"^teacher\.",
        r"^decoder\.",
        r"^lm_head\.",
        r"^bag_head\.",
        r"^log_scale$",
        r"^token_counts$",
    ]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LatentReader):
            init.normal_(module.queries, std=self.config.initializer_range)
        elif isinstance(module, DialogueJepaForConditionalGeneration):
            init.constant_(module.log_scale, -math.log(self.config.temperature))
            init.zeros_(module.token_counts)


class DialogueJepaModel(DialogueJepaPreTrainedModel):
    """Reader and predictor: a context in, the latents of its reply out."""

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__(config)
        self.reader = LatentReader(config)
        self.predictor = Predictor(config, config.predictor_layers)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The encoder's table."""
        return self.reader.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's table."""
        self.reader.encoder.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DialogueLatentOutput:
        """Read a context and predict its reply's latents.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`, 1 where there is a token.
            **kwargs: for the encoder.

        Raises:
            ValueError: no `input_ids`; a context longer than the model.
        """
        if input_ids is None:
            raise ValueError("input_ids is None: give the tokens of the context (B, T).")
        states, latents, encoded = self.reader(input_ids, attention_mask, **kwargs)
        return DialogueLatentOutput(
            last_hidden_state=states,
            context_latents=latents,
            predicted_latents=full_length(self.predictor(latents)),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class LatentCrossAttention(Attention):
    """Cross-attention to S latents, and to the context that may stand behind them: each has a softmax of its own, and
    what both give is added.

    In one softmax a few latents beside dozens of words were not listened to.
    """

    def __init__(self, config: DialogueJepaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx, is_cross_attention=True)
        self.num_latents = config.num_latents

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Keys and values `(B, N, S or S + T, D)`, latents first; of each query the probabilities sum to 1 or to 2."""
        (latents, context), (said, meant) = (states.tensor_split([self.num_latents], dim=2) for states in (key, value))
        output, probabilities = super()._attend(query, latents, said, None, **kwargs)  # latents are always all seen
        if not context.shape[2]:
            return output, probabilities
        mask = None if attention_mask is None else attention_mask[..., self.num_latents :]
        of_context, rest = super()._attend(query, context, meant, mask, **kwargs)
        if probabilities is None or rest is None:
            return output + of_context, None
        return output + of_context, torch.cat((probabilities, rest), dim=-1)


class ReplyBlock(Block):
    """A causal block with cross-attention to latents and context."""

    def __init__(self, config: DialogueJepaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx, is_causal=True, has_cross_attention=True)
        self.cross_attn = LatentCrossAttention(config, layer_idx)


class ReplyDecoder(DialogueJepaPreTrainedModel):
    """Causal transformer that says a reply: self-attention over what was said, cross-attention to latents, and by
    choice to the context.
    """

    _no_split_modules = ["Block", "ReplyBlock"]
    _can_record_outputs = {
        "hidden_states": Block,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(Attention, index=1, layer_name="cross_attn"),
    }

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.latent_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ReplyBlock(config, place) for place in range(config.decoder_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None,
        latents: torch.Tensor,
        context: torch.Tensor | None,
        context_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Say on.

        Args:
            input_ids: `(B, L)`, what was said.
            attention_mask: `(B, all L)`, or None.
            latents: `(B, S, H)` of the reply.
            context: `(B, T, H)` of the encoder, or None where the decoder does not see it.
            context_mask: `(B, T)`, or None.
            past_key_values: a cache.
            **kwargs: for the blocks.
        """
        embeddings = self._look_up(input_ids)
        if self.config.scale_embeddings:
            embeddings = embeddings * math.sqrt(self.config.hidden_size)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=None,
        )
        # Of float32, being directions.
        memory, memory_mask = self._memory(latents.to(embeddings.dtype), context, context_mask)
        cross_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=embeddings,
            attention_mask=memory_mask,
            encoder_hidden_states=memory,
        )
        places = said_before(embeddings.shape[1], attention_mask, past, embeddings.device)
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        positions = rotary_position_embeddings(places, head_dim, self.config.rope_theta, embeddings.dtype)
        hidden_states = self.dropout(embeddings)
        for layer in self.layers:
            # By place: re-entrant checkpointing would walk the memory's graph once for each layer.
            hidden_states = layer(
                hidden_states,
                positions,
                mask,
                memory,
                encoder_attention_mask=cross_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )

    def _look_up(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Rows of the table; `peft`, which ties tables, takes this one for an output layer."""
        table: Any = self.embed_tokens
        if isinstance(table, nn.Embedding):
            return table(input_ids)
        if (
            self.config.tie_word_embeddings
            and hasattr(table, "token_adapter")
            and not table.token_adapter.tied_adapter
        ):
            raise ValueError(
                "trainable_token_indices adapts the encoder's and the decoder's table apart, and they are one: give a "
                "list of ids, or name the encoder's table alone ('model.reader.encoder.embed_tokens')."
            )
        return nn.functional.embedding(input_ids, table.weight)

    def _memory(
        self, latents: torch.Tensor, context: torch.Tensor | None, context_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What cross-attention sees, `(B, S or S + T, H)`, with its mask."""
        memory = self.latent_proj(latents)
        if context is None:
            return memory, None
        memory = torch.cat((memory, context), dim=1)
        if context_mask is None:
            return memory, None
        seen = context_mask.new_ones(latents.shape[:2])
        return memory, torch.cat((seen, context_mask), dim=1)


class PretrainedDecoder(nn.Module):
    """A pretrained causal language model that says a reply after a soft prefix made of the latents, and by choice of
    the context (Li and Liang, 2021, arXiv:2101.00190), and reads them with each of its words (Li et al., 2020,
    arXiv:2004.04092, section 3.1, "embedding"), which adds nothing before it has learnt.
    """

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__()
        given = dict(config.decoder_config or {})
        # What a user asks for; `sdpa` is also the default, which the language model may have to refuse.
        asked = None if config._attn_implementation == "sdpa" else config._attn_implementation
        self.language_model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(given.pop("model_type"), **given), attn_implementation=asked
        )
        width = self.language_model.get_input_embeddings().weight.shape[1]
        self.prefix_length = config.prefix_length
        self.latent_proj = nn.Linear(config.hidden_size, config.prefix_length * width)
        self.word_proj = ZeroInitLinear(config.num_latents * config.hidden_size, width, bias=False)
        self.context_proj = nn.Linear(config.hidden_size, width) if config.context_access == "both" else None

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None,
        latents: torch.Tensor,
        context: torch.Tensor | None,
        context_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Its logits `(B, L, V)` stand where a decoder of ours has vectors; arguments as of `ReplyDecoder.forward`.

        Hidden states `(B, L, width)` and the rows of attentions `(B, N, L, prefix + all L)` are those of the words.
        """
        if isinstance(past_key_values, EncoderDecoderCache):  # it attends to nothing but itself
            past_key_values = past_key_values.self_attention_cache
        words = self.language_model.get_input_embeddings()(input_ids)
        # Of length 1 and not sqrt(H): a table's rows are short, and what is added to them must not outgrow them.
        latents = unit(latents).to(words.dtype)
        told = self.word_proj(latents.flatten(1)) / math.sqrt(latents.shape[1])
        words = words + told[:, None].to(words.dtype)
        prefix, prefix_mask = self._prefix(latents, context, context_mask)
        if attention_mask is None:
            past = 0 if past_key_values is None else max(0, past_key_values.get_seq_length() - prefix.shape[1])
            attention_mask = prefix_mask.new_ones(words.shape[0], past + words.shape[1])
        starts = past_key_values is None or past_key_values.get_seq_length() == 0
        embeddings = torch.cat((prefix.to(words.dtype), words), dim=1) if starts else words
        mask = torch.cat((prefix_mask, attention_mask.to(prefix_mask.dtype)), dim=1)
        output = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0)[:, -embeddings.shape[1] :],
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            **kwargs,
        )
        said = slice(-words.shape[1], None)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=output.logits[:, said],
            past_key_values=past_key_values,
            hidden_states=output.hidden_states and tuple(states[:, said] for states in output.hidden_states),
            attentions=output.attentions and tuple(rows[:, :, said] for rows in output.attentions),
        )

    def tied_weights_keys(self, prefix: str) -> dict[str, str]:
        """The language model's own tied weights, under the names that they have in a model that holds this decoder."""
        own = self.language_model._tied_weights_keys if self.language_model.config.tie_word_embeddings else None
        names = {f"language_model.{target}": f"language_model.{source}" for target, source in (own or {}).items()}
        return {prefix + target: prefix + source for target, source in names.items()}

    def _prefix(
        self, latents: torch.Tensor, context: torch.Tensor | None, context_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, prefix, width)` of latents of length 1, and its mask."""
        prefix = self.latent_proj(latents).unflatten(-1, (self.prefix_length, -1)).flatten(1, 2)
        mask = torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device)
        if context is None or self.context_proj is None:
            return prefix, mask
        known = torch.ones(context.shape[:2], dtype=torch.long, device=prefix.device)
        return (
            torch.cat((self.context_proj(context), prefix), dim=1),
            torch.cat((known if context_mask is None else context_mask.long(), mask), dim=1),
        )


class BagHead(nn.Module):
    """From a reply's latents to a vector that is scored against the table: which words the reply has, in any order."""

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.num_latents * config.hidden_size, config.hidden_size)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """`(B, S, H) -> (B, H)`."""
        return self.norm(self.linear(latents.flatten(1).to(self.norm.weight.dtype)))  # of float32, being directions


class DialogueGenerationConfig(GenerationConfig):
    """The library would take what is called alike in a model's configuration: `temperature` is the ranking loss's."""

    @classmethod
    def from_model_config(cls, model_config: Any) -> GenerationConfig:
        """The settings that a model starts with."""
        return default_generation_config(model_config)


class DialogueJepaForConditionalGeneration(TaughtMixin, DialogueJepaPreTrainedModel, GenerationMixin):
    """The dialogue model: reader, predictor, teacher, and the decoder that says the reply.

    `token_counts` `(V,)`, int64, are the counts of the training replies (zeros: unknown) and travel with the weights.

    Example:
        >>> from configuration_jepa import DialogueJepaConfig
        >>> config = DialogueJepaConfig(vocab_size=50, hidden_size=16, num_attention_heads=2)
        >>> model = DialogueJepaForConditionalGeneration(config)
        >>> model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[8, 9]])).logits.shape
        torch.Size([1, 2, 50])
    """

    _tied_weights_keys = {
        "lm_head.weight": "model.reader.encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight": "model.reader.encoder.embed_tokens.weight",
    }
    token_counts: torch.Tensor
    generation_config_class = DialogueGenerationConfig

    def __init__(self, config: DialogueJepaConfig) -> None:
        super().__init__(config)
        self.model = DialogueJepaModel(config)
        self.teacher: MovingAverageTeacher = MovingAverageTeacher(LatentReader(config), config.teacher_momentum)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.bag_head = BagHead(config) if config.bag_weight else None
        self.decoder: ReplyDecoder | PretrainedDecoder
        self.lm_head: nn.Linear | None = None
        if config.decoder_config is None:
            self.decoder = ReplyDecoder(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        else:
            self.decoder = PretrainedDecoder(config)
            self._tied_weights_keys = self.decoder.tied_weights_keys("decoder.")
        self.register_buffer("token_counts", torch.zeros(config.vocab_size, dtype=torch.int64))
        self.generation_config = default_generation_config(config)
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc] # TransformersKwargs repeats names
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: DialogueLatentOutput | None = None,
        past_key_values: Cache | None = None,
        labels: torch.LongTensor | None = None,
        target_share: float | torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DialogueOutput:
        """Predict the reply's latents and its tokens.

        Args:
            input_ids: `(B, T)`, the context.
            attention_mask: `(B, T)`, 1 where there is a token.
            decoder_input_ids: `(B, L)`, what was said, the begin token first; by default the labels, moved on by one.
            decoder_attention_mask: `(B, all L)`, 1 where there is a token.
            encoder_outputs: what `self.model` gave for this context, instead of reading it again.
            past_key_values: a cache.
            labels: `(B, L)`, the reply with its end token and without its begin token; -100 after it.
            target_share: with `decoder_latent="mixed"`, how much of the latents that the decoder sees is the
                teacher's, from 1 to 0; by default a half.
            use_cache: whether to make a cache.
            logits_to_keep: only the last so many positions (0: all), or these positions.
            num_items_in_batch: reply tokens of the whole optimiser step, over which the loss is averaged; by default
                those of this batch. Figures of pairs are averaged over the batch, and count by its share of tokens.
            **kwargs: for encoder and decoder.

        Raises:
            ValueError: neither context nor `encoder_outputs`; neither `decoder_input_ids` nor `labels`.
        """
        read: Any = self.model(input_ids, attention_mask, **kwargs) if encoder_outputs is None else encoder_outputs
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("Give decoder_input_ids (what was said, the begin token first) or labels.")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        target = None if labels is None else self.read_replies(*self._whole_replies(labels))
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        latents = self._decoder_latents(read.predicted_latents, target, target_share)
        context = read.last_hidden_state if self.config.context_access == "both" else None
        decoded = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            latents,
            context,
            attention_mask if context is not None else None,
            past_key_values=past_key_values,
            **kwargs,
        )
        logits = loss = parts = None
        if labels is None or not self.training:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self._logits(decoded.last_hidden_state[:, kept])
        if labels is not None and target is not None:
            reply, count = self._reply_parts(decoded.last_hidden_state, labels), (labels != IGNORED).sum()
            answers = target if self.config.ranking_target == "teacher" else self._own_reading(labels)
            pairs = self._latent_parts(read.predicted_latents, read.context_latents, target, answers, labels)
            loss, parts = self._weigh(reply, count, pairs, num_items_in_batch)
            self.teacher.watch(loss)
        return DialogueOutput(
            loss=loss,
            loss_parts=parts,
            logits=logits,
            past_key_values=past_key_values,
            predicted_latents=read.predicted_latents,
            target_latents=target,
            encoder_last_hidden_state=read.last_hidden_state,
            encoder_hidden_states=read.hidden_states,
            encoder_attentions=read.attentions,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.get("cross_attentions"),
        )

    def generate(  # type: ignore[override] # the rest goes through
        self, inputs: torch.Tensor | None = None, generation_config: Any = None, **kwargs: Any
    ) -> Any:
        """As the library's. Raises `ValueError` for what has no meaning here: classifier-free guidance, early exits,
        vectors in place of tokens, and a static cache where a prefix or a context has no place in it.
        """
        self._refuse_settings(generation_config or self.generation_config, kwargs)
        return super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc] # of whatever is a model

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Not possible: raises `ValueError`."""
        raise ValueError("generate_batch (continuous batching) knows no encoder: call generate with a padded batch.")

    def _refuse_settings(self, settings: GenerationConfig, given: dict[str, Any]) -> None:
        asked = {name: given.get(name, getattr(settings, name, None)) for name in (*_NOT_HERE, "cache_implementation")}
        for name, instead in _NOT_HERE.items():
            if asked[name] is not None and (name, asked[name]) != ("guidance_scale", 1):
                raise ValueError(f"{name} is not possible with a dialogue model: {instead}.")
        cache = asked["cache_implementation"] or type(given.get("past_key_values")).__name__
        is_static = cache in (*ALL_STATIC_CACHE_IMPLEMENTATIONS, "StaticCache")
        if is_static and (self.lm_head is None or self.config.context_access == "both"):
            what = "a pretrained decoder" if self.lm_head is None else "context_access='both'"
            raise ValueError(f"cache_implementation={cache!r} is not possible with {what}: leave it out.")

    @torch.no_grad()
    def read_replies(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Target latents `(B, S, H)` of whole replies `(B, L)`, begin and end token included, by the teacher."""
        self.teacher.follow_until_updated(self._student())
        _, latents, _ = self.teacher.target(input_ids, attention_mask)
        return full_length(latents)

    def latent_cosines(self, predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cosines `(B, C)`, mean over the latents, of predictions `(B, S, H)` and replies `(C, S, H)`."""
        return torch.einsum("bsh,csh->bc", unit(predicted), unit(targets)) / predicted.shape[1]

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """The reply `(B, L)` moved on by one: the begin token first, its last token left out."""
        moved = labels.roll(1, dims=1)
        moved[:, 0] = self._begin
        return moved.masked_fill(moved == IGNORED, self._padding)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """Reader and predictor: what generation runs once."""
        return self.model

    def get_input_embeddings(self) -> nn.Embedding:
        """The encoder's table."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's table."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The table that gives the logits."""
        if isinstance(self.decoder, PretrainedDecoder):
            return self.decoder.language_model.get_output_embeddings()
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace it."""
        if isinstance(self.decoder, PretrainedDecoder):
            self.decoder.language_model.set_output_embeddings(new_embeddings)
        else:
            self.lm_head = new_embeddings

    @torch.no_grad()
    def set_token_counts(self, counts: torch.Tensor) -> None:
        """Keep the training replies' token counts `(V,)`: those of the unigram guess that scores stand beside."""
        if tuple(counts.shape) != (self.config.vocab_size,):
            raise ValueError(f"counts has shape {tuple(counts.shape)}; it must be ({self.config.vocab_size},).")
        self.token_counts.copy_(counts)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As the library's, of every table; counts of new tokens are 0, the teacher's new rows are the student's."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        size = embeddings.num_embeddings
        kept = min(size, self.token_counts.shape[0])
        counts = self.token_counts.new_zeros(size)
        counts[:kept] = self.token_counts[:kept]
        self.token_counts = counts
        name = "encoder.embed_tokens"
        table = nn.Embedding.from_pretrained(embeddings.weight.detach().clone())
        table.weight[:kept] = self.teacher.target.get_submodule(name).get_parameter("weight")[:kept]
        self.teacher.target.set_submodule(name, table)
        self._resize_decoder(size)
        return embeddings

    def _resize_decoder(self, size: int) -> None:
        """What the library does not know: a table of the decoder's own."""
        if isinstance(self.decoder, PretrainedDecoder):
            self.decoder.language_model.resize_token_embeddings(size)
            self.config.decoder_config = {**(self.config.decoder_config or {}), "vocab_size": size}
        elif self.decoder.embed_tokens.num_embeddings != size:
            self.decoder.resize_token_embeddings(size)

    @property
    def _begin(self) -> int:
        return int(self.config.bos_token_id)  # type: ignore[arg-type] # the configuration refuses None

    @property
    def _padding(self) -> int:
        return int(self.config.pad_token_id)  # type: ignore[arg-type] # the configuration refuses None

    def _student(self) -> nn.Module:
        return self.model.reader

    def _whole_replies(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the teacher reads: begin token, reply, end token `(B, L + 1)`, with its mask."""
        known = nn.functional.pad(labels != IGNORED, (1, 0), value=True)
        tokens = nn.functional.pad(labels, (1, 0), value=self._begin)
        return tokens.masked_fill(~known, self._padding), known.long()

    def _own_reading(self, labels: torch.Tensor) -> torch.Tensor:
        """Latents `(B, S, H)` of the replies by the student, with gradient."""
        _, latents, _ = self.model.reader(*self._whole_replies(labels))
        return full_length(latents)

    def _decoder_latents(
        self, predicted: torch.Tensor, target: torch.Tensor | None, target_share: float | torch.Tensor | None
    ) -> torch.Tensor:
        """The latents `(B, S, H)` that the decoder sees: in use, and while figures are taken, the predicted ones."""
        used = predicted if self.config.decoder_gradient else predicted.detach()
        if target is None or not self.training or self.config.decoder_latent == "predicted":
            return used
        if self.config.decoder_latent == "target":
            return target
        share = torch.as_tensor(0.5 if target_share is None else target_share, device=used.device, dtype=used.dtype)
        return full_length(share * target + (1 - share) * used)

    def _logits(self, decoded: torch.Tensor) -> torch.Tensor:
        return decoded if self.lm_head is None else self.lm_head(decoded)

    def _reply_parts(self, decoded: torch.Tensor, labels: torch.Tensor) -> NextTokenParts:
        """Sums over the reply's tokens."""
        known = labels != IGNORED
        vectors, targets = decoded[known], labels[known]
        smoothing = float(self.config.label_smoothing)
        if self.training and self.lm_head is not None:
            return chunked_cross_entropy(vectors, self.lm_head.weight, targets, smoothing, 0.0)
        return cross_entropy_parts(self._logits(vectors), targets, smoothing, 0.0)

    def _latent_parts(
        self,
        predicted: torch.Tensor,
        context: torch.Tensor,
        target: torch.Tensor,
        answers: torch.Tensor,
        labels: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The parts of pairs, each (sum, count) with its gradient; `answers` are the replies' latents to rank."""
        cosines = self.latent_cosines(predicted, answers)
        # A reply that stands in the batch twice is no wrong answer for its twin.
        same = (labels[:, None] == labels[None]).all(-1)
        own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        scores = (self.log_scale.exp() * cosines).masked_fill(same & ~own, float("-inf"))
        places = torch.arange(len(labels), device=labels.device)
        parts = {
            "alignment": alignment_loss(predicted.flatten(0, 1), target.flatten(0, 1)),
            "ranking": part(nn.functional.cross_entropy(scores.float(), places, reduction="none")),
            "batch_accuracy": part(scores.argmax(-1) == places),
            "cos_mean": part(cosine(predicted, target).mean(-1)),
        }
        if self.bag_head is not None:
            parts["bag"] = self._bag_part(self.bag_head(predicted), labels)
        if self.config.collapse_protection != "none":
            vectors = torch.cat((predicted, context)).flatten(0, 1)
            key = labels.clamp_min(0).sum()
            penalty = (
                vicreg_penalty(vectors)
                if self.config.collapse_protection == "vicreg"
                else (sigreg_penalty(vectors, key=key))
            )
            parts["collapse"] = torch.stack((penalty, penalty.new_tensor(1.0))) * len(labels)
        return parts

    def _bag_part(self, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean over its tokens of each reply's cross entropy, by vectors `(B, H)` against the encoder's table."""
        known = labels != IGNORED
        scores = nn.functional.linear(vectors, self.get_input_embeddings().weight).float().log_softmax(-1)
        of_tokens = -scores.gather(1, labels.clamp_min(0)) * known
        return part(of_tokens.sum(1) / known.sum(1).clamp_min(1))

    def _weigh(
        self,
        reply: NextTokenParts,
        count: torch.Tensor,
        pairs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and all parts without gradient; `count` are the reply's tokens."""
        weights = {
            "alignment": self.config.alignment_weight,
            "ranking": self.config.ranking_weight,
            "bag": self.config.bag_weight,
            "collapse": self.config.collapse_weight,
        }
        items = count if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=count.device)
        items = items.clamp_min(1)
        of_pairs = torch.stack(
            [weight * pairs[name][0] / pairs[name][1] for name, weight in weights.items() if name in pairs]
        ).sum()
        loss = self.config.reply_weight * reply.loss / items + of_pairs * (count / items)
        parts = {
            "reply": torch.stack((reply.cross_entropy, count)),
            "accuracy": torch.stack((reply.correct, count)),
            **pairs,
        }
        return loss, {name: value.detach().float() for name, value in parts.items()}


def default_generation_config(config: DialogueJepaConfig) -> GenerationConfig:
    """Sampling by default, no special token but the end, and no reply longer than what was learnt."""
    never = {config.pad_token_id, config.unk_token_id, config.mask_token_id, config.bos_token_id}
    return GenerationConfig(
        do_sample=True,
        top_k=50,
        temperature=0.7,
        max_length=config.max_reply_length,
        suppress_tokens=sorted(never - {None, config.eos_token_id}) or None,
        decoder_start_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )


def full_length(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors `(..., H)` of length sqrt(H), so that each component is of the order of 1; only directions count."""
    return unit(vectors) * math.sqrt(vectors.shape[-1])


def said_before(length: int, attention_mask: torch.Tensor | None, past: int, device: torch.device) -> torch.Tensor:
    """Place of each new token in its reply, `(B or 1, L)`: padding does not count."""
    if attention_mask is None or attention_mask.ndim != 2:
        return (torch.arange(length, device=device) + past)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -length:]
