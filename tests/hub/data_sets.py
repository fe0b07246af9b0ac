"""Small data sets in the layout of the real ones (configuration, splits, columns, files), put onto the test Hub.

Run in a process of its own, it loads them through the real client, and prints what came as JSON:

    python data_sets.py SOURCE...            rows of train, valid and test; first row of each
    python data_sets.py --dialogues SOURCE...
    python data_sets.py --stream SOURCE...
    python data_sets.py --notes SOURCE...    what is said of the columns
"""

import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hub.store import MAIN, Store, file_of, is_large

Columns = dict[str, list]


def put_data_sets(store: Store) -> None:
    """All data sets below, as the repositories that the shortcuts name."""
    for repo_id, (config, splits) in LAYOUTS.items():
        put_data_set(store, repo_id, config, splits)


def put_data_set(store: Store, repo_id: str, config: str | None, splits: dict[str, Columns]) -> None:
    """A repository with a parquet file for each split, named in its card's metadata."""
    folder = config or "data"
    content = {f"{folder}/{split}-00000-of-00001.parquet": _parquet(columns) for split, columns in splits.items()}
    listed = [f"  - split: {split}\n    path: {folder}/{split}-*\n" for split in splits]
    card = f"---\nconfigs:\n- config_name: {config or 'default'}\n  data_files:\n{''.join(listed)}---\n# {repo_id}\n"
    content["README.md"] = card.encode()
    for each in content.values():
        store.put(each)
    files = {name: file_of(each, is_large(each[:512], len(each))) for name, each in content.items()}
    store.commit(store.create("datasets", repo_id, private=False), MAIN, files, [], "upload")


def _parquet(columns: Columns) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def _texts(word: str, count: int) -> list[str]:
    return [f"{word} number {n} is here ." for n in range(count)]


def _labelled(word: str, count: int) -> Columns:
    return {"text": _texts(word, count), "label": [n % 2 for n in range(count)]}


def _everyday(count: int) -> Columns:
    turns = [[f"How are you , {n} ?", "I ’ m fine .", f"Good , {n} ."] for n in range(count)]
    return {"dialog": turns, "act": [[1, 2, 3]] * count, "emotion": [[0, 0, 0]] * count}


def _films(films: int, lines: int) -> Columns:
    places = [(film, line) for film in range(films) for line in range(lines)]
    return {
        "lineID": [f"L{100 * film + line}" for film, line in places],
        "characterID": [f"u{2 * film + line % 2}" for film, line in places],
        "movieID": [f"m{film}" for film, _ in places],
        "character": ["BIANCA" if line % 2 else "CAMERON" for _, line in places],
        "utterance": [f"line {line} of film {film}" for film, line in places],
    }


def _small_talk(count: int) -> Columns:
    utterances = [
        [
            {"candidates": ["wrong", f"hello {n} ."], "history": [f"hi , i am {n} ."]},
            {"candidates": ["wrong", f"bye {n} ."], "history": [f"hi , i am {n} .", f"hello {n} .", "well ."]},
        ]
        for n in range(count)
    ]
    return {"personality": [["i like cats ."]] * count, "utterances": utterances}


# Repository -> configuration and splits.
LAYOUTS: dict[str, tuple[str | None, dict[str, Columns]]] = {
    "stanfordnlp/imdb": (
        "plain_text",
        {"train": _labelled("film", 200), "test": _labelled("play", 20), "unsupervised": _labelled("x", 3)},
    ),
    "fancyzhx/ag_news": (None, {"train": _labelled("news", 200), "test": _labelled("paper", 20)}),
    "fancyzhx/yelp_polarity": ("plain_text", {"train": _labelled("meal", 200), "test": _labelled("cook", 20)}),
    "OpenRL/daily_dialog": (None, {"train": _everyday(40), "validation": _everyday(5), "test": _everyday(6)}),
    "Salesforce/wikitext": (
        "wikitext-2-raw-v1",
        {
            "train": {"text": ["", " = Heading = \n", *_texts("word", 40)]},
            "validation": {"text": _texts("page", 9)},
            "test": {"text": _texts("leaf", 8)},
        },
    ),
    "roneneldan/TinyStories": (
        None,
        {"train": {"text": _texts("owl", 600)}, "validation": {"text": _texts("cat", 9)}},
    ),
    "spawn99/CornellMovieDialogCorpus": (None, {"movie_lines": _films(200, 4)}),
    "AlekseyKorshuk/persona-chat": (None, {"train": _small_talk(200), "validation": _small_talk(7)}),
    "user/own": (
        "tidy",
        {
            "train": {"words": _texts("own", 200), "n": list(range(200))},
            "dev": {"words": _texts("my", 100), "n": list(range(100))},
        },
    ),
}


def rows(source: str) -> dict[str, list[str]]:
    """The rows of every split."""
    from training.data.settings import DataSettings
    from training.data.sources.locate import load_rows

    return {
        split: load_rows(DataSettings(data=source), split).dataset["text"][:] for split in ("train", "valid", "test")
    }


def dialogues(source: str) -> dict[str, list[list[str]]]:
    """The dialogues of every split."""
    from training.data.dialogue_jepa.dialogues import load_dialogues
    from training.data.settings import DialogueDataSettings

    settings = DialogueDataSettings(data=source)
    return {split: load_dialogues(settings, split).turns for split in ("train", "valid", "test")}


def streamed(source: str) -> dict[str, Any]:
    """The rows of every split that can be streamed, and those of train from the tenth on."""
    from training.data.settings import DataSettings
    from training.data.sources.shards import find_shards

    def texts(found: Iterator) -> list[str]:
        return [text for row, _ in found for text in row.texts]

    shards = find_shards(DataSettings(data=source, streaming=True))
    whole = {split: [text for shard in there for text in texts(shard.rows())] for split, there in shards.items()}
    first = shards["train"][0]
    position = [after for _, after in first.rows()][9]
    return {**whole, "from the tenth on": texts(first.rows(position))}


def notes(source: str) -> list[str]:
    """What is said of the column that is read: of the data set as a whole, and streamed."""
    from training.data.settings import DataSettings
    from training.data.sources.locate import load_rows

    found = (load_rows(DataSettings(data=source, streaming=way), "train") for way in (False, True))
    return [note for rows in found for note in rows.report.notes if "reads the column" in note]


WAYS: dict[str, Callable[[str], Any]] = {
    "--rows": rows,
    "--dialogues": dialogues,
    "--stream": streamed,
    "--notes": notes,
}

if __name__ == "__main__":
    way, loaded = "--rows", {}
    for argument in sys.argv[1:]:
        if argument in WAYS:
            way = argument
            continue
        try:
            loaded[f"{way} {argument}"] = WAYS[way](argument)
        except ValueError as error:
            loaded[f"{way} {argument}"] = str(error)
    print(json.dumps(loaded))
