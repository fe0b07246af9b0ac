"""The staged generator: a causal language model that grows by stages and never sees its own answer.

Stage 0 is a causal transformer on factorised embeddings; 1 forgets, and sees the last three tokens through a
convolution; 2 is trained with credit assignment; 3 attends along far edges as well. Shapes: B batch, T new tokens, S
all tokens so far, E embedding size, H width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_masks_for_generate
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from configuration_jepa.configuration_staged_generator import LAST_STAGE, StagedGeneratorConfig
from modeling_jepa.chunked_cross_entropy import NextTokenParts, chunked_cross_entropy, cross_entropy_parts
from modeling_jepa.graph_routing import FarAttention
from modeling_jepa.layers import Block, RMSNorm, growing, rotary_position_embeddings
from modeling_jepa.losses import part
from modeling_jepa.modeling_base import ClassifierMixin, JepaPreTrainedModel
from modeling_jepa.semantic_blocks import BlockAttention, block_cosines, block_decorrelation
from modeling_jepa.staged_attention import RowPlan, StagedAttention, make_plan
from modeling_jepa.temporal_memory import Forgetting, ShortConvolution


@dataclass
class StagedGeneratorOutput(ModelOutput):
    """Output of the generator.

    Args:
        loss: 0-d, when labels are given.
        loss_parts: name -> (sum, count), float32 `(2,)`, without gradient: `cross_entropy` in nats, `accuracy` of the
            greedy next token, and `block_decorrelation` where it has a weight.
        logits: `(B, T, V)`, or the last `logits_to_keep`; None in training with labels, where they never exist.
        past_key_values: the cache.
        hidden_states, attentions: as everywhere in the library; attentions of stage 3 are `(B, heads, T, kinds)`,
            see `StagedGeneratorForCausalLM.attention_kinds`.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class StagedGeneratorPreTrainedModel(JepaPreTrainedModel):
    """Base of the generators."""

    config: StagedGeneratorConfig
    # The trunk alone can be opened from a checkpoint of the whole model.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^output_proj\.", r"^token_counts$"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StagedGeneratorForCausalLM):
            init.zeros_(module.token_counts)
        elif isinstance(module, Forgetting):
            init.zeros_(module.gate)
        elif isinstance(module, ShortConvolution):
            init.zeros_(module.taps)
        elif isinstance(module, FarAttention):
            init.zeros_(module.gate)
            init.zeros_(module.null_key)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As the library's; new tokens have no time of their own."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        old: Any = self.base_model.token_times
        if old is not None:
            size = embeddings.num_embeddings
            new = type(old)(size, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
            kept = min(size, old.num_embeddings)
            new.weight.data.zero_()
            new.weight.data[:kept] = old.weight.data[:kept]
            self.base_model.token_times = new
        return embeddings


class StagedGeneratorModel(StagedGeneratorPreTrainedModel):
    """Causal transformer trunk: tokens in, one vector per position out, which knows nothing of later tokens."""

    def __init__(self, config: StagedGeneratorConfig) -> None:
        super().__init__(config)
        # No padding_idx: with GPT-2's tokens the padding is also what begins a document, and has to learn.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.block_attention = BlockAttention(config) if config.semantic_blocks == "full" else None
        self.embed_proj = nn.Linear(config.embedding_size, config.hidden_size, bias=False)
        self.embed_norm = RMSNorm(config.hidden_size, config.norm_eps)
        has_times = config.stage >= 1 and config.decay_source == "token"
        self.token_times = nn.Embedding(config.vocab_size, config.time_dim) if has_times else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            [
                Block(config, layer_idx, is_causal=True, attention=StagedAttention)
                for layer_idx in range(config.num_hidden_layers)
            ]
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # type: ignore[misc] # TransformersKwargs repeats position_ids
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Encode.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, S)`, 1 for tokens and 0 for padding, which may stand anywhere; all tokens by default.
                At stage 0 also the library's prepared masks.
            position_ids: `(B, T)`, place in the document. A document begins at every token at 0 (at stage 0 only
                where nothing is cached yet), and nothing is attended to across documents. By default counted from the
                mask, and on from the cache.
            past_key_values: the tokens before.
            inputs_embeds: `(B, T, E)` instead of `input_ids`, where no part of the model asks which token it is.
            use_cache: whether to make a cache.
            **kwargs: for the attention interface and the recording of outputs.

        Returns:
            `last_hidden_state` `(B, T, H)`, and the cache.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        embeddings = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past_key_values = growing(past_key_values)
        # A static cache gives the very tensor that it counts on.
        past = 0 if past_key_values is None else past_key_values.get_seq_length() + 0
        self._refuse_too_long(embeddings.shape[1], past)
        positions = _count_positions(embeddings, attention_mask, past) if position_ids is None else position_ids
        hidden_states = self._embed(embeddings)
        given: dict[str, Any] = {}
        documents = None
        if self.config.stage >= 1:
            begins = position_ids is not None or not _is_empty(past_key_values)
            plan = self._plan(input_ids, hidden_states, positions, attention_mask, begins, past_key_values, past)
            given = {"plan": plan, "token_times": None if self.token_times is None else self.token_times(input_ids)}
            documents = plan.documents
        elif position_ids is not None and _is_empty(past_key_values):
            documents = _begins(position_ids.expand(embeddings.shape[:2]), attention_mask).cumsum(-1)
        if "plan" not in given or given["plan"].near is None:
            given["attention_mask"] = self._mask(embeddings, attention_mask, past_key_values, documents)
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        position_embeddings = rotary_position_embeddings(
            positions, head_dim, self.config.rope_theta, hidden_states.dtype
        )
        # `assistant_early_exit` lowers the number for a while.
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                **given,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _refuse_too_long(self, length: int, past: int | torch.Tensor) -> None:
        limit = self.config.max_position_embeddings
        total = length + (past if isinstance(past, int) else 0)  # looking at a tensor would wait for the device
        if total > limit:
            raise ValueError(
                f"A sequence of {total:,} tokens is longer than max_position_embeddings={limit}: shorten it."
            )

    def _embed(self, embeddings: torch.Tensor) -> torch.Tensor:
        """`(B, T, E) -> (B, T, H)`: blocks, trunk's width."""
        if self.block_attention is not None:
            embeddings = self.block_attention(embeddings)
        return self.dropout(self.embed_norm(self.embed_proj(embeddings)))

    def _plan(
        self,
        input_ids: torch.LongTensor | None,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None,
        documents_begin: bool,
        cache: Cache | None,
        past: int | torch.Tensor,
    ) -> RowPlan:
        """What stages 1 to 3 need to know of the rows, found once for all layers."""
        stage = self.config.stage
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(f"attention_mask has {attention_mask.ndim} axes: at stage {stage} it must be (B, S).")
        if input_ids is None and (stage == LAST_STAGE or self.token_times is not None):
            reason = "far edges go by the tokens" if stage == LAST_STAGE else "decay_source=token needs the tokens"
            raise ValueError(f"inputs_embeds: at stage {stage} {reason}: give input_ids.")
        return make_plan(
            self.config,
            input_ids,
            positions.expand(hidden_states.shape[:2]),
            attention_mask,
            documents_begin,
            cache,
            past,
            self.embed_tokens.weight,
            hidden_states.dtype,
        )

    def _mask(
        self,
        embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: Cache | None,
        documents: torch.Tensor | None,
    ) -> Any:
        """For dense attention, as the implementation in use wants it."""
        same: Callable | None = None
        if documents is not None:
            self._refuse_blind_attention(documents, attention_mask)

            def same(batch: Any, head: Any, query: Any, key: Any) -> Any:
                return documents[batch, query] == documents[batch, key]

        return create_causal_mask(
            config=self.config,
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=None,  # else the library looks for documents itself, for a single row only
            and_mask_function=same,
        )

    def _refuse_blind_attention(self, documents: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """Flash attention takes no mask of ours: rows of several documents would see each other without a word."""
        if "flash" not in str(self.config._attn_implementation):
            return
        begins = documents[:, 1:] != documents[:, :-1]
        if attention_mask is not None and attention_mask.ndim == 2:
            begins = begins & attention_mask[:, : begins.shape[1]].bool()  # after padding it is the first
        if begins.any():
            raise ValueError(
                f"position_ids: rows of several documents need attn_implementation eager, sdpa or flex_attention, not "
                f"{self.config._attn_implementation}."
            )


class StagedGeneratorForSequenceClassification(ClassifierMixin, StagedGeneratorPreTrainedModel):
    """The trunk, and a linear layer on its vector at the last token, the only one that knows all of them."""

    trunk, trunk_arguments = StagedGeneratorModel, {"use_cache": False}

    def _features(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        place = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask > 0, place, 0).argmax(1)
        return states[torch.arange(states.shape[0], device=states.device), last]


class StagedGeneratorForCausalLM(StagedGeneratorPreTrainedModel, GenerationMixin):
    """The generator: the trunk, and the token table again as its output.

    Example:
        >>> from configuration_jepa import StagedGeneratorConfig
        >>> config = StagedGeneratorConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, embedding_size=16)
        >>> model = StagedGeneratorForCausalLM(config)
        >>> model(torch.tensor([[5, 6, 7]])).logits.shape
        torch.Size([1, 3, 50])
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    token_counts: torch.Tensor

    def __init__(self, config: StagedGeneratorConfig) -> None:
        super().__init__(config)
        self.model = StagedGeneratorModel(config)
        self.output_proj = nn.Linear(config.hidden_size, config.embedding_size, bias=False)
        self.lm_head = nn.Linear(config.embedding_size, config.vocab_size, bias=False)
        self.register_buffer("token_counts", torch.zeros(config.vocab_size, dtype=torch.int64))
        self.generation_config = default_generation_config(config)
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc] # TransformersKwargs repeats two names
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StagedGeneratorOutput:
        """Predict the next token everywhere.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: see
                `StagedGeneratorModel.forward`.
            labels: `(B, T)`, the input ids themselves: the label at t is predicted from the tokens before t. -100
                where nothing is to be predicted; the first of a row never is.
            logits_to_keep: only the last so many positions (0: all), or these positions.
            num_items_in_batch: predictions of the whole optimiser step, over which the loss is averaged; by default
                those of this batch.
            **kwargs: `shift_labels` `(B, T)`, the token after each, in place of the labels: sequence and context
                parallel training cut rows into pieces, and bring these along. No argument, as the Trainer would ask
                for it with every batch. The rest: see `StagedGeneratorModel.forward`.
        """
        shift_labels: Any = kwargs.pop("shift_labels", None)
        if self.training and use_cache is None and (labels is not None or shift_labels is not None):
            use_cache = False  # nobody goes on from a training step
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = self.output_proj(outputs.last_hidden_state)
        logits = loss = parts = None
        if shift_labels is None and labels is not None:
            shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        if shift_labels is None or not self.training:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])
        if shift_labels is not None:
            found = self._predictions(hidden_states, shift_labels)
            count = (shift_labels != -100).sum()
            parts = {
                "cross_entropy": torch.stack((found.cross_entropy, count)),
                "accuracy": torch.stack((found.correct, count)),
            }
            items = count if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=count.device)
            items = items.clamp_min(1)  # a step may have nothing to predict
            loss = found.loss / items
            if self.config.block_decorrelation_weight:
                extra, parts["block_decorrelation"] = self._decorrelation(
                    input_ids, shift_labels if labels is None else labels
                )
                loss = loss + extra * (count / items)
        return StagedGeneratorOutput(
            loss=loss,
            loss_parts=parts,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def attention_kinds(self) -> list[str]:
        """What the last axis of `attentions` is at stage 3: `near`, the usual attention, and the kinds of far edges,
        each with the share of its softmax that is not nobody's, times the size of the head's gate.
        """
        return ["near", *self.config.routing_edges]

    @torch.no_grad()
    def block_figures(self) -> dict[str, float]:
        """Of the token table: `block_cosine`, the mean absolute cosine between different blocks of a token, and
        `effective_rank`, exp of the entropy of its normalised singular values (Roy and Vetterli, 2007), at most E.
        """
        table, blocks = self.model.embed_tokens.weight.float(), self.config.num_semantic_blocks
        singular = torch.linalg.svdvals(table - table.mean(0))
        shares = singular / singular.sum().clamp_min(1e-12)
        rank = torch.exp(-(shares * shares.clamp_min(1e-12).log()).sum())
        pairs = max(blocks * (blocks - 1), 1)
        cosines = [block_cosines(rows, blocks).abs().sum((-1, -2)) / pairs for rows in table.split(4096)]
        return {"block_cosine": torch.cat(cosines).mean().item(), "effective_rank": rank.item()}

    @staticmethod
    def new_parameters(stage: int) -> tuple[str, ...]:
        """What the names of the parameters contain that a checkpoint of the stage before does not have."""
        return {
            1: ("self_attn.forgetting.", "self_attn.convolutions.", "model.token_times."),
            LAST_STAGE: ("self_attn.far.",),
        }.get(stage, ())

    @torch.no_grad()
    def set_token_counts(self, counts: torch.Tensor) -> None:
        """Keep the training part's token counts `(V,)`: those of the unigram guess that scores stand beside."""
        if tuple(counts.shape) != (self.config.vocab_size,):
            raise ValueError(f"counts has shape {tuple(counts.shape)}; it must be ({self.config.vocab_size},).")
        self.token_counts.copy_(counts)

    @property
    def has_teacher(self) -> bool:
        """No moving average follows this family."""
        return False

    def get_output_embeddings(self) -> nn.Linear:
        """The output table, tied to the input's by default."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output table."""
        self.lm_head = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As the trunk's; new tokens have a count of 0."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        size = embeddings.num_embeddings
        counts = self.token_counts.new_zeros(size)
        kept = min(size, self.token_counts.shape[0])
        counts[:kept] = self.token_counts[:kept]
        self.token_counts = counts
        return embeddings

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's at stage 0. Raises `ValueError` at the other stages, whose caches hold more than keys."""
        if self.config.stage:
            raise ValueError(
                f"generate_batch (continuous batching) keeps nothing but keys and values, and a model of stage "
                f"{self.config.stage} needs more: call generate with a padded batch."
            )
        return super().generate_batch(*args, **kwargs)

    @staticmethod
    def create_masks_for_generate(
        config: StagedGeneratorConfig,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache,
        **kwargs: Any,
    ) -> Any:
        """As the library's; from stage 1 on the padding mask itself, at the length of the static cache."""
        if config.stage == 0:
            return create_masks_for_generate(
                config=config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=None,
            )
        if attention_mask is None:
            return None
        first: Any = past_key_values.layers[0]
        lacking = first.max_cache_len - attention_mask.shape[1]
        return nn.functional.pad(attention_mask, (0, max(lacking, 0)))

    def _get_static_cache_init_shape(self) -> Any:
        """As the library's; from stage 1 on a layer's keys and values have more columns than a head, so that a static
        cache is made when they are there.
        """
        return super()._get_static_cache_init_shape() if self.config.stage == 0 else None  # type: ignore[misc]

    def _prepare_generated_length(self, **kwargs: Any) -> GenerationConfig:  # type: ignore[override] # by name
        """As the library's; generation ends where the context does."""
        generation_config = super()._prepare_generated_length(**kwargs)  # type: ignore[misc] # a protocol as self
        limit = self.config.max_position_embeddings
        generation_config.max_length = min(generation_config.max_length, limit)
        if kwargs["input_ids_length"] >= limit:
            raise ValueError(
                f"A prompt of {kwargs['input_ids_length']} tokens leaves no room in max_position_embeddings={limit}: "
                "shorten it."
            )
        return generation_config

    def _predictions(self, hidden_states: torch.Tensor, shift_labels: torch.LongTensor) -> NextTokenParts:
        """Sums over the predictions of `hidden_states` `(B, T, E)`."""
        predicted = shift_labels != -100
        vectors, targets = hidden_states[predicted], shift_labels[predicted]
        smoothing, z_weight = float(self.config.label_smoothing), float(self.config.z_loss_weight)
        if self.training:
            return chunked_cross_entropy(vectors, self.lm_head.weight, targets, smoothing, z_weight)
        return cross_entropy_parts(self.lm_head(vectors), targets, smoothing, z_weight)

    def _decorrelation(
        self, input_ids: torch.LongTensor | None, labels: torch.LongTensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted mean over the different tokens of the batch, and its part."""
        if input_ids is None:
            raise ValueError("block_decorrelation_weight needs input_ids.")
        rows = self.model.embed_tokens(input_ids[labels != -100].unique())
        values = block_decorrelation(rows, self.config.num_semantic_blocks)
        mean = values.sum() / max(values.shape[0], 1)  # of no token at all: 0, not NaN
        return self.config.block_decorrelation_weight * mean, part(values).detach()


# By this list of names the Trainer knows whose labels it has to shift before it smooths them.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[StagedGeneratorConfig.model_type] = StagedGeneratorForCausalLM.__name__


def default_generation_config(config: StagedGeneratorConfig) -> GenerationConfig:
    """Sampling by default, and no special token but the end."""
    never = {config.pad_token_id, config.unk_token_id, config.mask_token_id, config.bos_token_id}
    return GenerationConfig(
        do_sample=True,
        top_k=50,
        temperature=0.7,
        suppress_tokens=sorted(never - {None, config.eos_token_id}) or None,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )


def _count_positions(
    embeddings: torch.Tensor, attention_mask: torch.Tensor | None, past: int | torch.Tensor
) -> torch.Tensor:
    """Place of each new token in its row, `(B or 1, T)`: padding does not count."""
    length = embeddings.shape[1]
    if attention_mask is None or attention_mask.ndim != 2:
        return (torch.arange(length, device=embeddings.device) + past)[None]
    counted = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
    if isinstance(past, int) and counted.shape[1] < past + length:
        return counted[:, -length:]  # a mask of the new tokens alone
    return counted.index_select(1, torch.arange(length, device=counted.device) + past)


def _begins(position_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Where a document begins, `(B, T)`: at a token at position 0. Masked places are at 0 too, and begin nothing."""
    begins = position_ids == 0
    if attention_mask is None or attention_mask.ndim != 2:
        return begins
    return begins & attention_mask[:, : begins.shape[1]].bool()


def _is_empty(cache: Cache | None) -> bool:
    """Whether there is no cache, or one without tokens that grows as they come."""
    return cache is None or (isinstance(cache, DynamicCache) and not cache.get_seq_length())
