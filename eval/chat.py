"""Talk with a dialogue model, several turns: it says a reply, sampled or greedy, or finds one that it learnt from.

    python -m eval.chat outputs/dialogue
    python -m eval.chat outputs/dialogue --message "how are you?" --mode retrieve --top_k 5
    python -m eval.chat outputs/dialogue --messages chat.json

While it runs: /retrieve, /generate and /greedy change how it answers, /quit ends it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.command import add_checkpoint, new_parser, run_command
from eval.decoding.decoding import Decoding, decoding_of
from eval.replies.index import ReplyIndex
from eval.replies.saying import open_dialogue, read_turns, say
from training.common.errors import InputError
from training.common.manifest import read_run
from training.data.dialogue_jepa.dialogues import role_of, said_turns, tidy_turn
from training.data.settings import DialogueDataSettings
from training.data.sources.columns import turns_of

MODES = ("generate", "greedy", "retrieve")
SHOWN = 5
_NOTHING = "(the model says nothing)"


@dataclass(frozen=True)
class Answer:
    """What the model answers: the reply, in `lines` as it is shown, and what the user should know."""

    reply: str
    lines: list[str]
    note: str | None = None


class Conversation:
    """Turns of both sides, and the model that takes every other one.

    Args:
        load_index: gives the index of replies; called when a reply is first retrieved.
        data: how the model's dialogues were read: how many turns it sees, and how they are written.
        decoding: of sampled and greedy replies; each turn has a seed of its own.
        shown: replies that are shown when they are retrieved; the first is the answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        load_index: Callable[[], ReplyIndex],
        data: DialogueDataSettings | None = None,
        decoding: Decoding | None = None,
        shown: int = SHOWN,
    ) -> None:
        self.model, self.tokenizer, self._load_index = model, tokenizer, load_index
        self.data = data or DialogueDataSettings()
        self.decoding, self.shown = decoding or Decoding(), shown
        self.turns: list[str] = []
        self._answered = 0

    def answer(self, message: str, mode: str = "generate") -> Answer:
        """The reply to a message, which both become turns of the conversation.

        Raises:
            InputError: an empty message, one that the model knows nothing of, no such mode, or no index to retrieve
                from; the conversation stays as it was. NonFiniteError: the model gives NaN.
        """
        if mode not in MODES:
            raise InputError(f"mode: got {mode!r}; use one of {', '.join(MODES)}")
        turns = [*self.turns, tidy_turn(message, self.data.join_punctuation)][-self.data.context_turns :]
        context = read_turns(turns, self.model, self.tokenizer)
        if mode == "retrieve":
            found = self._index.retrieve_all([context.ids], self.shown)[0]
            reply, lines = found[0].reply, [f"{one.cosine:6.3f}  {one.reply}" for one in found]
        else:
            decoding = replace(self.decoding, seed=self.decoding.seed + self._answered)
            reply = say(self.model, self.tokenizer, [context.ids], decoding, do_sample=mode == "generate")[0]
            lines = [reply or _NOTHING]
        self._answered += 1
        self.turns += [turns[-1], *([reply] if reply else [])]
        return Answer(reply, lines, context.note)

    @cached_property
    def _index(self) -> ReplyIndex:
        return self._load_index()


def converse(conversation: Conversation, mode: str, lines: Iterable[str]) -> Iterator[str]:
    """What is printed in answer to each line that a user writes, until /quit or the last of them.

    Raises:
        NonFiniteError: the model gives NaN.
    """
    for line in lines:
        message = line.strip()
        if message == "/quit":
            return
        if message.startswith("/"):
            if message[1:] in MODES:
                mode = message[1:]
                yield f"mode: {mode}"
            else:
                commands = ", ".join(f"/{name}" for name in MODES)
                yield f"error: unknown command {message.split()[0]!r}; use {commands} or /quit"
            continue
        try:
            answer = conversation.answer(message, mode)
        except InputError as error:
            yield f"error: {error}"
            continue
        yield from ([f"note: {answer.note}"] if answer.note else [])
        yield from answer.lines


