"""Leaks of a video model (X1): whether a logit moves by something that its view, its mask or its batch must hide."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from eval.diagnose import thresholds
from eval.diagnose.checks.check import check
from eval.diagnose.probes.exact import EXACT, NotFiniteError, clean, yardstick
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.video.subject import VIDEO, ClipBatch, VideoSubject, seen_as

_EXACT = f"up to rounding, {EXACT}"


@check("leak.future_frames", f"later frames move no logit of earlier ones, {_EXACT}", kinds=(VIDEO,))
def future_frames(subject: VideoSubject, rule: Rule) -> Finding:
    """Under the view of the past, later frames, and which of their codes are hidden, move no earlier one."""
    hidden, plain = subject.asked(1, subject.limits.length, "future"), subject.plain(1, subject.limits.length)
    bar = yardstick(subject, plain)
    asked = {"past": seen_as(hidden, "past"), "no time_view given": replace(hidden, time_view=None)}
    asked |= {"nothing hidden": plain}
    length = plain.codes.shape[1]
    cuts = sorted({0, length // 2 - 1, length // 2, length - 2})
    moved = {case: _moved_by_later(subject, batch, cuts) for case, batch in asked.items()}
    reach = {case: distance for case, (_, distance) in moved.items() if distance}
    evidence = {**bar.evidence(max(change for change, _ in moved.values())), "frames": length}
    if evidence["largest_change"] <= bar.tolerance:
        return rule.passed(evidence)
    return rule.failed(
        {**evidence, "seen_ahead": {case: max(found) for case, found in reach.items()}},
        "a frame sees frames after it: the mask over time lets the future through, or something is computed over the "
        "whole clip. What looks like prediction is reading",
        "let frame t attend to frames up to t under the view of the past, in every layer; then train again",
    )


@check(
    "leak.other_frames",
    f"under the view of itself no other frame moves a frame, {_EXACT}; under the view of all, others do",
    kinds=(VIDEO,),
)
def other_frames(subject: VideoSubject, rule: Rule) -> Finding:
    """Under a frame's own view nothing of other frames moves it; under the view of all, later frames do."""
    batch = subject.asked(1, subject.limits.length, "individual")
    bar = yardstick(subject, batch)
    length = batch.codes.shape[1]
    place = length // 2
    others = torch.arange(length, device=batch.codes.device) != place
    changed = _with_others(subject, batch, others)
    own = _change(subject, seen_as(batch, "own"), seen_as(changed, "own"))[0, place]
    later = torch.arange(length, device=batch.codes.device) > place
    ahead = _change(subject, seen_as(batch, "all"), seen_as(_with_others(subject, batch, later), "all"))[
        0, : place + 1
    ]
    evidence = {**bar.evidence(float(own)), "moved_by_later_frames_under_all": float(ahead.max())}
    if float(own) > bar.tolerance:
        return rule.failed(
            evidence,
            "a frame that should be read alone sees others: the mask of the objective 'individual' is not applied",
            "let each frame attend to itself alone over time under this view",
        )
    if float(ahead.max()) <= bar.exact:
        return rule.noted(
            evidence,
            "under the view of all frames later ones move nothing: the objective 'joint' sees only the past, or "
            "attention over time has learnt nothing yet",
            "nothing for a model that only predicts what follows; else look at the mask of this view",
        )
    return rule.passed(evidence)


@check("leak.hidden_codes", f"the codes at hidden places move no logit, {_EXACT}", kinds=(VIDEO,))
def hidden_codes(subject: VideoSubject, rule: Rule) -> Finding:
    """What stands at hidden places makes no difference, whatever the objective."""
    batch = subject.asked(1, subject.limits.length, "joint")
    bar = yardstick(subject, batch)
    changed = replace(batch, codes=torch.where(batch.hidden, subject.other_codes(batch), batch.codes))
    moved = {
        view: float(_change(subject, seen_as(batch, view), seen_as(changed, view)).max())
        for view in ("past", "all", "own")
    }
    evidence = {**bar.evidence(max(moved.values())), "change_by_view": moved}
    if max(moved.values()) <= bar.tolerance:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        "what is hidden is read all the same: its code's picture reaches the model, and the answer is the input",
        "put nothing, or one picture for all, in the place of hidden codes before they are embedded; train again",
    )


