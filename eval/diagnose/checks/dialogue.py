"""What a dialogue model makes of real pairs of context and reply: latents that fall together, or that nobody reads.

Prompts and their replies are taken from the dialogues of the text at hand; without dialogues nothing is said.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import check
from eval.diagnose.probes.anatomy import untouched
from eval.diagnose.probes.directions import PREDICTOR_RIGHT, judge_predictor
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.sample import spread_over
from eval.diagnose.subject.subject import Subject
from eval.metrics.representation import effective_rank, mean_pairwise_cosine
from eval.rules import chance_above_negatives
from eval.scorers.candidates import CANDIDATES
from eval.scorers.dialogue import PairAnswers, Pairs, answer_pairs
from training.data.dialogue_jepa.dialogues import BETWEEN_TURNS
from training.data.dialogue_jepa.framing import encode_turns, frame_context, frame_reply
from training.data.settings import DialogueDataSettings

PAIRS, FEWEST_PAIRS, BATCH = 240, 24, 32
_HELD_OUT = ("test", "valid", "all", "train")


@check(
    "collapse.latents",
    f"latents of two different replies, and of two predictions, have a cosine below {limit.SAME_LATENTS:g}",
    kinds=("seq2seq",),
    needs="dialogues",
)
def latents(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether the latents of different replies, and the predicted ones, differ."""
    found = _answered(subject, rule.check)
    if found is None:
        return []
    predicted, target = found.predicted.flatten(1).double(), found.target.flatten(1).double()
    evidence: dict[str, Any] = {
        "effective_rank": effective_rank(predicted - predicted.mean(0)),
        "target_effective_rank": effective_rank(target - target.mean(0)),
        "mean_pairwise_cosine": mean_pairwise_cosine(predicted),
        "target_mean_pairwise_cosine": mean_pairwise_cosine(target),
        "pairs": len(predicted),
    }
    of_replies = evidence["target_mean_pairwise_cosine"] >= limit.SAME_LATENTS
    if untouched(subject) or not (of_replies or evidence["mean_pairwise_cosine"] >= limit.SAME_LATENTS):
        return rule.passed(evidence)
    young = not of_replies and _is_young(subject)
    cause = (
        "the latents of different replies are all alike: the reader has collapsed, as latents that are all the same "
        "are easiest to predict"
        if of_replies
        else "the predicted latents are all alike, whatever the context: the predictor gives the mean of all replies"
    )
    return rule.found(
        NOTE if young else FAIL,
        evidence,
        cause + (", as every young model does" if young else ""),
        "train on, if it is young; else train again with collapse_protection vicreg or sigreg, ranking_weight above 0 "
        "and a smaller alignment_weight",
    )