def reading_of_run(checkpoint: str) -> DialogueDataSettings:
    """How many turns a checkpoint's run saw, and how they were written; defaults where it does not say."""
    section = (read_run(checkpoint) or {}).get("recipe", {}).get("data", {})
    names = ("context_turns", "join_punctuation")
    return DialogueDataSettings(**{name: section[name] for name in names if name in section})


def read_messages(path: Path) -> list[str]:
    """The turns of a conversation in a file: a list of `{"role": ..., "content": ...}`, or an object with `messages`.

    Raises:
        InputError: no such file, or no turn that anybody says.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"messages: {path} cannot be read ({error}); give a JSON file") from None
    found = turns_of(content.get("messages") if isinstance(content, dict) else content) or []
    said, _ = said_turns([" ".join(text.split()) for _, text in found], [role_of(role) for role, _ in found])
    if not said:
        raise InputError(f'messages: {path} holds no turn; give a list of {{"role": "user", "content": "..."}}')
    return [text for _, text in said]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for bad input, 3 for a model that gives NaN."""
    return run_command(_parser(), _chat, argv)


def _chat(arguments: argparse.Namespace) -> None:
    if arguments.message is not None and arguments.messages is not None:
        raise InputError("messages: got a file beside --message; leave one of them out")
    earlier = [] if arguments.messages is None else read_messages(Path(arguments.messages))
    conversation = _open(arguments)
    message = arguments.message
    if earlier:
        *conversation.turns, message = earlier
    if message is not None:
        answer = conversation.answer(message, arguments.mode)
        print("\n".join([*([f"note: {answer.note}"] if answer.note else []), *answer.lines]))
        return
    print(f"mode: {arguments.mode}; {', '.join(f'/{name}' for name in MODES)} change it, /quit ends", flush=True)
    for line in converse(conversation, arguments.mode, _written()):
        print(line, flush=True)


def _open(arguments: argparse.Namespace) -> Conversation:
    """The conversation that the command line asks for; raises InputError before anything is said."""
    model, tokenizer = open_dialogue(arguments.checkpoint, arguments.device)
    retrieves = arguments.mode == "retrieve"
    shown = arguments.top_k if retrieves and arguments.top_k is not None else SHOWN
    if shown < 1:
        raise InputError(f"top_k must be at least 1 reply to retrieve, was given {shown}")
    asked = vars(arguments) | ({"top_k": None} if retrieves else {})
    decoding = decoding_of(asked, model.generation_config, num_beams=arguments.num_beams, seed=arguments.seed)
    decoding.validate()
    checkpoint, data = arguments.checkpoint, reading_of_run(arguments.checkpoint)
    return Conversation(model, tokenizer, lambda: ReplyIndex.load(checkpoint, model, tokenizer), data, decoding, shown)


def _written() -> Iterator[str]:
    """The lines that a user writes, until the end of the input or an interrupt."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("eval.chat", __doc__)
    add_checkpoint(parser, "dialogue model")
    parser.add_argument("--message", help="answer this and end, instead of a conversation")
    parser.add_argument("--messages", metavar="FILE", help="answer the last turn of a JSON list of role and content")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="generate",
        help="say a sampled reply, the likeliest one, or find one among the training replies (default: generate)",
    )
    parser.add_argument(
        "--top_k",
        type=int,
        help=f"sampling: only the k likeliest tokens, 0 for all (default: what the checkpoint says); with --mode "
        f"retrieve: replies that are shown (default: {SHOWN})",
    )
    parser.add_argument("--temperature", type=float, help="sampling: below 1 sharper (default: the checkpoint's)")
    parser.add_argument("--top_p", type=float, help="sampling: only the likeliest tokens that have this chance")
    parser.add_argument("--repetition_penalty", type=float, help="above 1: say less again what was said")
    parser.add_argument("--num_beams", type=int, default=1, help="beams instead of greedy (default: 1, greedy)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
