"""Continue a prompt with a causal language model: greedy and sampled side by side, with what can be counted of both.

python -m eval.generate outputs/staged-3 "The capital of India is" --top_k 50 --temperature 0.7
"""

import argparse
import dataclasses
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from eval.command import add_checkpoint, new_parser, run_command
from eval.decoding.decoding import MAX_NEW_TOKENS, TEMPERATURE, TOP_K, Decoding, decoding_of
from eval.decoding.token_scores import evaluating
from eval.decoding.windows import model_length, prompt_ids
from eval.loading import open_model, open_tokenizer
from eval.metrics.generation import SampleFigures, known_words, sample_figures
from training.common.errors import InputError, NonFiniteError
from training.common.manifest import read_run
from training.data.settings import GeneratorDataSettings
from training.data.staged_generator.documents import load_documents
from training.data.staged_generator.framing import begin_and_end

_LINE_TOKENS = 30


@dataclass(frozen=True)
class Continuation:
    """One continuation of a prompt, without it; `how` it was made, and what can be counted of it."""

    how: str
    text: str
    figures: SampleFigures


def continue_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    decoding: Decoding | None = None,
    words: Collection[str] | None = None,
) -> list[Continuation]:
    """The likeliest continuation, then `num_samples` sampled ones.

    Leaves the model's mode and the random state as they were: a run that shows samples trains on as one that does not.

    Args:
        model: any causal LM.
        words: what counts as a real word, see `eval.generate`; None gives no such share.

    Raises:
        InputError: a prompt that is empty, holds nothing the model knows or fills its context, or a bad setting.
        NonFiniteError: the model scores NaN.
    """
    decoding = decoding or Decoding()
    decoding.validate()
    ids = torch.as_tensor(_checked_ids(prompt, model, tokenizer), device=model.device)[None]
    with evaluating(model), torch.random.fork_rng(devices=_cuda(model)):
        _check_finite(model, ids, prompt)
        torch.manual_seed(decoding.seed)
        rows = [(decoding.likeliest_name, _generate(model, tokenizer, ids, decoding, do_sample=False))]
        if decoding.num_samples:
            rows.append((decoding.sampled_name, _generate(model, tokenizer, ids, decoding, do_sample=True)))
    texts = [(how, _continuation(tokenizer, ids[0], row)) for how, found in rows for row in found]
    return [Continuation(how, text, sample_figures(prompt, text, words)) for how, text in texts]


def sample_line(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    top_k: int = TOP_K,
    temperature: float = TEMPERATURE,
    max_new_tokens: int = _LINE_TOKENS,
    seed: int = 0,
    words: Collection[str] | None = None,
) -> str:
    """A prompt's greedy and sampled continuation side by side with their figures, as one line for logs and cards.

    A prompt that cannot be continued is said instead: it is no reason to stop a run.
    """
    decoding = Decoding(top_k=top_k, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    try:
        found = continue_prompt(model, tokenizer, prompt, decoding, words)
    except InputError as error:
        return f"{prompt}: {error}"
    shown = (f"{one.how}: {' '.join(one.text.split())} ({figures_line(one.figures)})" for one in found)
    return f"{prompt} ... {' ... '.join(shown)}"


def figures_line(figures: SampleFigures) -> str:
    """What can be counted of a continuation, in one line."""
    pairs = (("real words", figures.real_words), ("repeated", figures.repetition), ("copied", figures.prompt_copying))
    return ", ".join(f"{label} {_share(value)}" for label, value in pairs)


def room_for(model: PreTrainedModel, prompt_length: int, max_new_tokens: int) -> int:
    """New tokens that fit behind a prompt of so many tokens, begin token included."""
    longest = model_length(model)
    return max_new_tokens if longest is None else min(max_new_tokens, longest - prompt_length)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for bad input, 3 for a model that gives NaN."""
    return run_command(_parser(), _continue, argv)


def _continue(arguments: argparse.Namespace) -> None:
    tokenizer = open_tokenizer(arguments.checkpoint)
    model = open_model(arguments.checkpoint, AutoModelForCausalLM, arguments.device)
    given = {name: getattr(arguments, name) for name in ("num_beams", "max_new_tokens", "seed")}
    num_samples = 0 if arguments.greedy else arguments.num_samples
    decoding = decoding_of(vars(arguments), model.generation_config, **given, num_samples=num_samples)
    decoding.validate()
    length = len(_checked_ids(arguments.prompt, model, tokenizer))
    words = words_of_run(arguments.checkpoint)
    found = continue_prompt(model, tokenizer, arguments.prompt, decoding, words)
    room = room_for(model, length, decoding.max_new_tokens)
    if room < decoding.max_new_tokens:
        print(f"note: {room} new tokens fit behind a prompt of {length} into the model's {model_length(model)}")
    _print(arguments.prompt, found)


def _checked_ids(prompt: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The prompt as token ids, begin token included; raises InputError where nothing can be continued."""
    if not prompt.strip():
        raise InputError('prompt is empty: give the beginning of a text, for example: "The capital of India is"')
    ids = prompt_ids(prompt, tokenizer).tolist()
    if all(token == tokenizer.unk_token_id for token in ids[1:]):
        raise InputError(
            f"prompt {prompt!r} holds nothing but what is outside the vocabulary of {len(tokenizer):,} tokens; "
            "use other words"
        )
    longest = model_length(model)
    if longest is not None and len(ids) >= longest:
        raise InputError(
            f"prompt is {len(ids)} tokens long with the begin token, the model takes {longest}, new ones included: "
            "shorten it"
        )
    return ids


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: torch.Tensor,
    decoding: Decoding,
    do_sample: bool,
) -> list[torch.Tensor]:
    """Token ids of the continuations, the prompt's not among them."""
    settings = GenerationConfig(
        **decoding.arguments(do_sample),
        num_return_sequences=decoding.num_samples if do_sample else 1,
        max_new_tokens=room_for(model, ids.shape[1], decoding.max_new_tokens),
        eos_token_id=begin_and_end(tokenizer)[1],
        pad_token_id=begin_and_end(tokenizer)[1] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )
    found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return [row[ids.shape[1] :] for row in found]


