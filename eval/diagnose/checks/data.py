"""Group `data`: what the model is shown. Unknown tokens, repeated rows, validation rows inside training; and of a
Trainer's batches, what its loss counts.
"""

from collections.abc import Sequence
from typing import Any

import datasets

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import check
from eval.diagnose.checks.data_batches import padding_in_loss, special_targets, visible_positions
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.sample import spread_over
from eval.diagnose.subject.subject import Subject
from training.data.text_overlap import Words, repeated, standing_in
from training.data.unknown import UNKNOWN_NOTE, UNKNOWN_REFUSED, unknown_id

_HELD_OUT = ("valid", "test")


@check(
    "data.tokens",
    f"under {UNKNOWN_NOTE:.0%} unknown tokens, and at most {limits.TOKENS_PER_WORD:g} tokens for a word",
    needs="texts",
)
def tokens(subject: Subject, rule: Rule) -> Finding:
    """How many tokens there are, and how many of them the tokenizer does not know."""
    tokenizer = subject.tokenizer
    assert tokenizer is not None
    given = [text for part in subject.parts.values() for text in part]
    places = spread_over(len(given), limits.TEXTS_TO_TOKENIZE)
    texts = [given[place][: limits.CHARACTERS_TO_TOKENIZE] for place in places]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    count = sum(map(len, encoded))
    words = sum(len(text.split()) for text in texts)
    unknown = unknown_id(tokenizer)
    share = sum(row.count(unknown) for row in encoded) / count if count else 0.0
    evidence = {
        "texts": {part: len(found) for part, found in subject.parts.items()},
        "tokens_looked_at": count,
        "tokens_per_word": count / words if words else None,
        "unknown_share": share,
    }
    if words and not count:
        return rule.failed(
            evidence,
            "the tokenizer makes no token of the text: it drops what it does not know, as one without an unknown "
            "token does, and was made for other text",
            "take the tokenizer that the model was trained with, or train one on this text",
        )
    if share > UNKNOWN_NOTE:
        return rule.found(
            FAIL if share > UNKNOWN_REFUSED else NOTE,
            evidence,
            f"{share:.0%} of the tokens are unknown to the tokenizer: it was made for other text (language, letter "
            "case, marks), or its vocabulary is too small",
            "take the tokenizer that the model was trained with, train one on this text, or enlarge its vocabulary",
        )
    if words and count / words > limits.TOKENS_PER_WORD:
        return rule.noted(
            evidence,
            "words fall into many pieces: the tokenizer works by letters or bytes, or was made for another language",
            "train a tokenizer on this text if that is not intended: rows hold few words, and learning is slow",
        )
    return rule.passed(evidence)


@check(
    "data.duplicates",
    f"under {limits.REPEATED_NOTE:.0%} of the words stand in rows that were there before (rows of "
    f"{limits.SHORTEST_ROW} words or more)",
    needs="texts",
)
def duplicates(subject: Subject, rule: Rule) -> list[Finding]:
    """Rows that stand more than once in the part that the model learns from."""
    # People say the same to each other again and again, and the corpora keep it: a thing to know, and no fault.
    worst = NOTE if subject.traits.dialogues else FAIL
    return [_judge_repeated(rule, where, parts, worst) for where, parts in _sources(subject).items()]


@check(
    "data.overlap",
    f"under {limits.OVERLAP_NOTE:.0%} of the held-out words stand in rows of the training part, with the same words "
    f"or with {limits.NEAR_SHARE:.0%} of their {limits.NGRAM}-grams",
    needs="texts",
)
def overlap(subject: Subject, rule: Rule) -> list[Finding]:
    """Held-out rows that the model was trained on."""
    findings: list[Finding] = []
    for where, parts in _sources(subject).items():
        held_out = [name for name in _HELD_OUT if name in parts]
        if "train" in parts and held_out:
            train = Words.of(parts["train"], limits.WORDS_TO_COMPARE)
            compared = len(train.ends) / len(parts["train"])
            findings += [_judge_overlap(rule, f"{name} of {where}", parts[name], train, compared) for name in held_out]
    return findings or [rule.passed({"compared": "no training part with a held-out one"})]


