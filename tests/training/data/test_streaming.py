import gzip
import json
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import DataLoader

from training.common.errors import InputError
from training.data.collators import TextCollator
from training.data.settings import DataSettings, GeneratorDataSettings
from training.data.sources import shards as shards_module
from training.data.sources.locate import load_rows
from training.data.sources.readers import open_file
from training.data.sources.shards import find_shards
from training.data.staged_generator.documents import load_documents
from training.data.streaming import Cursor, LikeLengths, StreamCollator, TextStream, take_cursor
from training.data.text_jepa.rows import RowPreparation

WORDS = "the a red old big wet dog cat cow hen sees eats finds and it".split()
KINDS = ("train-0.jsonl", "train-1.txt", "train-2.jsonl.gz", "train-3.parquet", "train-4.txt.gz")

# Without the time in it, which would be part of a test's name.
CUT_GZIP = gzip.compress(b'{"text": "the red dog"}\n' * 999, mtime=0)[:-20]


def prepare(settings, length):
    return RowPreparation(settings, length).prepare()


def lines_of(count, seed=0):
    generator = random.Random(seed)
    return [f"{' '.join(generator.choices(WORDS, k=generator.randrange(2, 12)))} {n}" for n in range(count)]


def write_shard(path, lines):
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"n": list(range(len(lines))), "text": lines}), path, row_group_size=70)
        return
    rows = [
        json.dumps({"n": 1, "text": line}, ensure_ascii=False) if ".jsonl" in path.suffixes else line for line in lines
    ]
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write("".join(f"{row}\n" for row in rows))


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Five shards of 150 rows, one of each kind."""
    folder = tmp_path_factory.mktemp("corpus")
    for number, name in enumerate(KINDS):
        write_shard(folder / name, lines_of(150, number))
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return prepare(settings(corpus), 16).tokenizer


def settings(source, **changes):
    values = {"data": str(source), "streaming": True, "stream_window": 40, "min_words": 1, **changes}
    return DataSettings(**values)


def stream_of(source, tokenizer, turn=4, seed=0, arrange=None, max_length=32, **changes):
    return TextStream(settings(source, **changes), tokenizer, max_length, seed, turn, arrange or LikeLengths())


def take(stream, count):
    return list(islice(stream, count))


def content(rows):
    return [(row["row_id"], row["pass_index"], row["input_ids"].tolist()) for row in rows]


def through_json(cursor):
    return Cursor.from_dict(json.loads(json.dumps(cursor.to_dict())))


def texts_of(rows, tokenizer):
    return [tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in rows]


def test_a_pass_holds_every_training_row_once_and_no_held_out_one(corpus, tokenizer):
    held_out = [
        text for split in ("valid", "test") for text in load_rows(settings(corpus), split).dataset["text"]
    ]  # the sample holds all of this small corpus
    count = 150 * len(KINDS) - len(held_out)
    assert len(held_out) > 30
    first, second = np.array_split(np.array(take(stream_of(corpus, tokenizer, turn=1), 2 * count), dtype=object), 2)
    assert {row["pass_index"] for row in first} == {0}
    assert {row["pass_index"] for row in second} == {1}
    ids = [[row["row_id"] for row in rows] for rows in (first, second)]
    assert sorted(ids[0]) == sorted(ids[1])
    assert ids[0] != ids[1]
    assert len(set(ids[0])) == count
    everything = Counter(line for number in range(len(KINDS)) for line in lines_of(150, number))
    assert Counter(texts_of(first, tokenizer)) == everything - Counter(held_out)


def test_shards_come_in_another_order_in_every_pass_and_rows_are_shuffled_within_windows(corpus, tokenizer):
    rows = take(stream_of(corpus, tokenizer, turn=1, stream_window=50), 2000)
    places = [(row["pass_index"], row["cursor"].shard) for row in rows]
    assert places == sorted(places)
    numbers = [int(text.split()[-1]) for text in texts_of(rows, tokenizer)][:150]
    windows = np.array_split(np.array(numbers[:130]), 3)
    assert all(sorted(window) != list(window) for window in windows)
    assert max(numbers[:40]) < 50
    orders = {
        tuple(dict.fromkeys(row["input_ids"][1] for row in rows if row["pass_index"] == number)) for number in (0, 1)
    }
    assert len(orders) == 2


def test_passes_are_counted_by_shards_and_places_in_them(corpus, tokenizer):
    stream = stream_of(corpus, tokenizer, turn=1)
    rows = take(stream, 1500)
    passes = [stream.passes(row["cursor"]) for row in rows]
    assert passes == sorted(passes)
    assert passes[0] == 0
    assert 2 < passes[-1] < 3
    assert max(b - a for a, b in pairwise(passes)) < 1.01 / len(KINDS)
    assert len(set(passes)) > 20


def test_the_order_is_a_function_of_the_seed(corpus, tokenizer):
    drawn = content(take(stream_of(corpus, tokenizer), 400))
    assert content(take(stream_of(corpus, tokenizer), 400)) == drawn
    assert content(take(stream_of(corpus, tokenizer, turn=16), 400)) == drawn
    assert content(take(stream_of(corpus, tokenizer, seed=1), 400)) != drawn


@pytest.mark.parametrize("arrange", [LikeLengths(), LikeLengths(8)], ids=["plain", "grouped"])
@pytest.mark.parametrize("at", [4, 36, 40, 300, 699, 720, 1404])
def test_a_resumed_stream_goes_on_as_if_it_had_never_stopped(corpus, tokenizer, arrange, at):
    rows = take(stream_of(corpus, tokenizer, arrange=arrange), 1600)
    at -= at % 4
    resumed = stream_of(corpus, tokenizer, arrange=arrange)
    resumed.seek(through_json(rows[at - 1]["cursor"]))
    again = take(resumed, 1600 - at)
    assert content(again) == content(rows[at:])
    assert [row["cursor"] for row in again] == [row["cursor"] for row in rows[at:]]


@pytest.mark.parametrize("kind", KINDS[:3:2] + KINDS[3:4])
def test_every_position_of_a_shard_leads_to_the_row_after_it(corpus, kind):
    shard = next(shard for shard in find_shards(settings(corpus))["train"] if shard.name == kind)
    rows = list(shard.rows())
    for number in (0, 1, 69, 70, 71, 148, 149):
        row, position = rows[number]
        assert list(shard.rows(position, row.place)) == rows[number + 1 :]


def test_positions_count_the_bytes_of_marks_line_ends_and_wide_characters(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufefffirst é line\r\n\r\nsecond 🙂 line\nlast line".encode())
    (shard,) = find_shards(settings(path))["train"]
    rows = list(shard.rows())
    assert [row.texts for row, _ in rows] == [("first é line",), (), ("second 🙂 line",), ("last line",)]
    for row, position in rows:
        assert list(shard.rows(position, row.place)) == rows[row.place :]


ODD = [
    "the red dog",
    "a\u2028b\u2029c\x85d\x0bsees",
    "\u05e9\u05dc\u05d5\u05dd \U0001f600",
    "nul\0byte",
    "",
    "the last cat",
]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_file_read_whole_has_the_rows_of_its_shard(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    write_shard(path, ODD)
    if kind != "parquet":
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\xff\r\n\r\n")
    (shard,) = find_shards(settings(path))["train"]
    streamed = [row for row, _ in shard.rows()]
    assert [row.texts for row in streamed][:3] == [(text,) for text in ODD[:3]]
    assert [row._replace(where=None) for row in open_file(path, DataSettings()).read()] == streamed
    assert next(row.problem for row in streamed if row.problem) == "NUL byte"
    whole, sampled = (load_rows(DataSettings(data=str(path), streaming=on, max_bad_share=1.0), "all") for on in (0, 1))
    assert whole.dataset[:] == sampled.dataset[:]
    assert whole.report.bad_examples == sampled.report.bad_examples
    assert len(whole.report.bad_examples) == (1 if kind == "parquet" else 2)
    assert f"{path} line 4: NUL byte" in whole.report.bad_examples


def read_batches(stream, workers, count):
    loader = DataLoader(
        stream, batch_size=stream.turn, num_workers=workers, collate_fn=StreamCollator(TextCollator(0))
    )
    return list(islice(loader, count))


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_neither_batches_nor_cursors(corpus, tokenizer, workers):
    alone = read_batches(stream_of(corpus, tokenizer), 0, 30)
    helped = read_batches(stream_of(corpus, tokenizer), workers, 30)
    for mine, theirs in zip(alone, helped, strict=True):
        assert mine["row_id"].tolist() == theirs["row_id"].tolist()
        assert mine["cursor"] == theirs["cursor"]


def test_two_processes_get_the_batches_of_one_that_accumulates_two(corpus, tokenizer):
    alone = take(stream_of(corpus, tokenizer, turn=4, arrange=LikeLengths(8)), 160)
    both = [
        take(
            IterableDatasetShard(
                stream_of(corpus, tokenizer, turn=8, arrange=LikeLengths(8)),
                batch_size=4,
                num_processes=2,
                process_index=rank,
            ),
            80,
        )
        for rank in (0, 1)
    ]
    joined = [row for start in range(0, 80, 4) for rank in (0, 1) for row in both[rank][start : start + 4]]
    assert content(joined) == content(alone)
    cursors = [[row["cursor"] for row in rows] for rows in both]
    assert cursors[0] == cursors[1]  # whichever process saves
    assert cursors[0][3::4] == [row["cursor"] for row in alone[7::8]]


def test_groups_hold_rows_of_like_length_also_across_windows(corpus, tokenizer):
    plain, grouped = (take(stream_of(corpus, tokenizer, arrange=LikeLengths(size)), 640) for size in (None, 4))

    def padding(rows):
        lengths = np.array([len(row["input_ids"]) for row in rows]).reshape(-1, 4)
        return 1 - lengths.sum() / (4 * lengths.max(1)).sum()

    assert padding(grouped) < 0.4 * padding(plain)
    assert Counter(row["row_id"] for row in grouped[:600]) != Counter(row["row_id"] for row in grouped[40:640])
    assert len({row["row_id"] for row in grouped}) == len({row["row_id"] for row in plain}) == 640


@dataclass(frozen=True)
class Blocks:
    """Packs tokens into blocks of one length, as a causal model wants them; what is left over is carried on."""

    length: int

    def __call__(self, window, order, pass_index, carried):
        tokens = [*carried, *(int(t) for row in order for t in window[int(row), pass_index]["input_ids"])]
        ends = len(tokens) // self.length * self.length
        blocks = np.array(tokens[:ends]).reshape(-1, self.length)
        rows = [{"input_ids": block, "row_id": n, "pass_index": pass_index} for n, block in enumerate(blocks)]
        return rows, tuple(tokens[ends:])


def test_an_arrangement_may_pack_blocks_and_what_it_carries_over_survives_a_resume(corpus, tokenizer):
    whole = take(stream_of(corpus, tokenizer, turn=2, arrange=Blocks(11)), 300)
    packed = np.concatenate([row["input_ids"] for row in whole])
    plain = np.concatenate([row["input_ids"] for row in take(stream_of(corpus, tokenizer), 600)])
    assert packed[: 11 * 100].tolist() == plain[: 11 * 100].tolist()
    for at in (20, 150, 222):
        assert whole[at - 1]["cursor"].carried or at < 30
        resumed = stream_of(corpus, tokenizer, turn=2, arrange=Blocks(11))
        resumed.seek(through_json(whole[at - 1]["cursor"]))
        assert content(take(resumed, 300 - at)) == content(whole[at:])


def test_row_ids_depend_on_text_shard_and_place_not_on_where_the_folder_lies(corpus, tokenizer, tmp_path):
    moved = shutil.copytree(corpus, tmp_path / "elsewhere")
    assert content(take(stream_of(moved, tokenizer), 99)) == content(take(stream_of(corpus, tokenizer), 99))
    twice = tmp_path / "twice.txt"
    twice.write_text("the red dog\nthe red dog\nthe red dog\n")
    rows = take(stream_of(twice, tokenizer, turn=1), 6)
    assert len({row["row_id"] for row in rows}) == 3


def test_long_rows_become_windows_or_are_cut(tmp_path, tokenizer):
    path = tmp_path / "long.txt"
    path.write_text(f"{' '.join(WORDS * 3)}\n")
    windows = take(stream_of(path, tokenizer, turn=1, max_length=16), 20)
    assert sum(row["pass_index"] == 0 for row in windows) == 4
    assert len({row["row_id"] for row in windows if row["pass_index"] == 0}) == 4
    cut = take(stream_of(path, tokenizer, turn=1, max_length=16, long_rows="cut"), 3)
    assert [row["pass_index"] for row in cut] == [0, 1, 2]
    assert all(len(row["input_ids"]) <= 16 for row in windows + cut)


def test_shards_of_valid_and_test_are_used_where_they_are(tmp_path, tokenizer):
    for name in ("train-a.txt", "train_b.txt", "validation-0.txt", "test.txt"):
        (tmp_path / name).write_text("\n".join(f"{name} row {n}" for n in range(120)))
    parts = {split: set(load_rows(settings(tmp_path), split).dataset["text"]) for split in ("train", "valid", "test")}
    assert {split: len(texts) for split, texts in parts.items()} == {"train": 240, "valid": 120, "test": 120}
    rows = take(stream_of(tmp_path, tokenizer, turn=1), 240)
    assert len({row["row_id"] for row in rows}) == 240
    assert {row["pass_index"] for row in rows} == {0}


def test_a_bounded_number_of_rows_is_read_beforehand_evenly_over_the_shards(tmp_path, monkeypatch, caplog):
    for number in range(6):
        (tmp_path / f"train-{number}.txt").write_text("\n".join(f"shard{number} row {n}" for n in range(3000)))
    ready = prepare(settings(tmp_path, stream_sample=2000), 16)
    read = [load_rows(settings(tmp_path, stream_sample=2000), split) for split in ("train", "valid", "test")]
    assert sum(rows.report.read for rows in read) == 2000
    seen = {text.split()[0] for rows in read for text in rows.dataset["text"]}
    assert len(seen) == 4
    assert len(ready.train) == read[0].report.kept
    assert any("read beforehand" in note for note in read[0].report.notes)


def test_a_pattern_or_a_folder_of_unnamed_files_is_a_training_corpus(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("part-1.jsonl", "part-2.jsonl", "sub/part-3.jsonl"):
        write_shard(tmp_path / name, lines_of(9))
    assert [shard.name for shard in find_shards(settings(tmp_path))["train"]] == ["part-1.jsonl", "part-2.jsonl"]
    found = find_shards(settings(tmp_path / "**" / "part-*.jsonl"))["train"]
    assert [shard.name for shard in found] == ["part-1.jsonl", "part-2.jsonl", "sub/part-3.jsonl"]


def test_other_content_is_another_source(corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "copy")
    before = prepare(settings(corpus), 16).data_hash
    assert prepare(settings(copy), 16).data_hash == before
    assert prepare(settings(copy, stream_window=50), 16).data_hash == before  # another run, the same rows
    (copy / "train-1.txt").write_text("\n".join(lines_of(150, 77)))
    assert prepare(settings(copy), 16).data_hash != before


# ---- bad rows ----


def broken_corpus(folder, bad, good=500):
    rows = [json.dumps({"text": line}) for line in lines_of(good)]
    for number in range(bad):
        rows[10 * number + 3] = ('{"text": 5}', '{"other": "x"}', "{broken", '{"text": "a\\u0000b"}')[number % 4]
    (folder / "train-0.jsonl").write_text("\n".join(rows))
    return folder


def test_bad_rows_are_counted_by_reason_named_with_their_line_and_survive_a_resume(tmp_path, tokenizer):
    stream = stream_of(broken_corpus(tmp_path, 4), tokenizer)
    rows = take(stream, 1200)
    middle = next(row["cursor"] for row in rows if row["cursor"].line >= 200)
    assert middle.report.num_bad == 4
    resumed = stream_of(tmp_path, tokenizer)
    resumed.seek(through_json(middle))
    report = take(resumed, 1000)[-1]["cursor"].report
    assert report == rows[-1]["cursor"].report
    assert report.read == 500 - len(load_rows(settings(tmp_path), "valid").dataset) - len(
        load_rows(settings(tmp_path), "test").dataset
    )
    assert report.bad == {
        "column 'text' holds int, not text": 1,
        "column 'text' is missing or null": 1,
        "not valid JSON": 1,
        "NUL byte": 1,
    }
    assert report.bad_examples[0] == f"{tmp_path}/train-0.jsonl line 4: column 'text' holds int, not text"


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_the_allowed_share_of_bad_rows_stops_the_run_in_one_line(tmp_path, tokenizer, workers):
    stream = stream_of(broken_corpus(tmp_path, 20), tokenizer)
    with pytest.raises(InputError, match=r"20 of [0-9]+ rows of .* cannot be used .*line 4") as caught:
        take_cursor(read_batches(stream, workers, 200))
    assert "\n" not in str(caught.value)
    assert take(stream_of(tmp_path, tokenizer, max_bad_share=0.1), 1200)


def test_a_line_longer_than_memory_is_a_bad_row_of_which_little_is_held(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(shards_module, "_LONGEST_LINE", 4096)
    path = tmp_path / "train.txt"
    path.write_text("\n".join([*lines_of(300), "x" * 20_000, "the last row", "y" * 9000]))
    (shard,) = find_shards(settings(path))["train"]
    rows = list(shard.rows())
    assert [row.place for row, _ in rows if row.problem] == [301, 303]
    assert rows[301][0].texts == ("the last row",)
    assert list(shard.rows(rows[300][1], 301)) == rows[301:]


@pytest.mark.parametrize(
    ("name", "bytes_", "changes", "said"),
    [
        ("a.csv", b"text\nhello", {}, "cannot be streamed; use .txt"),
        ("train-0.txt", b"", {}, r"is empty \(0 bytes\)"),
        ("train-0.parquet", b"PAR1 no more", {}, "is no whole parquet file"),
        ("train-0.jsonl.gz", b"no gzip", {}, "after line 0"),
        ("train-0.jsonl.gz", CUT_GZIP, {}, "after line [0-9]+"),
        ("train-0.jsonl", b'{"a": "x", "b": "y"}\n', {}, "choose with --text_column among: a"),
        ("train-0.jsonl", b'{"text": "x y"}\n', {"text_column": "body"}, "no column 'body'"),
        ("train-0.jsonl", b'{"text": "x y"}\n', {"split": "valid"}, "has no valid shards; it has train"),
        ("train-0.txt", b"\n\n\n", {}, "no usable row"),
    ],
)
def test_a_fault_of_a_shard_is_one_line_that_names_it(tmp_path, name, bytes_, changes, said):
    (tmp_path / name).write_bytes(bytes_)
    source = tmp_path / name if name == "a.csv" else tmp_path
    with pytest.raises(InputError, match=said) as caught:
        load_rows(settings(source, **changes), "train")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "builtin:sotu"}, "leave streaming out"),
        ({"data": "no/such-*.txt"}, "is no file, folder or pattern"),
        ({"data": "x.txt", "max_rows": 5}, "max_rows: got 5 with streaming"),
        ({"data": "x.txt", "stream_window": 0}, "stream_window: got 0"),
    ],
)
def test_what_cannot_be_streamed_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        load_rows(DataSettings(streaming=True, **changes), "train")


def test_of_streamed_text_no_column_can_be_asked_for(tmp_path):
    (tmp_path / "train-0.txt").write_text("one two\n")
    with pytest.raises(InputError, match=r"text_column: 'nope' was asked for, but .*train-0\.txt is a text file"):
        find_shards(settings(tmp_path, text_column="nope"))


def test_a_pass_without_a_row_to_train_on_ends_and_does_not_turn_forever(tmp_path, tokenizer):
    (tmp_path / "train-0.txt").write_text("unheard words only\n" * 9)
    with pytest.raises(InputError, match="no row to train on"):
        take(stream_of(tmp_path, tokenizer), 4)


# ---- Hub ----


@pytest.fixture(scope="module", params=["parquet", "jsonl"])
def repository(request, tmp_path_factory):
    """A data set repository as `datasets` finds it, by path instead of by id: three shards and a validation split."""
    folder = tmp_path_factory.mktemp("repository")
    for number in range(3):
        write_shard(folder / f"train-0000{number}-of-00003.{request.param}", lines_of(150, number))
    write_shard(folder / f"validation-00000-of-00001.{request.param}", lines_of(30, 9))
    return folder


def test_a_hub_data_set_streams_by_shards_and_resumes_by_cursor(repository, tokenizer):
    source = f"hub:{repository}"
    assert {split: len(shards) for split, shards in find_shards(settings(source)).items()} == {"train": 3, "valid": 1}
    whole = take(stream_of(source, tokenizer, turn=2), 900)
    first = [row["row_id"] for row in whole if row["pass_index"] == 0]
    assert len(set(first)) == len(first) == load_rows(settings(source), "train").report.kept
    for at in (10, 200, 500):
        resumed = stream_of(source, tokenizer, turn=2)
        resumed.seek(through_json(whole[at - 1]["cursor"]))
        assert content(take(resumed, 900 - at)) == content(whole[at:])


def test_a_hub_data_set_is_prepared_and_its_version_counts(repository):
    ready = prepare(settings(f"hub:{repository}"), 16)
    assert len(ready.valid) == 30
    assert prepare(settings(f"hub:{repository}"), 16).data_hash == ready.data_hash


def test_a_hub_data_set_out_of_reach_is_one_line():
    with pytest.raises(InputError, match="hub:stanfordnlp/imdb:plain_text could not be loaded") as caught:
        load_rows(settings("hub:imdb"), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train-0.jsonl", "train-0.parquet"])
def test_the_column_that_is_guessed_is_said_of_a_stream_as_of_a_file(tmp_path, name):
    lines = lines_of(60)
    (tmp_path / "as").mkdir()
    path = tmp_path / "as" / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"n": [1] * 60, "body": lines}), path)
    else:
        path.write_text("".join(json.dumps({"n": 1, "body": line}) + "\n" for line in lines))
    notes = [load_rows(DataSettings(data=str(where), streaming=way), "train").report.notes for where, way in
             ((path, False), (path.parent, True))]  # fmt: skip
    assert notes[0][-1] == notes[1][-1] == f"{name}: reads the column 'body' of n, body"


def test_what_a_document_of_a_stream_is_is_said(tmp_path):
    write_shard(tmp_path / "train-0.txt", lines_of(60))
    found = load_documents(GeneratorDataSettings(data=str(tmp_path), streaming=True), "train")
    assert found.report.notes[-1] == "a document is a row"
