"""Named data sets of the Hub: where they are now, which column holds the text, under which licence.

`datasets` runs no loading scripts any more, so each entry names a repository (or a revision of it) that holds parquet
files. What `checked` says was read from stored copies of the repositories' pages; no entry was downloaded for it.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shortcut:
    """A data set of the Hub under a short name.

    Attributes:
        splits: our train, valid, test -> the repository's split. What is missing is cut from train by row hash.
        group_column: rows with the same value lie on the same side of such a cut.
        line_columns: where a row is a single line: the columns of its number and of its speaker. For dialogues the
            lines of a group with numbers that follow each other are joined, see `joined_lines`.
        is_persona_chat: the turns stand in `utterances[-1]`: its history, and as last candidate the reply.
        checked: what was verified, where, and what was not.
    """

    title: str
    hub_id: str
    config: str | None
    column: str
    splits: dict[str, str]
    licence: str
    language: str
    checked: str
    revision: str | None = None
    group_column: str | None = None
    line_columns: tuple[str, str] | None = None
    is_persona_chat: bool = False


_TREE = "https://huggingface.co/datasets"

SHORTCUTS: dict[str, Shortcut] = {
    "imdb": Shortcut(
        title="IMDB: film reviews",
        hub_id="stanfordnlp/imdb",
        config="plain_text",
        column="text",
        splits={"train": "train", "test": "test"},
        licence="other (Stanford; research, cite Maas et al. 2011)",
        language="en",
        checked=f"parquet files seen in a stored copy of {_TREE}/stanfordnlp/imdb/tree/main/plain_text; column and "
        "splits in its card. Also a split `unsupervised`.",
    ),
    "ag_news": Shortcut(
        title="AG News: headlines with their first lines",
        hub_id="fancyzhx/ag_news",
        config=None,
        column="text",
        splits={"train": "train", "test": "test"},
        licence="unknown; given for research and other non-commercial use",
        language="en",
        checked="id, data/train-00000-of-00001.parquet and data/test-00000-of-00001.parquet seen in public code that "
        "reads them; column and counts in the public catalogue entry of `ag_news`. The repository's own file list was "
        "not seen.",
    ),
    "yelp_polarity": Shortcut(
        title="Yelp polarity: reviews",
        hub_id="fancyzhx/yelp_polarity",
        config="plain_text",
        column="text",
        splits={"train": "train", "test": "test"},
        licence="Yelp Dataset Terms of Use (the repository names no licence)",
        language="en",
        checked=f"parquet files seen in a stored copy of {_TREE}/fancyzhx/yelp_polarity/tree/main/plain_text.",
    ),
    "dailydialog": Shortcut(
        title="DailyDialog: everyday conversations",
        hub_id="OpenRL/daily_dialog",
        config=None,
        column="dialog",
        splits={"train": "train", "valid": "validation", "test": "test"},
        licence="CC-BY-NC-SA-4.0 (of the original; this copy names none)",
        language="en",
        checked=f"parquet files seen in a stored copy of {_TREE}/OpenRL/daily_dialog/tree/main/data; column in public "
        "code that reads it. The authors' own li2017dailydialog/daily_dialog held a loading script only.",
    ),
    "wikitext2_raw": Shortcut(
        title="WikiText-2 raw: good Wikipedia articles",
        hub_id="Salesforce/wikitext",
        config="wikitext-2-raw-v1",
        column="text",
        splits={"train": "train", "valid": "validation", "test": "test"},
        licence="CC-BY-SA-3.0, GFDL",
        language="en",
        checked=f"parquet files seen in a stored copy of {_TREE}/Salesforce/wikitext/tree/main/wikitext-2-raw-v1.",
    ),
    "tinystories": Shortcut(
        title="TinyStories: children's stories written by GPT-3.5 and GPT-4",
        hub_id="roneneldan/TinyStories",
        config=None,
        column="text",
        splits={"train": "train", "test": "validation"},
        licence="CDLA-Sharing-1.0",
        language="en",
        checked=f"parquet files seen in a stored copy of {_TREE}/roneneldan/TinyStories/tree/main/data; column from "
        "public code that reads it.",
    ),
    "cornell_movie": Shortcut(
        title="Cornell movie dialogues: lines of 617 films",
        hub_id="spawn99/CornellMovieDialogCorpus",
        config=None,
        column="utterance",
        splits={"train": "movie_lines"},
        licence="MIT according to this copy; the corpus itself names none (cite Danescu-Niculescu-Mizil & Lee 2011)",
        language="en",
        group_column="movieID",
        line_columns=("lineID", "characterID"),
        checked=f"parquet format and split `movie_lines` seen in stored copies of {_TREE}/spawn99/"
        "CornellMovieDialogCorpus and in public code, `lineID` in a change of its card; the other columns' names "
        "could not be verified. Where a conversation ends is not in it. The older "
        "cornell-movie-dialog/cornell_movie_dialog held a loading script only.",
    ),
    "persona_chat": Shortcut(
        title="Persona-Chat: small talk of two people with given characters",
        hub_id="AlekseyKorshuk/persona-chat",
        config=None,
        column="utterances",
        splits={"train": "train", "test": "validation"},
        licence="not named by this copy (the original, in ParlAI, is given under the MIT licence)",
        language="en",
        is_persona_chat=True,
        checked=f"parquet files and features seen in stored copies of {_TREE}/AlekseyKorshuk/persona-chat; that the "
        "last candidate is the true reply is the format of ConvAI2. Each training dialogue stands twice, once for "
        "each speaker.",
    ),
}


def persona_chat_turns(utterances: Any) -> Any:
    """The whole dialogue from Persona-Chat's growing histories; what is no such list is returned as it is."""
    if not isinstance(utterances, list) or not utterances or not isinstance(utterances[-1], dict):
        return utterances
    last = utterances[-1]
    return [*(last.get("history") or []), *(last.get("candidates") or [])[-1:]]
