"""What a video model starts with, keeps apart and can learn: size (X2), collapse (X6), sampling, memorising (X4)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from eval.diagnose import thresholds as limits
from eval.diagnose.probes.anatomy import check_room_to_train, watching
from eval.diagnose.probes.by_heart import OWN, PLAIN, Attempt, Clock, Lesson, learn
from eval.diagnose.report.report import FAIL, NOTE, Finding, passed
from eval.diagnose.video.subject import VideoSubject
from eval.metrics.representation import effective_rank, mean_pairwise_cosine
from eval.rules import judge_video_size

CLIP_STEPS, CLIPS_STEPS = 200, 100
MAX_VECTORS = 1024


def parameters_for_data(subject: VideoSubject) -> Finding:
    """Rules of thumb that the planner has too; only where the number of training clips is known."""
    name, threshold = "size.parameters_for_data", "parameters of the order that the training clips can teach"
    clips = subject.sample.num_clips
    if clips is None:
        told = {"parameters": subject.parameters, "training_clips": "not known, so not judged"}
        return passed(name, told, threshold)
    tokens = clips * subject.context * subject.model.config.tokens_per_frame
    verdict = judge_video_size(subject.parameters, tokens)
    evidence = {"parameters": subject.parameters, "training_tokens": tokens}
    if verdict.level not in ("warning", "loud"):
        return passed(name, {**evidence, "said": verdict.message}, threshold)
    cause, _, remedy = verdict.message.rpartition(": ")
    return Finding(name, NOTE, {**evidence, "found": [verdict.name]}, threshold, cause, remedy)


@torch.no_grad()
def predictions(subject: VideoSubject) -> Finding | list[Finding]:
    """Whether what the head says differs from place to place, and codes have rows of their own."""
    name = "collapse.predictions"
    batch = subject.batch(4, subject.limits.length)
    read, said = _states_and_queries(subject, batch)
    if not (read.isfinite().all() and said.isfinite().all()):
        subject.notes.append(f"{name}: the vectors are not finite")
        return []
    common = subject.sample.codes.flatten().bincount(minlength=subject.vocab_size)
    used = subject.output_table[(common > 0).to(subject.device)][:MAX_VECTORS].double()
    evidence: dict[str, Any] = {
        "variation_read": _variation(read),
        "variation_said": _variation(said),
        "effective_rank_read": effective_rank(read - read.mean(0)),
        "effective_rank_said": effective_rank(said - said.mean(0)),
        "mean_cosine_of_code_rows": mean_pairwise_cosine(used) if len(used) > 1 else 0.0,
        "vectors": len(said),
    }
    kept = evidence["variation_said"] / max(evidence["variation_read"], 1e-30)
    threshold = (
        f"predictions vary by more than {limits.PREDICTOR_CONSTANT:g} of what the head reads, which itself is not the "
        f"same everywhere, and the rows of two codes have a cosine below {limits.COSINE_COLLAPSED:g} in the mean"
    )
    if evidence["variation_read"] < limits.PREDICTOR_CONSTANT:
        cause = "the trunk says the same at every place: it has collapsed, and no head can tell places apart"
    elif kept < limits.PREDICTOR_CONSTANT:
        cause = "the head says the same at every place, whatever it reads: its weights are zero or of one direction"
    elif evidence["mean_cosine_of_code_rows"] > limits.COSINE_COLLAPSED:
        cause = "the rows of all codes point one way, so that no prediction can tell codes apart: the table collapsed"
    else:
        return passed(name, evidence, threshold)
    remedy = (
        "open an earlier checkpoint; train again with a lower learning rate, and the head's weights started at random"
    )
    return Finding(name, FAIL, evidence, threshold, cause, remedy)


@torch.no_grad()
def deterministic(subject: VideoSubject) -> Finding:
    """The best frames are the same every time, and drawn ones the same for the same generator."""
    clips = subject.sample.frames[:1].to(subject.device)
    seen = clips[:, : clips.shape[1] // 2]
    differ = {}
    for mode in ("argmax", "sample"):
        said = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            chance = torch.Generator(subject.device).manual_seed(0)
            said.append(subject.model.predict_frames(seen, 1, steps=2, mode=mode, generator=chance))
        differ[f"{mode}_differs"] = float((said[0] != said[1]).double().mean())
    threshold = "the same clip gives the same frames: by argmax always, drawn with the same generator"
    if not any(differ.values()):
        return passed("sampling.greedy_deterministic", differ, threshold)
    cause = "prediction draws random numbers of its own: dropout that is left on, or chance beside the generator"
    remedy = "make what is random depend on self.training, and draw from the generator that is given"
    return Finding("sampling.greedy_deterministic", FAIL, differ, threshold, cause, remedy)


def clip(subject: VideoSubject) -> list[Finding]:
    """One clip by heart, then all that there are as long as the time allows, on copies."""
    check_room_to_train(subject)
    share = limits.MEMORISE_SECONDS / limits.REPORT_SECONDS
    clock = Clock(min(subject.limits.seconds * share, subject.seconds_left()))
    attempts = _ladder(subject, OWN, clock.left)
    best = min(attempts, key=_rank)
    threshold = (
        f"prediction loss under {limits.MEMORISED_LOSS} nats within {CLIP_STEPS} steps on one clip, at one of the "
        f"learning rates {', '.join(f'{rate:g}' for rate in limits.RATES)}"
    )
    if best.memorised:
        return [passed("memorise.clip", best.evidence, threshold)]
    evidence = {**best.evidence, "rates": [attempt.rate for attempt in attempts]}
    if math.isfinite(best.start) and not all(attempt.finished for attempt in attempts):
        subject.notes.append(f"memorise.clip: the time was over after {best.steps} steps; nothing is said of it")
        return [passed("memorise.clip", {**evidence, "finished": False}, f"{threshold}; not finished in time")]
    return [_not_memorised(subject, best, evidence, threshold)]


def _not_memorised(subject: VideoSubject, best: Attempt, evidence: dict[str, Any], threshold: str) -> Finding:
    if not math.isfinite(best.start):
        cause = "the loss is not finite before the first step: a parameter or an activation is NaN or infinite"
        remedy = "see gradient.non_finite, which names the first one; start from weights that are finite"
        return Finding("memorise.clip", FAIL, evidence, threshold, cause, remedy)
    if not best.learnt_nothing:
        cause = "it learns the clip, but slowly: a very small or very deep model, or weights far from a usual start"
        remedy = "try more steps on one clip; widen the model if that does not help"
        return Finding("memorise.clip", NOTE, evidence, threshold, cause, remedy)
    plain = min(_ladder(subject, PLAIN, limits.MEMORISE_SECONDS / 2), key=_rank)
    evidence |= {"loss_by_cross_entropy": plain.evidence["loss"]}
    if not plain.learnt_nothing:
        cause = "by its own loss it does not learn a single clip, by plain cross entropy of its answers it does: the "
        cause += "loss is not that of what it should predict"
        return Finding("memorise.clip", FAIL, evidence, threshold, cause, "see parity.own_loss")
    cause = "broken: at no learning rate does it learn a single clip; what it answers does not depend on what it "
    cause += "reads, or gradients do not reach the weights"
    remedy = "look at gradient.flow, leak.position_ignored and collapse.predictions"
    return Finding("memorise.clip", FAIL, evidence, threshold, cause, remedy)


def _ladder(subject: VideoSubject, objective: str, seconds: float) -> list[Attempt]:
    """Attempts at one clip, until one succeeds or the time is over."""
    batch, attempts, clock = subject.batch(1, subject.limits.length), [], Clock(seconds)
    for rate in limits.RATES:
        attempts.append(learn(subject, Lesson([batch], rate, CLIP_STEPS, clock.left, objective)))  # type: ignore[list-item]
        if attempts[-1].memorised or not attempts[-1].finished:
            break
    return attempts


def _rank(attempt: Attempt) -> tuple[bool, float]:
    return not attempt.memorised, attempt.loss if math.isfinite(attempt.loss) else math.inf


def _states_and_queries(subject: VideoSubject, batch: Any) -> tuple[Tensor, Tensor]:
    """What the trunk says at hidden places and what the head scores there, `(K, width)` float64 each."""
    scored: list[Tensor] = []
    with watching({"head": subject.model.head}, lambda name, entered, output: scored.append(output)):
        output = subject.logits_with(batch)
    holes = batch.hidden
    states = output.last_hidden_state[holes.any(-1)]
    queries = scored[0][holes]
    return _some(states), _some(queries)


def _some(vectors: Tensor) -> Tensor:
    """At most `MAX_VECTORS` of them, from all over."""
    places = torch.linspace(0, len(vectors) - 1, min(len(vectors), MAX_VECTORS)).long()
    return vectors[places.to(vectors.device)].double().cpu()


def _variation(vectors: Tensor) -> float:
    """Mean square about the mean of unit vectors, 0 (all point one way) to 1."""
    unit = normalize(vectors, dim=-1)
    return float((unit - unit.mean(0)).square().sum(-1).mean())
