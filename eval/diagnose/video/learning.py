"""What a video model starts with, keeps apart and can learn: size (X2), collapse (X6), memorising (X4)."""

from typing import Any

import torch
from torch import Tensor

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import check
from eval.diagnose.checks.memorise import by_heart, seconds_to_learn
from eval.diagnose.checks.size import judge_size
from eval.diagnose.probes.anatomy import check_room_to_train, watching
from eval.diagnose.probes.by_heart import Lesson
from eval.diagnose.probes.directions import variation
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.sample import spread_over
from eval.diagnose.video.subject import VIDEO, VideoSubject
from eval.metrics.representation import effective_rank, mean_pairwise_cosine
from eval.rules import judge_video_size

CLIP_STEPS = 200
MAX_VECTORS = 1024


@check("size.parameters_for_data", "parameters of the order that the training clips can teach", kinds=(VIDEO,))
def parameters_for_data(subject: VideoSubject, rule: Rule) -> Finding:
    """Rules of thumb that the planner has too; only where the number of training clips is known."""
    clips = subject.sample.num_clips
    if clips is None:
        return rule.passed({"parameters": subject.parameters, "training_clips": "not known, so not judged"})
    tokens = clips * subject.context * subject.model.config.tokens_per_frame
    return judge_size(subject, rule, tokens, [judge_video_size(subject.parameters, tokens)])


@check(
    "collapse.predictions",
    f"predictions vary by more than {limits.PREDICTOR_CONSTANT:g} of what the head reads, which itself is not the "
    f"same everywhere, and the rows of two codes have a cosine below {limits.COSINE_COLLAPSED:g} in the mean",
    kinds=(VIDEO,),
)
@torch.no_grad()
def predictions(subject: VideoSubject, rule: Rule) -> Finding | list[Finding]:
    """Whether what the head says differs from place to place, and codes have rows of their own."""
    batch = subject.batch(4, subject.limits.length)
    read, said = _states_and_queries(subject, batch)
    if not (read.isfinite().all() and said.isfinite().all()):
        subject.notes.append(f"{rule.check}: the vectors are not finite")
        return []
    common = subject.sample.codes.flatten().bincount(minlength=subject.vocab_size)
    used = subject.output_table[(common > 0).to(subject.device)][:MAX_VECTORS].double()
    evidence: dict[str, Any] = {
        "variation_read": variation(read),
        "variation_said": variation(said),
        "effective_rank_read": effective_rank(read - read.mean(0)),
        "effective_rank_said": effective_rank(said - said.mean(0)),
        "mean_cosine_of_code_rows": mean_pairwise_cosine(used) if len(used) > 1 else 0.0,
        "vectors": len(said),
    }
    kept = evidence["variation_said"] / max(evidence["variation_read"], 1e-30)
    if evidence["variation_read"] < limits.PREDICTOR_CONSTANT:
        cause = "the trunk says the same at every place: it has collapsed, and no head can tell places apart"
    elif kept < limits.PREDICTOR_CONSTANT:
        cause = "the head says the same at every place, whatever it reads: its weights are zero or of one direction"
    elif evidence["mean_cosine_of_code_rows"] > limits.COSINE_COLLAPSED:
        cause = "the rows of all codes point one way, so that no prediction can tell codes apart: the table collapsed"
    else:
        return rule.passed(evidence)
    remedy = "open an earlier checkpoint; train again with a lower rate, and the head's weights started at random"
    return rule.failed(evidence, cause, remedy)


@check(
    "memorise.clip",
    f"prediction loss under {limits.MEMORISED_LOSS} nats within {CLIP_STEPS} steps on one clip, at one of the "
    f"learning rates {', '.join(f'{rate:g}' for rate in limits.RATES)}",
    kinds=(VIDEO,),
)
def clip(subject: VideoSubject, rule: Rule) -> Finding:
    """One clip by heart, on copies."""
    check_room_to_train(subject)
    batch: Any = subject.batch(1, subject.limits.length)
    lesson = Lesson([batch], limits.RATES[0], CLIP_STEPS, seconds_to_learn(subject))
    return by_heart(subject, rule, lesson)[0]


def _states_and_queries(subject: VideoSubject, batch: Any) -> tuple[Tensor, Tensor]:
    """What the trunk says at hidden places and what the head scores there, `(K, width)` float64 each."""
    scored: list[Tensor] = []
    with watching({"head": subject.model.head}, lambda name, entered, output: scored.append(output)):
        output = subject.logits_with(batch)
    holes = batch.hidden
    states = output.last_hidden_state[holes.any(-1)]
    queries = scored[0][holes]
    some = (vectors[spread_over(len(vectors), MAX_VECTORS)].double().cpu() for vectors in (states, queries))
    return next(some), next(some)
