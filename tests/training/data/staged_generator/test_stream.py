import gzip
import json
import random
import tracemalloc
from collections import Counter
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from training.common.errors import InputError
from training.data.collators import TextCollator
from training.data.settings import GeneratorDataSettings
from training.data.staged_generator.blocks import BlockPreparation
from training.data.staged_generator.documents import load_documents
from training.data.staged_generator.framing import encode_documents
from training.data.staged_generator.stream import GeneratorStream, PackedBlocks
from training.data.streaming import Cursor, StreamCollator, take_cursor

WORDS = "the a red old big wet dog cat cow hen sees eats finds and it".split()
KINDS = ("train-0.jsonl", "train-1.txt", "train-2.jsonl.gz", "train-3.parquet", "train-4.txt.gz")
BLOCK = 24


def lines_of(count, seed=0, longest=40):
    generator = random.Random(seed)
    return [
        f"{' '.join(generator.choices(WORDS, k=generator.randrange(1, longest)))} {seed} {n}" for n in range(count)
    ]


def write_shard(path, lines):
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": lines}), path, row_group_size=70)
        return
    rows = [json.dumps({"text": line}) if ".jsonl" in path.suffixes else line for line in lines]
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write("".join(f"{row}\n" for row in rows))


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Five shards of 100 rows, one of each kind."""
    folder = tmp_path_factory.mktemp("corpus")
    for number, name in enumerate(KINDS):
        write_shard(folder / name, lines_of(100, number))
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return BlockPreparation(settings(corpus), BLOCK).prepare().tokenizer


def settings(source, **changes):
    return GeneratorDataSettings(
        data=str(source), streaming=True, **{"stream_window": 40, "max_vocab": 300, **changes}
    )


def stream_of(source, tokenizer, turn=4, seed=0, block=BLOCK, **changes):
    return GeneratorStream(settings(source, **changes), tokenizer, block, seed, turn, PackedBlocks(block, seed))


def take(stream, count):
    return list(islice(stream, count))


def content(rows):
    return [(row["pass_index"], row["input_ids"].tolist(), row["position_ids"].tolist()) for row in rows]


def through_json(cursor):
    return Cursor.from_dict(json.loads(json.dumps(cursor.to_dict())))


def test_two_passes_hold_every_training_token_twice_and_no_held_out_document(corpus, tokenizer):
    held_out = [text for split in ("valid", "test") for text in load_documents(settings(corpus), split).texts]
    everything = Counter(line for number in range(len(KINDS)) for line in lines_of(100, number))
    training = list((everything - Counter(held_out)).elements())
    assert 0 < len(held_out) < 100
    tokens = Counter(np.concatenate(list(encode_documents(training, tokenizer))).tolist())
    given: Counter = Counter()
    carried = 0
    for row in stream_of(corpus, tokenizer, turn=1):
        if row["cursor"].pass_index == 2:
            break
        given.update(row["input_ids"].tolist())
        carried = len(row["cursor"].carried)
        assert len(row["input_ids"]) == BLOCK
    twice = Counter({token: 2 * count for token, count in tokens.items()})
    assert not given - twice
    assert sum((twice - given).values()) < 3 * BLOCK  # the last window's end waits for the third pass
    assert carried < BLOCK


def test_documents_and_blocks_are_shuffled_within_a_window(tmp_path, tokenizer):
    lines = lines_of(60)
    write_shard(tmp_path / "train-0.jsonl", lines)
    write_shard(tmp_path / "valid-0.jsonl", ["a cat"])
    write_shard(tmp_path / "test-0.jsonl", ["a cat"])
    # One block holds the window: what is in it shows the order of the documents. Of small ones, the order shows.
    (one,) = take(stream_of(tmp_path, tokenizer, turn=1, block=1000, stream_window=1000), 1)
    numbers = [int(text.split()[-1]) for text in tokenizer.decode(one["input_ids"]).split("[EOS]")[:20]]
    assert numbers != sorted(numbers)
    small = take(stream_of(tmp_path, tokenizer, turn=1, block=30, stream_window=1000), 30)
    sequence = one["input_ids"].tolist()
    in_order = [sequence[place : place + 30] for place in range(0, 990, 30)]
    found = [in_order.index(block) for row in small if (block := row["input_ids"].tolist()) in in_order]
    assert len(found) > 10
    assert found != sorted(found)


@pytest.mark.parametrize("at", [4, 36, 40, 300, 500, 716])
def test_a_resumed_stream_goes_on_as_if_it_had_never_stopped(corpus, tokenizer, at):
    rows = take(stream_of(corpus, tokenizer), 1000)
    resumed = stream_of(corpus, tokenizer)
    resumed.seek(through_json(rows[at - 1]["cursor"]))
    assert content(take(resumed, 1000 - at)) == content(rows[at:])
    assert any(row["cursor"].carried for row in rows)
    assert rows[-1]["pass_index"] > 0


def test_the_order_is_a_function_of_the_seed_and_changes_with_the_pass(corpus, tokenizer):
    drawn = content(take(stream_of(corpus, tokenizer), 200))
    assert content(take(stream_of(corpus, tokenizer, turn=8), 200)) == drawn
    assert content(take(stream_of(corpus, tokenizer, seed=1), 200)) != drawn


def test_batches_are_those_of_no_worker(corpus, tokenizer):
    def batches(workers):
        stream = stream_of(corpus, tokenizer, turn=4)
        collate = StreamCollator(TextCollator(tokenizer.pad_token_id))
        loader = DataLoader(stream, batch_size=4, collate_fn=collate, num_workers=workers)
        return list(islice(loader, 30))

    ours, theirs = batches(0), batches(2)
    for one, other in zip(ours, theirs, strict=True):
        assert one["input_ids"].tolist() == other["input_ids"].tolist()
        assert one["position_ids"].tolist() == other["position_ids"].tolist()
    assert take_cursor(ours) == take_cursor(theirs)


def test_a_window_with_less_than_a_block_gives_its_tokens_to_the_next(corpus, tokenizer):
    rows = take(stream_of(corpus, tokenizer, turn=1, block=400, stream_window=2), 30)
    assert all(len(row["input_ids"]) == 400 for row in rows)
    assert content(rows) == content(take(stream_of(corpus, tokenizer, turn=4, block=400, stream_window=2), 30))


def test_documents_and_bad_rows_are_counted_over_the_first_pass(tmp_path, tokenizer):
    write_shard(tmp_path / "train-0.jsonl", lines_of(200))
    with (tmp_path / "train-0.jsonl").open("a") as file:
        file.write("no json\n")
    write_shard(tmp_path / "valid-0.jsonl", ["a cat"])
    write_shard(tmp_path / "test-0.jsonl", ["a cat"])
    stream = stream_of(tmp_path, tokenizer, turn=1)
    report = next(row["cursor"].report for row in stream if row["cursor"].pass_index == 2)
    assert (report.kept, report.num_bad, report.unit) == (200, 1, "documents")


def test_a_corpus_with_too_many_bad_rows_is_refused(tmp_path, tokenizer):
    write_shard(tmp_path / "train-0.jsonl", lines_of(20))
    with (tmp_path / "train-0.jsonl").open("a") as file:
        file.write("no json\n" * 5)
    with pytest.raises(InputError, match="max_bad_share"):
        take(stream_of(tmp_path, tokenizer, turn=1), 2000)


@pytest.mark.parametrize("documents", ["headings", "file"])
def test_a_stream_of_anything_but_rows_is_refused(corpus, documents):
    with pytest.raises(InputError, match=r"documents: got .* with streaming"):
        settings(corpus, documents=documents).validate()


def test_memory_does_not_grow_with_the_corpus(tmp_path, tokenizer):
    write_shard(tmp_path / "train-0.txt", lines_of(500) * 8)
    stream = iter(stream_of(tmp_path, tokenizer, turn=1, stream_window=100, max_bad_share=1.0))
    take(stream, 100)
    tracemalloc.start()
    take(stream, 50)
    early = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    take(stream, 3000)
    late = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert late < 2 * early + 2_000_000
