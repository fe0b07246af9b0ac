"""What training needs to know about the dialogue model, beyond what all families share."""

import re
from typing import Any

import numpy as np
from torch import nn
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel

from configuration_jepa import DialogueJepaConfig, TextJepaConfig
from eval.loading import open_model, open_tokenizer
from eval.metrics.ngrams import Unigram
from eval.metrics.representation import mean_pairwise_cosine
from eval.replies.index import ReplyIndex
from eval.rules import Range, Verdict, judge_steps, judge_text_size, passes_over_data, readable, text_size_range
from eval.scorers.dialogue import MAX_PAIRS, answer_pairs, figures, latent_ranks, read_pairs
from modeling_jepa import DialogueJepaForConditionalGeneration
from training.common.layout import TEMPLATES, TRANSCRIPT_FILE
from training.common.records import write_json
from training.data.prepared import Prepared
from training.families.dialogue_answers import Answerer, training_replies, transcript
from training.families.text_classifier import OF_ENCODER
from training.family import CardStyle, Family, Origin, Sample
from training.optim.optimizers import Grouping
from training.run.run import Run

# What a line of held-out figures begins with.
_LEADING = (
    "perplexity",
    "latent_usage_ratio",
    "hits_at_1",
    "mrr",
    "accuracy",
    "effective_rank",
    "target_effective_rank",
)
_TRUNK = r"\blayers\.\d+\.|\breader\.attention\.|\bpredictor\.|\bdecoder\.(latent|context|word)_proj\.|\bbag_head\."
_OF_DECODER = ("decoder.", "lm_head.")
_PRETRAINED = "decoder.language_model."


def _unigram_perplexity(model: PreTrainedModel, labels: np.ndarray) -> float | None:
    """By the training replies' counts; None for a model that was never told them."""
    counts = model.token_counts.cpu().numpy()
    return float(np.exp(Unigram(counts).nll[labels].mean())) if counts.any() else None


def _is_matrix_of_trunk(name: str, parameter: nn.Parameter) -> bool:
    """Muon's: those that start from nothing. A pretrained decoder was made by Adam, and goes on with it."""
    return parameter.ndim == 2 and not name.startswith(_PRETRAINED) and re.search(_TRUNK, name) is not None


class DialogueJepa(Family):
    """The dialogue model."""

    name = "dialogue_jepa"
    config_class = DialogueJepaConfig
    model_class = DialogueJepaForConditionalGeneration
    auto_class = AutoModelForSeq2SeqLM
    perplexity_of = "reply"
    card = CardStyle(
        template=TEMPLATES / "template_dialogue_jepa.md",
        task="text-generation",
        claimed=("perplexity", "hits_at_1", "mrr"),
        figures=(
            *("perplexity", "latent_usage_ratio", "hits_at_1", "hits_at_5", "mrr"),
            *("distinct_1", "distinct_2", "effective_rank"),
        ),
        milestone_figures=(
            "loss",
            "perplexity",
            "latent_usage_ratio",
            "hits_at_1",
            "mrr",
            "effective_rank",
            "target_effective_rank",
        ),
        unit="pairs",
        shown={"transcript": [], "replies": None},
        scored_rows=MAX_PAIRS,
    )
    origins = {
        TextJepaConfig.model_type: Origin(
            auto_class=AutoModelForMaskedLM,
            part_of=lambda text: text.model,
            place_in=lambda dialogue: dialogue.model.reader.encoder,
            fields=OF_ENCODER,
        )
    }

    def with_files(self, run: Run) -> Run:
        """A pretrained decoder's configuration and tokenizer become the run's."""
        if run.training.pretrained_decoder is None:
            return run
        from training.init_from.pretrained_decoder import with_pretrained_decoder  # and with it peft, which is slow

        return with_pretrained_decoder(run)

    def start(self, model: PreTrainedModel, run: Run) -> None:
        """A pretrained decoder's weights go in."""
        if run.training.pretrained_decoder is not None:
            from training.init_from.pretrained_decoder import put_in

            put_in(model, run)

    def grouping(self, run: Run) -> Grouping:
        """The decoder has a learning rate of its own."""
        settings = run.training
        return Grouping(
            rate=lambda name: settings.decoder_rate if name.startswith(_OF_DECODER) else settings.learning_rate,
            is_matrix_of_trunk=_is_matrix_of_trunk,
        )

    def score_held_out(self, model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
        """Perplexity of the replies, what the latents are worth, and ranks of the true reply."""
        pairs = read_pairs(prepared.valid, max_rows)
        answers = answer_pairs(model, prepared.tokenizer, pairs)
        found = {**figures(answers), **latent_ranks(answers)}
        return {
            **{name: found[name] for name in _LEADING},
            **found,
            "mean_pairwise_cosine": mean_pairwise_cosine(answers.predicted.flatten(1)) if len(pairs) > 1 else None,
            "unigram_perplexity": _unigram_perplexity(model, np.concatenate(pairs.labels)),
        }

    def make_sample(self, prepared: Prepared) -> Sample:
        """Answers to a message, said and retrieved."""
        return Answerer(prepared).line

    def own_phrases(self, prepared: Prepared) -> list[str]:
        """Held-out prompts."""
        return list(dict.fromkeys(prepared.valid[:200]["prompt"]))[:3]

    def describe_data(self, prepared: Prepared) -> str:
        """Pairs, length of replies and vocabulary."""
        pairs, tokens = len(prepared.train), int(prepared.counts.sum())
        return (
            f"{pairs:,} pairs, replies of {tokens / pairs:.1f} tokens: {readable(pairs)} effective examples "
            f"(pairs), {len(prepared.tokenizer):,} tokens in the vocabulary"
        )

    def suits(self, prepared: Prepared) -> Range:
        """By the pairs."""
        return text_size_range(len(prepared.train))

    def judge(self, run: Run, prepared: Prepared, trainable: int, rows_per_step: int) -> list[Verdict]:
        """Both against the pairs."""
        pairs = len(prepared.train)
        passes = passes_over_data(run.training.max_steps, rows_per_step, pairs)
        return [judge_text_size(trainable, pairs), judge_steps(passes)]

    def at_end(self, run: Run, prepared: Prepared) -> dict[str, Any]:
        """The index of the training replies goes beside the model, and what it answers into the card."""
        tokenizer = open_tokenizer(run.output_dir)
        model = open_model(run.output_dir, AutoModelForSeq2SeqLM, None if run.device == "auto" else run.device)
        index = ReplyIndex.build(model, tokenizer, training_replies(prepared))
        index.save(run.output_dir)
        answers = transcript(model, tokenizer, index, prepared.test) if run.evaluation.own_samples else []
        write_json({"answers": answers}, run.output_dir / TRANSCRIPT_FILE)
        return {"transcript": answers, "replies": len(index)}
