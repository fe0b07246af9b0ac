"""Held-out figures of a causal language model, ours or a stock one: each token scored exactly once.

scores = score_documents(model, tokenizer, texts, context=256)
scores.metrics["word_perplexity"], scores.metrics["leak_gap"]
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import datasets
import numpy as np
import psutil
from rich.progress import Progress
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from eval.decoding.token_scores import STAGED_GENERATOR, Rows, evaluating, pad_rows, rows_at_a_time, token_scores
from eval.decoding.windows import Document, Window, model_length, tokenize_documents, windows_of
from eval.loading import open_model, open_tokenizer
from eval.metrics.language_modeling import LanguageModeling, count_words
from eval.metrics.ngrams import Bigram, NextTokenGuesser, Unigram
from eval.metrics.of_arrays import figures_of
from eval.scorers.causal_inside import edge_mass, is_routed, leak_gap
from eval.scorers.holes import choose_rows
from eval.scorers.request import MAX_ROWS, ScoreRequest, Scores, bounded
from training.common.errors import InputError
from training.common.wording import readable_bytes
from training.data.settings import GeneratorDataSettings
from training.data.sources.rows import RowReport
from training.data.staged_generator.documents import documents_of, load_documents
from training.data.staged_generator.framing import begin_and_end, encode_documents
from training.data.unknown import check_unknown, unknown_id

BATCH_SIZE = 16
MAX_CONTEXT = 1024
# Ten minutes on two cores, less what opening, the leak check and the baselines take: 420 s at 20 GFLOP/s.
_AFFORDABLE = 420 * 20e9
_ROUTING = 2  # a routed model takes 1.4 times as long at 256 tokens, and more beyond
_WINDOWS_SORTED = 64  # batches whose windows are sorted by length together


@dataclass(frozen=True)
class TokenAnswers:
    """One entry per scored token, in the order of the text: for paired comparisons and for other guessers.

    Attributes: `documents` (place among the texts), `previous` (the token before), `targets`, `predictions` (greedy)
    and `nll` (nats), all of shape (tokens,).
    """

    documents: np.ndarray
    previous: np.ndarray
    targets: np.ndarray
    predictions: np.ndarray
    nll: np.ndarray


@dataclass(frozen=True)
class ScoringPlan:
    """How documents are scored.

    Attributes:
        context: tokens that the model sees at most; None for its own length, at most `MAX_CONTEXT`.
        stride: tokens that each window but a document's first scores; None for half of the context.
        batch_size: windows per forward pass at most.
        max_documents, max_tokens: bounds of a seeded subset; None for no bound.
        seed: decides the subset, and which prefixes the leak is measured on.
        allow_unknown: score texts that the tokenizer mostly does not know, see `check_unknown`.
    """

    context: int | None = None
    stride: int | None = None
    batch_size: int = BATCH_SIZE
    max_documents: int | None = None
    max_tokens: int | None = None
    seed: int = 0
    allow_unknown: bool = False

    def lengths(self, model: PreTrainedModel) -> tuple[int, int]:
        """Context and stride for this model; raises InputError for what it cannot take, or what memory does not hold.

        Our generator takes any length, whatever it was trained at: see `reading`.
        """
        longest = model_length(model)
        context = min(longest or MAX_CONTEXT, MAX_CONTEXT) if self.context is None else self.context
        if longest is not None and context > longest:
            if model.config.model_type != STAGED_GENERATOR:
                raise InputError(f"context: got {context}, but the model takes {longest} tokens; use at most that")
            _refuse_beyond_memory(model, context)
        stride = max(1, context // 2) if self.stride is None else self.stride
        for _ in windows_of(1, context, stride):  # checks both
            pass
        return context, stride


def score_documents(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    plan: ScoringPlan | None = None,
    *,
    guessers: dict[str, NextTokenGuesser | None] | None = None,
    progress: bool = False,
) -> Scores:
    """Score a model on documents, each token exactly once, from as much of its document as the context allows.

    The begin token is given and never scored, the end token is scored. Words, line ends and bytes are those of the
    texts. Memory is bounded by `batch_size` windows and some 40 bytes per scored token. Uses no random state and
    leaves the model in the mode it was given in.

    Args:
        model: any causal LM whose forward gives logits (rows, T, V).
        tokenizer: the model's own.
        texts: documents, verbatim.
        guessers: baselines by name; None for one that could not be fitted, whose figures are then None.
        progress: show a progress bar on stderr.

    Raises:
        InputError: nothing to score, or a context or stride that the model cannot take.
        NonFiniteError: the model scores NaN or plus infinity.
    """
    plan = plan or ScoringPlan()
    context, stride = plan.lengths(model)
    documents = tokenize_documents(texts, tokenizer, plan.max_documents, plan.max_tokens, plan.seed)
    if not sum(document.predictions for document in documents):
        raise InputError(f"nothing to score: {len(texts)} documents hold no token; give a source with text")
    unknown = unknown_id(tokenizer)
    targets = np.concatenate([document.ids[1:] for document in documents])
    check_unknown(float(np.mean(targets == unknown)), "the text", plan.allow_unknown)
    with evaluating(model), reading(model, context):
        answers = _answer_all(model, documents, context, stride, plan.batch_size, progress)
        ids = [document.ids for document in documents]
        inside = leak_gap(model, ids, context, seed=plan.seed) | {"edge_mass": edge_mass(model, ids, context)}
    words, num_bytes = (sum(getattr(one, name) for one in documents) for name in ("words", "num_bytes"))
    metrics = _figures(answers.predictions, answers.targets, answers.nll, words, num_bytes, unknown) | inside
    baselines = {
        name: _guessed(guesser, answers, words, num_bytes, unknown, metrics)
        for name, guesser in (guessers or {}).items()
    }
    return Scores(metrics, baselines, len(answers.nll), len(documents), answers)


@contextmanager
def reading(model: PreTrainedModel, context: int) -> Iterator[None]:
    """Inside, our generator takes so many tokens: rotary positions, decays and far edges end nowhere."""
    longest = model_length(model)
    if longest is None or context <= longest:
        yield
        return
    model.config.max_position_embeddings = context
    try:
        yield
    finally:
        model.config.max_position_embeddings = longest


def _refuse_beyond_memory(model: PreTrainedModel, context: int) -> None:
    """Dense attention has a mask of all pairs, and at worst their scores; a window has neither."""
    has_window = is_routed(model) and model.config.routing_window > 0
    needed = context * (4 * model.config.vocab_size + (0 if has_window else 5 * context))
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"context: {context:,} tokens need about {readable_bytes(needed)} of memory, and {readable_bytes(free)} "
            "are free; use fewer, or a model with routing_window"
        )


def held_out_figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: datasets.Dataset,
    max_rows: int | None,
    *,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> dict[str, float | int | None]:
    """Figures of a model on packed blocks, while it is trained: the same rows each time, for a given seed.

    A token is predicted where its position is not 0, so never across documents. Words and bytes are counted in the
    predicted tokens' decoded text, so they are those of the text but for spaces that a tokenizer adds; the score of a
    finished run counts the text itself.

    Args:
        dataset: columns input_ids, position_ids (lists of int, restarting at 0 with each document) and row_id.
        max_rows: blocks to score; None for all.

    Returns:
        perplexity, word_perplexity, bits_per_byte, greedy_accuracy, unigram_accuracy and unigram_perplexity (of the
        model's training counts; None without), and nll, tokens, words, bytes.
    """
    rows = choose_rows(np.asarray(dataset["row_id"][:]), max_rows, seed)
    found: list[tuple[np.ndarray, ...]] = []
    words = num_bytes = 0
    with evaluating(model):
        for batch in _blocks(dataset, rows, rows_at_a_time(model, _length(dataset, rows), batch_size)):
            nll, predictions = token_scores(model, batch)
            scored = _predicted(batch)
            found.append((batch.input_ids[scored], batch.targets[scored], predictions[scored], nll[scored]))
            for text, ended in _decoded(batch, tokenizer):
                words, num_bytes = words + count_words(text, ended), num_bytes + len(text.encode())
    previous, targets, predictions, nll = map(np.concatenate, zip(*found, strict=True))
    unknown = unknown_id(tokenizer)
    figures = _figures(predictions, targets, nll, words, num_bytes, unknown)
    unigram = _own_unigram(model)
    guess = None if unigram is None else unigram.guess(previous, targets)
    beside = {} if guess is None else _figures(guess.predictions, targets, guess.nll, None, None, unknown)
    unigram_figures = {f"unigram_{short}": beside.get(name) for short, name in _BESIDE.items()}
    shown = ("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy")
    return {**{name: figures[name] for name in shown}, **unigram_figures, **figures}


_BESIDE = {"accuracy": "greedy_accuracy", "perplexity": "perplexity"}


def affordable_tokens(model: PreTrainedModel, plan: ScoringPlan) -> int:
    """Predictions that two busy cores make in some seven minutes, at two operations per parameter and token seen.

    A function of the model and the plan, not of the machine's speed, so that the subset is the same everywhere.
    """
    context, stride = plan.lengths(model)
    operations = 2 * model.num_parameters() * (_ROUTING if is_routed(model) else 1)
    return max(context, int(_AFFORDABLE / operations * stride / context))


def _answer_all(
    model: PreTrainedModel, documents: list[Document], context: int, stride: int, batch_size: int, progress: bool
) -> TokenAnswers:
    """Every prediction of every document."""
    sizes = [document.predictions for document in documents]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    nll = np.full(offsets[-1], np.nan)
    predictions = np.zeros(offsets[-1], dtype=np.int64)
    windows = (
        window for number, size in enumerate(sizes) for window in windows_of(size, context, stride, document=number)
    )
    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task("scoring", total=len(nll))
        for batch in _batches(windows, model, batch_size):
            rows = _rows(batch, documents)
            given, guesses = token_scores(model, rows)
            for line, window in enumerate(batch):
                inside = slice(window.first_scored - window.start, window.stop - window.start)
                scored = slice(*(offsets[window.document] + (window.first_scored, window.stop)))
                nll[scored], predictions[scored] = given[line, inside], guesses[line, inside]
                bar.advance(task, window.stop - window.first_scored)
    return TokenAnswers(
        np.repeat([document.index for document in documents], sizes),
        np.concatenate([document.ids[:-1] for document in documents]),
        np.concatenate([document.ids[1:] for document in documents]),
        predictions,
        nll,
    )


def _batches(windows: Iterable[Window], model: PreTrainedModel, batch_size: int) -> Iterator[list[Window]]:
    """Windows of similar length together, so that little is spent on padding; some hundreds are held at a time."""
    pool: list[Window] = []
    for window in windows:
        pool.append(window)
        if len(pool) == _WINDOWS_SORTED * batch_size:
            yield from _by_length(pool, model, batch_size)
            pool = []
    yield from _by_length(pool, model, batch_size)


def _by_length(pool: list[Window], model: PreTrainedModel, batch_size: int) -> Iterator[list[Window]]:
    pool = sorted(pool, key=len, reverse=True)
    while pool:
        step = rows_at_a_time(model, len(pool[0]), batch_size)
        yield pool[:step]
        pool = pool[step:]


def _rows(batch: list[Window], documents: list[Document]) -> Rows:
    ids = [documents[window.document].ids[window.start : window.stop + 1] for window in batch]
    inputs, mask = pad_rows([row[:-1] for row in ids])
    targets, _ = pad_rows([row[1:] for row in ids])
    return Rows(inputs, mask, targets)


def _length(dataset: datasets.Dataset, rows: np.ndarray) -> int:
    """Tokens of the longest block: packed blocks are all full but the last."""
    return max((len(dataset[int(row)]["input_ids"]) for row in rows[:2]), default=1)


def _blocks(dataset: datasets.Dataset, rows: np.ndarray, step: int) -> Iterator[Rows]:
    for start in range(0, len(rows), step):
        part = dataset[rows[start : start + step].tolist()]
        inputs, mask = pad_rows([np.asarray(row) for row in part["input_ids"]])
        positions, _ = pad_rows([np.asarray(row) for row in part["position_ids"]])
        targets = np.concatenate([inputs[:, 1:], np.zeros_like(inputs[:, :1])], axis=1)
        yield Rows(inputs, mask, targets, positions)


def _predicted(batch: Rows) -> np.ndarray:
    """(rows, T) whether the token after this input is one, and of the same document."""
    after = (batch.attention_mask[:, 1:] > 0) & (batch.position_ids[:, 1:] > 0)
    return np.concatenate([after, np.zeros_like(after[:, :1])], axis=1)


def _decoded(batch: Rows, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """The text of the predicted tokens and whether it ends a document, for each document of each block.

    What stands for begin, end and padding is no text.
    """
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    end = begin_and_end(tokenizer)[1]
    for ids, positions, mask in zip(batch.input_ids, batch.position_ids, batch.attention_mask, strict=True):
        ids, positions = ids[mask > 0], positions[mask > 0]
        for document in np.split(ids, np.flatnonzero(positions == 0)[1:]):
            predicted = document[1:].tolist()
            kept = [token for token in predicted if token not in marks]
            yield tokenizer.decode(kept, clean_up_tokenization_spaces=False), predicted[-1:] == [end]


def _own_unigram(model: PreTrainedModel) -> Unigram | None:
    """The guesser by the model's own training counts; None for other models, and for one that was never told them."""
    if model.config.model_type != STAGED_GENERATOR or not model.token_counts.any():
        return None
    return Unigram(model.token_counts.cpu().numpy())


def _figures(
    predictions: np.ndarray,
    targets: np.ndarray,
    nll: np.ndarray,
    words: int | None = None,
    num_bytes: int | None = None,
    unknown: int | None = None,
) -> dict:
    columns = {"predictions": predictions, "references": targets, "nll": nll}
    return figures_of(LanguageModeling, **columns, words=words, num_bytes=num_bytes, unknown_id=unknown)


def _guessed(
    guesser: NextTokenGuesser | None,
    answers: TokenAnswers,
    words: int,
    num_bytes: int,
    unknown: int | None,
    metrics: dict,
) -> dict:
    """A baseline's figures on the same tokens, under the same keys."""
    if guesser is None:
        return dict.fromkeys(metrics)
    guess = guesser.guess(answers.previous, answers.targets)
    figures = _figures(guess.predictions, answers.targets, guess.nll, words, num_bytes, unknown)
    return {**dict.fromkeys(metrics), **figures}


MAX_FITTED_TOKENS = 5_000_000  # of a bigram: about 200 MB while it is counted


logger = logging.getLogger(__name__)


def score_request(
    request: ScoreRequest, settings: GeneratorDataSettings, split: str, trained_on: GeneratorDataSettings | None = None
) -> tuple[Scores, RowReport]:
    """A causal model's figures on the documents of a source, taken verbatim, and what became of its rows.

    Args:
        trained_on: the data settings of the run that made the checkpoint, where they are known.

    Raises:
        InputError: bad checkpoint, source or setting. NonFiniteError: the model scores NaN.
    """
    model = open_model(request.checkpoint, AutoModelForCausalLM, request.device).float()
    tokenizer = open_tokenizer(request.checkpoint)
    plan = ScoringPlan(request.context, request.stride, request.batch_size, request.rows(MAX_ROWS), seed=request.seed)
    bound = bounded("max_tokens", request.max_tokens, affordable_tokens(model, plan))
    plan = replace(plan, max_tokens=bound, allow_unknown=settings.allow_unknown)
    context, stride = plan.lengths(model)
    documents = load_documents(settings, split)
    guessers = fit_guessers(model, tokenizer, trained_on)
    scores = score_documents(model, tokenizer, documents.texts, plan, guessers=guessers, progress=request.progress)
    how = {"context": context, "stride": stride, "documents": documents_of(settings), "max_tokens": plan.max_tokens}
    return replace(scores, details=how), documents.report


def fit_guessers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained_on: GeneratorDataSettings | None
) -> dict[str, NextTokenGuesser | None]:
    """Unigram and bigram of the training part: at most `MAX_FITTED_TOKENS` of it for the bigram.

    None for what cannot be fitted: the unigram where neither the model holds its counts nor its text can be read, the
    bigram where the text cannot be read.
    """
    vocab_size = model.config.vocab_size
    ids = list(_training_ids(tokenizer, trained_on))
    counts = np.bincount(np.concatenate([one[1:] for one in ids]), minlength=vocab_size) if ids else None
    if model.config.model_type == STAGED_GENERATOR and model.token_counts.any():
        counts = model.token_counts.cpu().numpy()
    return {
        "unigram": None if counts is None else Unigram(counts),
        "bigram": Bigram.fit(ids, vocab_size) if ids else None,
    }


def _training_ids(
    tokenizer: PreTrainedTokenizerBase, trained_on: GeneratorDataSettings | None
) -> Iterator[np.ndarray]:
    if trained_on is None:
        return
    try:
        texts = load_documents(trained_on, "train").texts
    except InputError as error:  # a checkpoint is often scored where its training text is not
        logger.warning("no bigram baseline: the training part cannot be read (%s)", error)
        return
    left = MAX_FITTED_TOKENS
    for ids in encode_documents(texts, tokenizer):
        yield ids[: left + 1]
        left -= len(ids)
        if left <= 0:
            return
