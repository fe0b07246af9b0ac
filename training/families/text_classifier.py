"""What training needs to know about classifiers on the latent text model's encoder."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from configuration_jepa import TextJepaConfig
from eval.loading import checked_name
from eval.rules import Verdict, judge_steps, passes_over_data
from eval.scorers.text_classifier import score_labelled
from modeling_jepa import TextJepaForSequenceClassification
from training.common.layout import TEMPLATES
from training.data.prepared import Prepared
from training.data.text_classifier.labels import NUMBER, SEVERAL
from training.data.text_classifier.rows import scheme_of
from training.family import CardStyle, Family, Origin, Sample
from training.init_from.growing import own_start
from training.run.run import Run

OF_ENCODER = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "rope_theta"),
    *("norm_eps", "qk_norm", "gated_mlp", "scale_embeddings"),
)
_TAKEN = (*OF_ENCODER, "max_position_embeddings")
_SHOWN = 3


@torch.no_grad()
def classify(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text's best classes, or its number, in one line."""
    limit = model.config.max_position_embeddings
    inputs = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").to(model.device)
    logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[0].float()
    if model.config.problem_type == NUMBER:
        return f"{text}: {logits.item():.3f}"
    shares = logits.sigmoid() if model.config.problem_type == SEVERAL else logits.softmax(-1)
    best = shares.topk(min(_SHOWN, len(shares)))
    said = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return f"{text}: {', '.join(f'{model.config.id2label[place]} {share:.2f}' for place, share in said)}"


class TextClassifier(Family):
    """A classifier, or a regression, of texts."""

    name = "text_classifier"
    config_class = TextJepaConfig
    model_class = TextJepaForSequenceClassification
    auto_class = AutoModelForSequenceClassification
    card = CardStyle(
        template=TEMPLATES / "template_text_classifier.md",
        task="text-classification",
        claimed=("accuracy", "macro_f1", "pearson"),
        figures=("accuracy", "macro_f1", "micro_f1", "matthews", "pearson", "mae", "loss"),
        milestone_figures=("loss", "accuracy", "macro_f1", "pearson"),
    )
    origins = {
        TextJepaConfig.model_type: Origin(
            auto_class=AutoModel,
            part_of=lambda encoder: encoder,
            place_in=lambda classifier: classifier.model,
            fields=OF_ENCODER,
        )
    }

    def with_files(self, run: Run) -> Run:
        """The encoder has the size of the checkpoint that the run starts from, where the recipe names none."""
        start = own_start(run) or run.init_from
        if start is None:
            return run
        try:
            origin = AutoConfig.from_pretrained(checked_name(start))
        except (OSError, ValueError):  # refused by name, with all else that can be wrong with it
            return run
        if not isinstance(origin, TextJepaConfig):
            return run
        return run.with_settings(model={name: getattr(origin, name) for name in _TAKEN if name not in run.model})

    def config_from(self, prepared: Prepared) -> dict[str, Any]:
        """The labels."""
        return scheme_of(prepared).config_fields()

    def put_in(self, model: PreTrainedModel, prepared: Prepared) -> None:
        """Nothing: a classifier does not need the tokens' counts."""

    def score_held_out(self, model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
        """Accuracy and F1, or correlation and error, beside a guesser's."""
        scores = score_labelled(model, prepared.tokenizer, prepared.valid, max_rows=max_rows)
        guess = scores.baselines["most_frequent"]
        beside = {f"most_frequent_{name}": guess[name] for name in ("accuracy", "loss") if guess[name] is not None}
        return scores.metrics | beside

    def make_sample(self, prepared: Prepared) -> Sample:
        """The classes of a text."""
        return classify

    def own_phrases(self, prepared: Prepared) -> list[str]:
        """Held-out texts."""
        rows = prepared.valid[:_SHOWN]["input_ids"]
        return [prepared.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    def more_facts(self, run: Run, prepared: Prepared) -> dict[str, Any]:
        """Patterns of the encoder's own training do not hold here."""
        return {"family": self.name}

    def describe_data(self, prepared: Prepared) -> str:
        """Rows and what they are labelled with."""
        scheme = scheme_of(prepared)
        names = ", ".join(scheme.names[:8]) + (", ..." if len(scheme.names) > 8 else "")
        what = "numbers to predict" if scheme.problem_type == NUMBER else f"{len(scheme.names)} classes: {names}"
        return f"{len(prepared.train):,} labelled rows, {what} ({scheme.problem_type})"

    def judge(self, run: Run, prepared: Prepared, trainable: int, rows_per_step: int) -> list[Verdict]:
        """Steps against the rows."""
        return [judge_steps(passes_over_data(run.training.max_steps, rows_per_step, len(prepared.train)))]