@check(
    "collapse.latent_ignored",
    f"replies cost {limit.LATENT_WORTH:g} nats per token more, and {limit.INFORMED_ERRORS:.0f} standard errors, "
    "with the latents of other contexts",
    kinds=("seq2seq",),
    needs="dialogues",
)
def latent_ignored(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether a reply costs more with the latents of another context than with its own."""
    found = _answered(subject, rule.check)
    if found is None:
        return []
    assert found.swapped_nll is not None
    dearer = found.swapped_nll - found.nll  # (pairs,) nats of a reply with the latents of another one
    lost = dearer / found.tokens
    error = float(lost.std() / math.sqrt(len(lost)))
    sees_context = subject.model.config.context_access == "both"
    evidence: dict[str, Any] = {
        "latent_usage_ratio": math.exp(float(dearer.sum()) / int(found.tokens.sum())),
        "nats_lost_by_other_latents": float(lost.mean()),
        "standard_error": error,
        "perplexity": math.exp(float(found.nll.sum()) / int(found.tokens.sum())),
        "decoder_sees_context": sees_context,
        "pairs": len(lost),
    }
    used = float(lost.mean()) > max(limit.LATENT_WORTH, limit.INFORMED_ERRORS * error)
    if used or untouched(subject):
        return rule.passed(evidence)
    young = _is_young(subject)
    nothing = float(np.abs(lost).max()) < limit.SAME_LOGITS
    some = float(lost.mean()) > limit.INFORMED_ERRORS * error
    verdict = FAIL if nothing or not (young or sees_context or some) else NOTE
    cause = "the latents do not reach the decoder at all: what carries them is zero, cut off or bypassed"
    if not nothing:
        cause = "the decoder hardly listens to the latents: it says what is said often, whatever it is told"
    return rule.found(
        verdict,
        {**evidence, "steps": None if subject.record is None else subject.record.steps},
        cause + (", as in every young model" if young and not nothing else ""),
        "see gradient.flow for what carries latents into the decoder; train longer, raise num_latents (4 to 8), lower "
        "alignment_weight, keep decoder_gradient on" + (", and use context_access: latent" if sees_context else ""),
    )


@check(
    "ranking.replies",
    f"the right reply of {CANDIDATES} comes first more often than by chance, by three standard errors",
    kinds=("seq2seq",),
    needs="dialogues",
)
def finds_reply(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether the predicted latent finds its reply among others."""
    found = _answered(subject, rule.check)
    if found is None or found.rank is None:
        return []
    hits = float((found.rank == 1).mean())
    chance = chance_above_negatives(CANDIDATES - 1)
    error = math.sqrt(chance * (1 - chance) / len(found.rank))
    evidence = {
        "hits_at_1": hits,
        "mrr": float((1 / found.rank).mean()),
        "chance": chance,
        "candidates": CANDIDATES,
        "pairs": len(found.rank),
    }
    if hits > chance + 3 * error or _is_young(subject) or untouched(subject):
        return rule.passed(evidence)
    return rule.noted(
        evidence,
        "predicted latents find their own reply no better than chance: nothing was learnt of what answers what, or "
        "these dialogues are on other topics than those of its training",
        "give dialogues like those of its training (--data); train longer, with ranking_weight 1",
    )


@check("collapse.predictor_idle", PREDICTOR_RIGHT, kinds=("seq2seq",), needs="dialogues")
def predictor_idle(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether the predictor turns the context's latents into something else, and differently for different ones."""
    pairs = pairs_of(subject)
    if pairs is None:
        return []
    hands_on = "the predictor hands its input on: a context's latents are taken for those of its reply"
    return judge_predictor(rule, *_through_predictor(subject, pairs), hands_on)


CHECKS = (latents, latent_ignored, predictor_idle, finds_reply)


# ---- pairs ----


def _answered(subject: Subject, check: str) -> PairAnswers | None:
    """What the model says of the pairs, asked once; None without dialogues, or where its numbers are none."""
    if "answered" not in subject.kept:
        pairs = pairs_of(subject)
        finite = all(bool(p.isfinite().all()) for p in subject.model.parameters())
        assert subject.tokenizer is not None
        asked = pairs is not None and finite
        subject.kept["answered"] = answer_pairs(subject.model, subject.tokenizer, pairs, BATCH) if asked else None
    if subject.kept["answered"] is None:
        subject.notes.append(f"{check}: left out, as there are too few dialogues, or weights that are no numbers")
    return subject.kept["answered"]


def pairs_of(subject: Subject) -> Pairs | None:
    """Contexts and replies of the held-out dialogues, from all over; None of fewer than `FEWEST_PAIRS`."""
    part = next((part for part in _HELD_OUT if part in subject.parts), None)
    texts = [] if part is None else [text for text in subject.parts[part] if BETWEEN_TURNS in text.strip()]
    some = [texts[place] for place in spread_over(len(texts), PAIRS)]
    config, turns_read = subject.model.config, _context_turns(subject)
    prompts, replies, contexts, labels = [], [], [], []
    for text in some:
        turns = [turn for turn in text.split(BETWEEN_TURNS) if turn.strip()]
        for place in range(1, len(turns)):
            context, ids = turns[max(0, place - turns_read) : place], encode_turns([turns[place]], subject.tokenizer)
            prompts.append(BETWEEN_TURNS.join(context))
            replies.append(turns[place])
            framed = frame_context(encode_turns(context, subject.tokenizer), subject.tokenizer, subject.context)
            contexts.append(framed[0].astype(np.int64))
            length = min(config.max_reply_length, subject.context)
            labels.append(frame_reply(ids[0], subject.tokenizer, length)[0].astype(np.int64))
    if len(replies) < FEWEST_PAIRS:
        return None
    taken = np.array(spread_over(len(replies), PAIRS))

    def chosen(column: list[Any]) -> list[Any]:
        return [column[place] for place in taken]

    return Pairs(taken, chosen(contexts), chosen(labels), chosen(prompts), chosen(replies), len(some))


def _is_young(subject: Subject) -> bool:
    """Whether the run is known to be in its first hundreds of steps."""
    return subject.record is not None and subject.record.steps < limit.YOUNG_STEPS


def _context_turns(subject: Subject) -> int:
    """Turns that a context holds, by the run."""
    default = DialogueDataSettings().context_turns
    if subject.record is None or subject.record.run is None:
        return default
    return int(subject.record.run["recipe"]["data"].get("context_turns", default))


@torch.no_grad()
def _through_predictor(subject: Subject, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Latents of contexts and what the predictor makes of them, `(latents, H)` float64 each."""
    given, made = [], []
    for ids in pairs.contexts[:: max(1, len(pairs) // 64)]:
        read = subject.model.model(torch.tensor(ids[None], device=subject.device))
        given.append(read.context_latents.flatten(0, 1).double().cpu())
        made.append(read.predicted_latents.flatten(0, 1).double().cpu())
    return torch.cat(given), torch.cat(made)