def _continuation(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, new: torch.Tensor) -> str:
    """New tokens as text. Decoded behind the prompt: some tokenizers drop the space that a text begins with."""
    before, whole = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids, torch.cat([ids, new])))
    return whole[len(before) :]


def _check_finite(model: PreTrainedModel, ids: torch.Tensor, prompt: str) -> None:
    if torch.isnan(model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -1]).any():
        raise NonFiniteError(
            f"the model scores NaN after {prompt!r}: its weights are broken, use an earlier checkpoint"
        )


def _cuda(model: PreTrainedModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []


def _print(prompt: str, found: list[Continuation]) -> None:
    """Each sample beside the likeliest continuation, the figures under both."""
    console = Console()
    console.width = max(console.width, 100)  # a pipe or a log has no width of its own
    first, *others = found
    for one in others or [None]:
        pair = [first] if one is None else [first, one]
        table = Table(title=Text(prompt), title_justify="left", show_lines=True)
        table.add_column("", style="dim", no_wrap=True)
        for each in pair:
            table.add_column(each.how, ratio=1)
        table.add_row("text", *(Text(each.text) for each in pair))
        for label, name in (("real words", "real_words"), ("repeated", "repetition"), ("copied", "prompt_copying")):
            table.add_row(label, *(_share(getattr(each.figures, name)) for each in pair))
        console.print(table)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("eval.generate", __doc__)
    add_checkpoint(parser)
    parser.add_argument("prompt", help="the beginning of a text")
    travels = "(default: what the checkpoint says, else {})"
    parser.add_argument("--top_k", type=int, help=f"only the k likeliest tokens, 0 for all {travels.format(TOP_K)}")
    parser.add_argument("--temperature", type=float, help=f"below 1 sharper {travels.format(TEMPERATURE)}")
    parser.add_argument("--top_p", type=float, help="only the likeliest tokens that together have this chance")
    parser.add_argument("--repetition_penalty", type=float, help="above 1: say less again what was said")
    parser.add_argument("--greedy", action="store_true", help="no sampled text")
    parser.add_argument("--num_beams", type=int, default=1, help="beams instead of greedy (default: 1, greedy)")
    parser.add_argument(
        "--max_new_tokens", type=int, default=MAX_NEW_TOKENS, help=f"at most (default: {MAX_NEW_TOKENS})"
    )
    parser.add_argument("--num_samples", type=int, default=1, help="sampled texts (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    return parser


def training_words(settings: GeneratorDataSettings) -> frozenset[str] | None:
    """The words of the training part; None for a stream, which is more than is read, and where it cannot be read."""
    if settings.streaming:
        return None
    try:
        return known_words(load_documents(settings, "train").texts)
    except InputError:  # the text was moved, or this is another machine: a figure less, and no reason to stop
        return None


def words_of_run(checkpoint: str) -> frozenset[str] | None:
    """The words that a checkpoint's run was trained on; None where it does not say, or they cannot be read here."""
    section = (read_run(checkpoint) or {}).get("recipe", {}).get("data", {})
    known = {field.name for field in dataclasses.fields(GeneratorDataSettings)}
    if "data" not in section or not set(section) <= known:
        return None
    return training_words(GeneratorDataSettings(**section))


if __name__ == "__main__":
    sys.exit(main())