CHECKS = (tokens, duplicates, overlap, padding_in_loss, visible_positions, special_targets)


def _judge_repeated(rule: Rule, where: str, parts: dict[str, list[str]], worst: str) -> Finding:
    name = next((name for name in ("train", "all") if name in parts), next(iter(parts)))
    texts = parts[name]
    found = repeated(Words.of(texts, limits.WORDS_TO_COMPARE), limits.SHORTEST_ROW)
    evidence = {
        "part": f"{name} of {where}",
        "rows": found.texts,
        "words": found.words,
        "repeated_share": found.exact,
        "example": None if found.example is None else texts[found.example][:80],
    }
    if found.exact < limits.REPEATED_NOTE:
        return rule.passed(evidence)
    return rule.found(
        worst if found.exact >= limits.REPEATED_FAIL else NOTE,
        evidence,
        f"{found.exact:.0%} of the words stand in rows that are there more than once: a file read twice, or a source "
        "that repeats itself; the model learns these rows by heart, and a split by rows puts them on both sides",
        "keep one of each row before splitting the data (datasets: hash the text and filter), and look at the source",
    )


def _judge_overlap(rule: Rule, name: str, texts: Sequence[str], train: Words, compared: float) -> Finding:
    """`compared` is the share of the training rows that was looked at."""
    some = [texts[place] for place in spread_over(len(texts), limits.HELD_OUT_ROWS)]
    words = Words.of(some, limits.WORDS_TO_COMPARE)
    found = standing_in(words, train, limits.SHORTEST_ROW, limits.NGRAM, limits.NEAR_SHARE)
    share = min(found.near / compared, 1.0)
    evidence = {
        "part": name,
        "rows": found.texts,
        "rows_found": found.hits,
        "exact_share": found.exact,
        "near_share": found.near,
        "share_of_training_rows_compared": compared,
        "example": None if found.example is None else some[found.example][:80],
    }
    if share < limits.OVERLAP_NOTE or found.hits < limits.OVERLAPPING_ROWS:
        return rule.passed(evidence)
    return rule.found(
        FAIL if share >= limits.OVERLAP_FAIL else NOTE,
        evidence,
        f"{share:.0%} of the words of the {name} stand in rows of the training part: its figures tell what was learnt "
        "by heart, not what was understood",
        "split by document and not by row, drop repeated rows before the split, and score again",
    )


def _sources(subject: Subject) -> dict[str, dict[str, list[str]]]:
    """Texts by part: of the data at hand, of the run where it was trained on another, and of the Trainer's data sets.

    A file without parts holds the training rows too, so it is never compared with them.
    """
    found = {"the data": subject.parts}
    trained_on = None if subject.record is None else subject.record.train_texts()
    if trained_on and subject.record is not None and trained_on[:50] != subject.parts.get("train", [])[:50]:
        held_out = {name: texts for name, texts in subject.parts.items() if name in _HELD_OUT}
        found["the run"] = {"train": trained_on, **({"valid": subject.record.valid_texts() or []} | held_out)}
    if subject.trainer is not None:
        sets = {"train": subject.trainer.train_dataset, "valid": subject.trainer.eval_dataset}
        read = {name: _decoded(subject, rows) for name, rows in sets.items() if _has_ids(rows)}
        found["the Trainer"] = read
    return {where: kept for where, parts in found.items() if (kept := {k: v for k, v in parts.items() if v})}


def _has_ids(rows: object) -> bool:
    """Whether rows can be read by their number and hold token ids."""
    if isinstance(rows, datasets.Dataset):
        return "input_ids" in rows.column_names
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and "input_ids" in rows[0]


def _decoded(subject: Subject, rows: Any) -> list[str]:
    """Texts of the first rows."""
    assert subject.tokenizer is not None
    count = min(len(rows), limits.ROWS_TO_DECODE)
    return subject.tokenizer.batch_decode([rows[at]["input_ids"] for at in range(count)], skip_special_tokens=True)
