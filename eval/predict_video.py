"""See what a video model predicts: truth, prediction and difference of held-out clips, as a GIF and as a still.

    python -m eval.predict_video outputs/video --clips 4 --out clips.gif --still clips.png
    python -m eval.predict_video outputs/video --digits PATH/TO/mnist --mode sample --out clips.gif
    python -m eval.predict_video outputs/video --tokens --still codes.png
    python -m eval.predict_video outputs/video --input my.gif --out next.gif

With `--tokens` frames are shown beside what is left of them when they are coded and decoded.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from eval.command import add_checkpoint, new_parser, run_command
from eval.loading import open_model
from eval.metrics.frame_baselines import black, copy_last
from eval.metrics.video import squared_error, ssim
from eval.plots.clips import ShownClip, save_animation, save_frames, save_still
from eval.scorers.checkpoint import data_settings, family_of
from eval.scorers.request import ScoreRequest
from eval.scorers.video import STEPS, TEMPERATURE, TOP_K, VIDEO, halves
from modeling_jepa.frame_decoding import MODES
from training.common.errors import InputError, NonFiniteError
from training.common.records import check_target
from training.data.video_jepa.clips import as_frames
from training.data.video_jepa.digits import SPLITS
from training.data.video_jepa.own_clips import read_clips
from training.data.video_jepa.prepared import HELD_OUT_CLIPS, make_clips

FIGURES = ("MSE per frame", "SSIM", "black MSE", "copy last MSE")


def predict_clips(
    model: PreTrainedModel,
    frames: Tensor,
    mode: str = "expectation",
    steps: int = STEPS,
    temperature: float = TEMPERATURE,
    top_k: int | None = TOP_K,
    seed: int = 0,
) -> list[ShownClip]:
    """The second half of each clip as the model predicts it after the first; `frames` is `(B, T, 1, S, S)`.

    Raises:
        InputError: a setting or a length that `predict_frames` refuses. NonFiniteError: the model predicts NaN.
    """
    frames = frames.to(model.device)
    known, predicted = halves(model)
    generator = torch.Generator(model.device).manual_seed(seed)
    try:
        # The mean frame shows a NaN, which the codes of the other ways would hide.
        settings = (predicted, steps, temperature, top_k)
        said = model.predict_frames(frames[:, :known], *settings, mode="expectation")
        if torch.isfinite(said).all() and mode != "expectation":
            said = model.predict_frames(frames[:, :known], *settings, mode=mode, generator=generator)
    except ValueError as error:
        raise InputError(str(error)) from error
    if not torch.isfinite(said).all():
        raise NonFiniteError("the model predicts NaN: its weights are broken, use an earlier checkpoint")
    whole = torch.cat((frames[:, :known], said), 1)
    return [ShownClip(true, guess, known) for true, guess in zip(frames.cpu(), whole.cpu(), strict=True)]


def recode_clips(model: PreTrainedModel, frames: Tensor) -> list[ShownClip]:
    """Each clip beside itself coded and decoded; `frames` is `(B, T, 1, S, S)`."""
    codes = model.model.codes
    with torch.inference_mode():
        decoded = codes.decode(codes.encode(frames.to(model.device))).cpu()
    return [ShownClip(true, again) for true, again in zip(frames, decoded, strict=True)]


def figure_cells(clip: ShownClip) -> list[str]:
    """`FIGURES` of a clip as text; without those of guessers where nothing was predicted."""
    known = clip.first_predicted
    true, said = clip.true[known:], clip.predicted[known:]
    cells = [f"{squared_error(said, true).mean():.1f}", f"{ssim(said, true).mean():.3f}"]
    if known:
        guesses = (guess(clip.true[None, :known], len(true))[0] for guess in (black, copy_last))
        cells += [f"{squared_error(guess, true).mean():.1f}" for guess in guesses]
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for bad input, 3 for a model that gives NaN."""
    return run_command(_parser(), _predict, argv)


def _predict(arguments: argparse.Namespace) -> None:
    _check(arguments)
    if arguments.input is not None:
        _continue(arguments)
        return
    model, frames = _open(arguments)
    if arguments.tokens:
        shown, labels = recode_clips(model, frames), ("truth", "decoded", "difference")
    else:
        shown = predict_clips(
            model,
            frames,
            arguments.mode,
            arguments.steps,
            arguments.temperature,
            arguments.top_k or None,
            arguments.seed,
        )
        labels = ("truth", "prediction", "difference")
    if arguments.out is not None:
        save_animation(shown, arguments.out, labels)
    if arguments.still is not None:
        save_still(shown, arguments.still, labels)
    _print(shown, arguments)