@check(
    "leak.cache",
    f"with a cache, in pieces and frame by frame, the logits are those without, {_EXACT}",
    kinds=(VIDEO,),
)
def cache(subject: VideoSubject, rule: Rule) -> Finding:
    """Frames that are read one after the other, from a cache, say what they say at once."""
    batch = subject.plain(1, subject.limits.length)
    bar = yardstick(subject, batch)
    length = batch.codes.shape[1]
    whole = clean(subject.logits(batch))
    cuts = {"two_pieces": [length // 2, length - length // 2], "frame_by_frame": [length // 2] + [1] * (length // 2)}
    change = {how: float((_in_pieces(subject, batch, lengths) - whole).abs().max()) for how, lengths in cuts.items()}
    evidence = {**bar.evidence(max(change.values())), **change}
    if max(change.values()) <= bar.between_shapes:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        "the model says something else with a cache, and predict_frames uses one: frames are counted anew in every "
        "piece, the mask of a later piece lets the future through, or a layer does not keep what came before",
        "count frames on from the cache's length, and make the mask of a piece from the places in the whole clip",
    )


@check(
    "leak.position_ignored",
    f"another order of frames or places moves the prediction by more than {thresholds.ORDER_MATTERS:g}",
    kinds=(VIDEO,),
)
def position_ignored(subject: VideoSubject, rule: Rule) -> Finding:
    """The order of the frames, and the places within them, move the prediction."""
    batch = subject.asked(2, subject.limits.length, "future")
    plain = _states(subject, batch)
    if not plain[-1].isfinite().all():
        raise NotFiniteError
    known = batch.codes.shape[1] - batch.codes.shape[1] // 2
    backwards = replace(batch, codes=torch.cat([batch.codes[:, :known].flip(1), batch.codes[:, known:]], 1))
    turned = replace(batch, codes=batch.codes.flip(2))
    seen = replace(batch, codes=torch.where(batch.hidden, batch.codes, subject.other_codes(batch)))
    others, order = _states(subject, seen), _states(subject, backwards)
    moved = [_share(first, second, known) for first, second in zip(plain, others, strict=True)]
    # The first layer that reads the past at all: those after it also see the order by which frame saw which.
    reads = next((place for place, share in enumerate(moved) if share > thresholds.READS), len(moved) - 1)
    share = {
        "moved_by_other_frames": moved[-1],
        "moved_by_order_of_frames": _share(plain[reads], order[reads], known),
        "moved_by_places": _share(plain[-1], _states(subject, turned)[-1].flip(2), known),
    }
    if share["moved_by_other_frames"] <= thresholds.READS:
        return rule.noted(
            share,
            "the frames that it is shown hardly move what it predicts, so their order cannot be judged",
            "nothing before training; after it, see gradient.flow and distribution.unigram_only",
        )
    lost = [key for key in ("moved_by_order_of_frames", "moved_by_places") if share[key] < thresholds.ORDER_MATTERS]
    if not lost:
        return rule.passed(share)
    what = "the order of the frames" if lost[0].endswith("frames") else "the places within a frame"
    return rule.failed(
        share,
        f"{what} makes no difference: positions do not reach the model, and motion cannot be seen without them",
        "add embeddings or rotations by frame number, and by row and column, before or in every attention",
    )


def _moved_by_later(subject: VideoSubject, batch: ClipBatch, cuts: list[int]) -> tuple[float, list[int]]:
    """Largest change of a logit at or before frame t when all after it is other, over the cuts t; and how many frames
    ahead something was seen, for each cut where it was.
    """
    tolerance = yardstick(subject, batch).tolerance
    largest, ahead = 0.0, []
    for cut in cuts:
        later = torch.arange(batch.codes.shape[1], device=batch.codes.device) > cut
        found = _change(subject, batch, _with_others(subject, batch, later))[0, : cut + 1]
        largest = max(largest, float(found.max()))
        if float(found.max()) > tolerance:
            ahead.append(cut + 1 - int((found > tolerance).nonzero()[0]))
    return largest, ahead


def _with_others(subject: VideoSubject, batch: ClipBatch, frames: Tensor) -> ClipBatch:
    """Other codes, shown where they were hidden and hidden where they were shown, in some frames `(T,)`."""
    chosen = frames[None, :, None, None]
    return replace(
        batch,
        codes=torch.where(chosen, subject.other_codes(batch), batch.codes),
        hidden=batch.hidden ^ chosen,
    )


def _change(subject: VideoSubject, first: ClipBatch, second: ClipBatch) -> Tensor:
    """`(B, T)`: largest change of a logit in each frame."""
    return (clean(subject.logits(first)) - clean(subject.logits(second))).abs().flatten(2).amax(-1)


def _in_pieces(subject: VideoSubject, batch: ClipBatch, lengths: list[int]) -> Tensor:
    """Logits of pieces of these lengths, each after the cache of those before."""
    kept: Any = DynamicCache(config=None)
    made, start = [], 0
    for length in lengths:
        piece = ClipBatch(
            *(value[:, start : start + length] for value in (batch.codes, batch.hidden, batch.labels)), None
        )
        made.append(clean(subject.logits_with(piece, past_key_values=kept).logits.float()))
        start += length
    return torch.cat(made, 1)


def _states(subject: VideoSubject, batch: ClipBatch) -> list[Tensor]:
    """What every layer says, `(B, T, N, H)` each, and the logits."""
    output = subject.logits_with(batch, output_hidden_states=True)
    return [*(state.float() for state in output.hidden_states or ()), clean(output.logits.float())]


def _share(first: Tensor, second: Tensor, known: int) -> float:
    """Largest change in the predicted frames, over the spread there."""
    return float((first - second)[:, known:].abs().max()) / max(float(first[:, known:].std()), 1e-30)
