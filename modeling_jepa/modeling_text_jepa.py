"""The latent text model: a bidirectional encoder that fills blanks in embedding space.

Shapes: B batch, T sequence, K holes (labels other than -100, row-major), H width, V vocabulary, M negatives, C
candidates.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from configuration_jepa.configuration_text_jepa import TextJepaConfig
from configuration_jepa.remote_code import is_remote_code
from modeling_jepa.latent_head import LatentHead
from modeling_jepa.layers import Block, RMSNorm, rotary_position_embeddings
from modeling_jepa.losses import (
    above_negatives,
    alignment_loss,
    auxiliary_loss,
    cosine,
    part,
    proposal_probabilities,
    ranking_loss,
    sampled_ranking_loss,
    sigreg_penalty,
    unit,
    vicreg_penalty,
)
from modeling_jepa.modeling_base import ClassifierMixin, JepaPreTrainedModel, LatentMaskedLMOutput, at_holes
from modeling_jepa.teacher import MovingAverageTeacher, TaughtMixin

POOLINGS = ("mean", "first", "hole")


class TextJepaPreTrainedModel(JepaPreTrainedModel):
    """Base of the text models."""

    config: TextJepaConfig
    # The encoder alone can be opened from a checkpoint of the whole model.
    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^teacher\.", r"^token_counts$"]

    @torch.no_grad()
    def encode(
        self,
        texts: str | Sequence[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        pooling: str = "mean",
        batch_size: int = 64,
        truncate: bool = False,
        truncate_dim: int | None = None,
    ) -> torch.Tensor:
        """One vector per text, from the encoder.

        Args:
            texts: a text or several.
            tokenizer: by default the one in the folder or repository that the model came from.
            pooling: `mean` over all tokens, special ones included, as `sentence-transformers` does; `first`, the
                vector at the first token; `hole`, the vector at the text's one mask token.
            batch_size: texts per forward pass.
            truncate: whether the end of a text that is longer than the model is left out.
            truncate_dim: D, the first entries of each vector that are kept; None for all H.

        Returns:
            `(texts, D)`; of a single string `(D,)`. No gradient, no dropout.

        Raises:
            ValueError: an unknown pooling, a `truncate_dim` that is not from 1 to H, a text longer than the model, or
                for `hole` not exactly one mask token.
        """
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r} is not possible: it must be one of {', '.join(POOLINGS)}.")
        width = self.config.hidden_size
        if truncate_dim is not None and not 1 <= truncate_dim <= width:
            raise ValueError(f"truncate_dim={truncate_dim} is not possible: it must be from 1 to {width}, the width.")
        if tokenizer is None:  # whoever trusted the code of the model has trusted all that lies beside it
            trusted = is_remote_code(type(self))
            tokenizer = AutoTokenizer.from_pretrained(self.config._name_or_path, trust_remote_code=trusted)
        listed = [texts] if isinstance(texts, str) else list(texts)
        was_training = self.training
        self.eval()
        try:
            pooled = [
                self._encode_batch(listed[start : start + batch_size], tokenizer, pooling, truncate)
                for start in range(0, len(listed), batch_size)
            ]
        finally:
            self.train(was_training)
        vectors = torch.cat(pooled) if pooled else torch.zeros(0, width, device=self.device)
        vectors = vectors[:, :truncate_dim]
        return vectors[0] if isinstance(texts, str) else vectors

    def _encode_batch(
        self, texts: list[str], tokenizer: PreTrainedTokenizerBase, pooling: str, truncate: bool
    ) -> torch.Tensor:
        limit = self.config.max_position_embeddings
        rows = tokenizer(texts, truncation=truncate, max_length=limit if truncate else None)["input_ids"]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > limit:
                raise ValueError(
                    f"The text {text[:40]!r}... has {len(row)} tokens, more than max_position_embeddings={limit}: "
                    "shorten it, or give truncate=True."
                )
            if pooling == "hole" and row.count(tokenizer.mask_token_id) != 1:
                raise ValueError(
                    f"pooling='hole' needs exactly one {tokenizer.mask_token} in each text; {text[:40]!r} has "
                    f"{row.count(tokenizer.mask_token_id)}."
                )
        inputs = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self.device)
        vectors = self.base_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        if pooling == "hole":
            return vectors[inputs["input_ids"] == tokenizer.mask_token_id]
        kept = inputs["attention_mask"].to(vectors.dtype)
        if pooling == "first":
            kept = kept * (kept.cumsum(1) == 1)
        return mean_of(vectors, kept)


class TextJepaModel(TextJepaPreTrainedModel):
    """Bidirectional transformer encoder: tokens in, one vector per position out."""

    def __init__(self, config: TextJepaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer_idx) for layer_idx in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # type: ignore[misc] # TransformersKwargs repeats position_ids
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode.

        Args:
            input_ids: `(B, T)`; or `inputs_embeds` instead.
            attention_mask: `(B, T)`, 1 where there is a token.
            position_ids: `(B or 1, T)`; only differences count.
            inputs_embeds: `(B, T, H)`, taken as they are.
            **kwargs: for the blocks and the attention interface.

        Returns:
            `last_hidden_state` `(B, T, H)`, normed; hidden states and attentions on request.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`; a sequence longer than the model.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
            if self.config.scale_embeddings:
                inputs_embeds = inputs_embeds * math.sqrt(self.config.hidden_size)
        length = inputs_embeds.shape[1]
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"A sequence of {length} tokens is longer than max_position_embeddings="
                f"{self.config.max_position_embeddings}: shorten it (truncation=True in the tokenizer)."
            )
        if position_ids is None:
            position_ids = torch.arange(length, device=inputs_embeds.device).unsqueeze(0)

        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask
        )
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        positions = rotary_position_embeddings(position_ids, head_dim, self.config.rope_theta, inputs_embeds.dtype)
        hidden_states = self.dropout(inputs_embeds)
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings=positions, attention_mask=mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class TextJepaForSequenceClassification(ClassifierMixin, TextJepaPreTrainedModel):
    """The encoder, and a linear layer on the mean of its vectors."""

    trunk = TextJepaModel

    def _features(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mean_of(states, mask)


class TextJepaForTokenClassification(ClassifierMixin, TextJepaPreTrainedModel):
    """The encoder, and a linear layer on each of its vectors."""

    trunk = TextJepaModel

    def _features(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return states


class TextJepaForMaskedLM(TaughtMixin, TextJepaPreTrainedModel):
    """The encoder with predictor, head, targets and loss: a masked language model whose answers are directions.

    `token_counts` `(V,)`, int64, are the counts of the training part (zeros: unknown); they travel with the weights.
    """

    _tied_weights_keys = {"head.decoder.weight": "model.embed_tokens.weight"}
    token_counts: torch.Tensor

    def __init__(self, config: TextJepaConfig) -> None:
        super().__init__(config)
        self.model = TextJepaModel(config)
        self.head = LatentHead(config)
        self.teacher = self._build_teacher(config)
        # Integers: a model loaded in bfloat16 must not count in it.
        self.register_buffer("token_counts", torch.zeros(config.vocab_size, dtype=torch.int64))
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc] # TransformersKwargs repeats two names
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        negative_ids: torch.LongTensor | None = None,
        candidate_ids: torch.LongTensor | None = None,
        candidate_log_chances: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        with_row_logits: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LatentMaskedLMOutput:
        """Fill holes, and learn to.

        Args:
            input_ids: `(B, T)`; this and the next three as of `TextJepaModel.forward`.
            attention_mask: `(B, T)`.
            position_ids: `(B or 1, T)`.
            inputs_embeds: `(B, T, H)`.
            labels: `(B, T)`, the true token at a hole, -100 elsewhere. With them the head runs at the holes only.
            negative_ids: `(K, M)`, tokens to rank the true one against; never the true one. Without them `sampled`
                ranking takes the whole vocabulary.
            candidate_ids: `(C,)`, ascending: `shared` ranking is among them, who hold the true tokens of all holes.
                Without them it takes the whole vocabulary.
            candidate_log_chances: `(C,)`, log of how likely each was to be a candidate had it been no hole's answer.
            num_items_in_batch: holes of the whole accumulation window over all processes; the loss is a share of its
                mean. Without it, the mean over these holes.
            with_row_logits: whether to give `row_logits`, which are as large as a dense head's.
            **kwargs: for the encoder.

        Raises:
            ValueError: a `contextual` target without `input_ids`.
        """
        encoded = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        recorded = {"hidden_states": encoded.hidden_states, "attentions": encoded.attentions}
        if labels is None:
            predictions = self.head(encoded.last_hidden_state)
            with self._tables_at_hand():
                answers = self.head.logits(predictions, self._answer_table())
            return LatentMaskedLMOutput(logits=answers, predictions=predictions, **recorded)

        holes = labels != -100
        target_ids = labels[holes]
        vectors = encoded.last_hidden_state[holes]
        predictions = self.head(vectors)
        contextual = self._contextual_targets(input_ids, attention_mask, position_ids, labels)
        with self._tables_at_hand():
            if self.config.ranking == "shared" and candidate_ids is not None:
                logits = None
                parts = self._shared_ranking(
                    predictions, target_ids, candidate_ids, candidate_log_chances, negative_ids
                )
            else:
                logits, parts = self._ranking(predictions, target_ids, negative_ids)
            parts |= self._alignment(predictions, vectors, target_ids, contextual)
        loss = self._weigh(parts, target_ids.numel(), num_items_in_batch)
        if self.teacher is not None:
            self.teacher.watch(loss)
        return LatentMaskedLMOutput(
            loss=loss,
            loss_parts={name: value.detach() for name, value in parts.items()},
            logits=logits,
            predictions=predictions,
            row_logits=at_holes(logits, holes, self.training) if with_row_logits and logits is not None else None,
            **recorded,
        )

    def table_directions(self) -> torch.Tensor:
        """`(V, H)` unit rows, float32, of the table that answers are scored against. No gradient."""
        with self._tables_at_hand():
            return unit(self._answer_table()).detach()

    @torch.no_grad()
    def set_token_counts(self, counts: torch.Tensor) -> None:
        """Keep the training part's token counts `(V,)`, and start the bias at their smoothed log frequency."""
        if tuple(counts.shape) != (self.config.vocab_size,):
            raise ValueError(f"counts has shape {tuple(counts.shape)}; it must be ({self.config.vocab_size},).")
        self.token_counts.copy_(counts)
        if self.head.bias is not None:
            smoothed = self.token_counts + 1.0
            self.head.bias.copy_(torch.log(smoothed / smoothed.sum()))

    def get_output_embeddings(self) -> nn.Linear:
        """The head's table, tied to the input's by default."""
        return self.head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head's table."""
        self.head.decoder = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As the library's. New tokens are as unlikely as one that was never seen: their counts are 0, their bias is
        that of the rarest tokens. The teacher's new rows are the student's.
        """
        unseen = self._bias_of_the_rarest()
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        size = embeddings.num_embeddings
        kept = min(size, self.token_counts.shape[0])
        counts = self.token_counts.new_zeros(size)
        counts[:kept] = self.token_counts[:kept]
        self.token_counts = counts
        if self.head.bias is not None:
            self.head.bias.data[kept:] = unseen
        if self.teacher is not None:
            name = "" if self.config.target_table == "ema" else "embed_tokens"
            table = nn.Embedding.from_pretrained(embeddings.weight.detach().clone())
            table.weight[:kept] = self.teacher.target.get_submodule(name).get_parameter("weight")[:kept]
            if name:
                self.teacher.target.set_submodule(name, table)
            else:
                self.teacher.target = table
        return embeddings

    def _bias_of_the_rarest(self) -> float:
        bias = self.head.bias
        return 0.0 if bias is None else float(bias.detach()[self.token_counts == self.token_counts.min()].mean())

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TextJepaForMaskedLM):
            init.zeros_(module.token_counts)

    def _build_teacher(self, config: TextJepaConfig) -> MovingAverageTeacher | None:
        if config.target_table == "ema":
            return MovingAverageTeacher(nn.Embedding(config.vocab_size, config.hidden_size), config.teacher_momentum)
        if config.target_table == "contextual":
            return MovingAverageTeacher(TextJepaModel(config), config.teacher_momentum)
        return None

    def _student(self) -> nn.Module:
        return self.model.embed_tokens if self.config.target_table == "ema" else self.model

    def _answer_table(self) -> torch.Tensor:
        """The table `(V, H)` that answers are scored against: the head's own, or its moving average."""
        if self.teacher is None or self.config.target_table != "ema":
            return self.head.table
        return self.teacher.weight(self._student(), "weight")

    def _tables_at_hand(self) -> AbstractContextManager:
        """Inside, what answers are scored by is there even where `device_map` offloads it."""
        table = self.get_input_embeddings()
        if self.teacher is None or self.config.target_table != "ema":
            return self.head.at_hand(tied_to=table)
        return self.head.at_hand(self.teacher.target, self._student(), tied_to=table)

    @torch.no_grad()
    def _contextual_targets(
        self,
        input_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        labels: torch.LongTensor,
    ) -> torch.Tensor | None:
        """`(K, H)`: what the teacher says at the holes of the intact phrase, which the labels give back."""
        if self.teacher is None or self.config.target_table != "contextual":
            return None
        if input_ids is None:
            raise ValueError("target_table='contextual' needs input_ids: the teacher reads the intact phrase.")
        self.teacher.follow_until_updated(self._student())
        holes = labels != -100
        intact = torch.where(holes, labels, input_ids)
        read = self.teacher.target(input_ids=intact, attention_mask=attention_mask, position_ids=position_ids)
        return read.last_hidden_state[holes]

    def _ranking(
        self, predictions: torch.Tensor, target_ids: torch.Tensor, negative_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits `(K, V)`, and the parts `ranking`, `accuracy` and, with negatives, `acc_neg`."""
        table = self._answer_table()
        if self.config.target_gradient == "none":
            table = table.detach()
        if negative_ids is None:
            logits = self.head.logits(predictions, table)
            return logits, {"ranking": ranking_loss(logits, target_ids), "accuracy": _accuracy(logits, target_ids)}

        candidates = torch.cat((target_ids[:, None], negative_ids), dim=1)
        if self.config.ranking == "sampled":
            negatives_learn = self.config.target_gradient == "all"
            scores = self.head.logits_of(predictions, candidates, table, negatives_learn)
            parts = self._sampled_parts(scores, candidates)
            with torch.set_grad_enabled(not self.training):  # in training the vocabulary is for the figures only
                logits = self.head.logits(predictions, table)
        else:
            logits = self.head.logits(predictions, table)
            # Without gradient: gathering has one as large as the logits.
            parts = self._sampled_parts(logits.detach().gather(1, candidates), candidates)
            parts["ranking"] = ranking_loss(logits, target_ids)
        return logits, parts | {"accuracy": _accuracy(logits, target_ids)}

    def _shared_ranking(
        self,
        predictions: torch.Tensor,
        target_ids: torch.Tensor,
        candidate_ids: torch.Tensor,
        log_chances: torch.Tensor | None,
        negative_ids: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The parts `ranking`, `acc_candidates` (the true token is the best of them) and, with negatives, `acc_neg`.

        Which of the candidates is the true one, given that each could have been drawn, has the odds of the full
        softmax over the chances (Jean et al., 2015, arXiv:1412.2007; Bengio and Senecal, 2008). Less the log chance of
        the true one, a constant, the loss estimates that over the whole vocabulary.
        """
        table = self._answer_table()
        if self.config.target_gradient == "none":
            table = table.detach()
        scores = self.head.logits(predictions, table, candidate_ids).float()
        if log_chances is not None:
            scores = scores - log_chances
        columns = torch.searchsorted(candidate_ids, target_ids)
        ranking = ranking_loss(scores, columns)
        if log_chances is not None:
            ranking = ranking - torch.stack((log_chances[columns].sum(), ranking.new_zeros(())))
        parts = {"ranking": ranking, "acc_candidates": _accuracy(scores, columns)}
        if negative_ids is not None:
            with torch.no_grad():
                wrong = torch.cat((target_ids[:, None], negative_ids), dim=1)
                beside = self.head.logits_of(predictions, wrong, table)
            parts["acc_neg"] = above_negatives(beside[:, 0], beside[:, 1:])
        return parts

    def _sampled_parts(self, scores: torch.Tensor, candidates: torch.Tensor) -> dict[str, torch.Tensor]:
        """`ranking` and `acc_neg` of the true token, in column 0 of `(K, 1 + M)`, among its negatives."""
        correction = None
        if self.config.negative_sampling == "frequency":
            correction = proposal_probabilities(self.token_counts).log()[candidates]
        return {
            "ranking": sampled_ranking_loss(scores[:, 0], scores[:, 1:], correction),
            "acc_neg": above_negatives(scores[:, 0], scores[:, 1:]),
        }

    def _alignment(
        self,
        predictions: torch.Tensor,
        vectors: torch.Tensor,
        target_ids: torch.Tensor,
        contextual: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The parts `alignment`, `auxiliary`, `collapse` and the figure `cos_mean` (always against the table)."""
        rows = self._answer_table()[target_ids].detach()
        targets = rows if contextual is None else contextual
        parts = {
            "alignment": alignment_loss(predictions, targets),
            "auxiliary": auxiliary_loss(vectors, targets),
            "cos_mean": part(cosine(predictions, rows)),
        }
        if self.config.collapse_protection != "none":
            penalty = self._collapse_penalty(vectors, target_ids)
            parts["collapse"] = torch.stack((penalty, penalty.new_tensor(1.0))) * target_ids.numel()
        return parts

    def _collapse_penalty(self, vectors: torch.Tensor, target_ids: torch.Tensor) -> torch.Tensor:
        if self.config.collapse_protection == "vicreg":
            return vicreg_penalty(vectors)
        return sigreg_penalty(vectors, key=target_ids.sum())

    def _weigh(
        self, parts: dict[str, torch.Tensor], num_holes: int, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Weighted sum of the parts' means; no hole at all gives a loss of 0 with a gradient of 0."""
        count = max(num_holes, 1) if num_items_in_batch is None else num_items_in_batch
        weights = {
            "ranking": self.config.ranking_weight,
            "alignment": self.config.alignment_weight,
            "auxiliary": self.config.auxiliary_weight,
            "collapse": self.config.collapse_weight,
        }
        return (
            torch.stack([weight * parts[name][0] for name, weight in weights.items() if name in parts]).sum() / count
        )


def mean_of(vectors: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Mean over the places `kept` (B, T): `(B, T, H) -> (B, H)`."""
    return (vectors * kept[..., None]).sum(1) / kept.sum(1, keepdim=True).clamp_min(1)


def _accuracy(logits: torch.Tensor, target_ids: torch.Tensor) -> torch.Tensor:
    """Share of holes whose best token is the true one."""
    return part(logits.argmax(-1) == target_ids)