def _continue(arguments: argparse.Namespace) -> None:
    """What follows the last frames of a clip of the user's."""
    if arguments.out is None or arguments.tokens:
        raise InputError("input: what follows a clip is an animation; name it with --out next.gif, without --tokens")
    model = open_model(arguments.checkpoint, AutoModel, arguments.device)
    clips, notes = read_clips(Path(arguments.input), model.config.frame_size)
    known, predicted = halves(model)
    if len(clips[0]) < known:
        raise InputError(f"input: {arguments.input} has {len(clips[0])} frames; the model sees {known}, give as many")
    seen = as_frames(torch.from_numpy(clips[0][-known:])[None])
    blank = torch.zeros(1, predicted, *seen.shape[2:])
    settings = (arguments.mode, arguments.steps, arguments.temperature, arguments.top_k or None, arguments.seed)
    clip = predict_clips(model, torch.cat((seen, blank), 1), *settings)[0]
    save_frames(clip.predicted, arguments.out)
    for note in notes:
        print(f"note: {note}")
    print(f"written: {arguments.out}, the last {known} frames of {arguments.input} and {predicted} that follow")


def _check(arguments: argparse.Namespace) -> None:
    """Raise InputError for what makes no sense, before the model is opened."""
    if arguments.out is None and arguments.still is None:
        raise InputError("out: is not given; name a file with --out clips.gif or --still clips.png")
    for target in (arguments.out, arguments.still):
        if target is not None:
            check_target(Path(target))
    if not 1 <= arguments.clips <= 64:
        raise InputError(f"clips: got {arguments.clips}; use 1 to 64")
    if not 0 <= arguments.first <= HELD_OUT_CLIPS - arguments.clips:
        raise InputError(f"first: got {arguments.first}; use 0 to {HELD_OUT_CLIPS - arguments.clips:,}")
    if arguments.top_k < 0:
        raise InputError(f"top_k: got {arguments.top_k}; use 0 (all codes) or more")
    if family_of(arguments.checkpoint) != VIDEO:
        raise InputError(f"{arguments.checkpoint} is no video model; name the folder of one")


def _open(arguments: argparse.Namespace) -> tuple[PreTrainedModel, Tensor]:
    """The model, and the clips to show, `(B, T, 1, S, S)`."""
    settings = data_settings(ScoreRequest(arguments.checkpoint, digits=arguments.digits))
    model = open_model(arguments.checkpoint, AutoModel, arguments.device)
    length, size = model.config.max_position_embeddings, model.config.frame_size
    maker, _ = make_clips(settings, arguments.split, length, size)
    count = maker.count or HELD_OUT_CLIPS
    if arguments.first >= count:
        raise InputError(f"first: got {arguments.first}; {arguments.split} has {count:,} clips")
    return model, maker.frames(range(arguments.first, min(count, arguments.first + arguments.clips)))


def _print(shown: list[ShownClip], arguments: argparse.Namespace) -> None:
    """The error of each clip beside that of guessers, and where the pictures are."""
    what = "coded and decoded" if arguments.tokens else f"predicted by {arguments.mode}"
    table = Table(title=Text(f"{arguments.checkpoint}, {what}"), title_justify="left", box=SIMPLE)
    for heading in ["clip", *(FIGURES[:2] if arguments.tokens else FIGURES)]:
        table.add_column(heading, justify="right")
    for number, clip in enumerate(shown, start=arguments.first):
        table.add_row(str(number), *figure_cells(clip))
    console = Console()
    console.print(table)
    for target in (arguments.out, arguments.still):
        if target is not None:
            console.print(f"written: {target}", markup=False, highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("eval.predict_video", __doc__)
    add_checkpoint(parser, "video model")
    parser.add_argument("--input", metavar="FILE", help="a GIF or .npy of your own: predict what follows its end")
    parser.add_argument("--digits", help="digits to make the clips of, or clips (default: the run's own)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="of the digits (default: test)")
    parser.add_argument("--clips", type=int, default=4, help="how many (default: 4)")
    parser.add_argument("--first", type=int, default=0, metavar="INDEX", help="of the first clip (default: 0)")
    parser.add_argument("--out", metavar="FILE", help="write an animation (GIF)")
    parser.add_argument("--still", metavar="FILE", help="write all frames as one picture (PNG)")
    parser.add_argument("--tokens", action="store_true", help="show frames coded and decoded, instead of predictions")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="expectation",
        help="the best codes, frames drawn from the model, or the mean frame, which is blurred (default: expectation)",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"parallel steps for each frame (default: {STEPS})")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help=f"sample: (default: {TEMPERATURE})")
    parser.add_argument("--top_k", type=int, default=TOP_K, help=f"sample: best codes, 0 for all (default: {TOP_K})")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
