"""Streaming: memory that does not grow with the corpus, and resumes that are exact and as quick late as early."""

import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from tests.faults.harness import before_step, die, train
from training.data.settings import DataSettings
from training.data.streaming import LikeLengths, TextStream
from training.data.text_jepa.rows import RowPreparation
from training.run_folder.checkpoints import list_checkpoints

WORDS = "the a red old big wet dog cat cow hen sees eats finds and it".split()
MEBIBYTE = 2**20

RECIPE = """\
family: text_jepa
model:
  {{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 16, dropout: 0.1}}
data: {{data: {data}, streaming: true, stream_window: 32, max_vocab: 60, min_words: 1}}
loss: {{num_negatives: 8}}
training:
  {{max_steps: 50, warmup_steps: 2, per_device_train_batch_size: 4, gradient_accumulation_steps: 2,
   learning_rate: 3e-3, logging_steps: 4, save_steps: 10}}
evaluation: {{eval_steps: 25, eval_rows: 10, milestones: [], final_score: false}}
"""


class Read(NamedTuple):
    """What was read of text files: lines that became rows, and bytes, of which there may be more."""

    lines: int
    size: int


READ_A_PASS = """\
import sys
from pathlib import Path

from training.data.settings import DataSettings
from training.data.streaming import LikeLengths, TextStream
from training.data.text_jepa.rows import RowPreparation

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

imported = peak()
settings = DataSettings(data=sys.argv[1], streaming=True, stream_sample=500, stream_window=int(sys.argv[2]))
tokenizer = RowPreparation(settings, 64).prepare().tokenizer
rows = 0
for row in TextStream(settings, tokenizer, 64, seed=0, turn=64, arrange=LikeLengths(64)):
    if row["pass_index"] > 0:
        break
    rows += 1
print(peak() - imported, rows)
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))


def write_corpus(folder: Path, shards: int, mebibytes: int) -> Path:
    """Shards of jsonl of so many MiB each; the rows of a MiB are repeated with other numbers."""
    generator = random.Random(0)
    folder.mkdir()
    rows = [" ".join(generator.choices(WORDS, k=generator.randrange(60, 180))) for _ in range(2000)]
    block = "".join(json.dumps({"text": f"%d {row}"}) + "\n" for row in rows)[:MEBIBYTE]
    block = block[: block.rindex("\n") + 1]
    count = block.count("%d")
    for shard in range(shards):
        with (folder / f"train-{shard:03}.jsonl").open("w") as file:
            for number in range(mebibytes):
                file.write(block % ((shard * mebibytes + number,) * count))
    return folder


def peak_above_imports(corpus: Path, window: int) -> int:
    """Bytes that a process holds at most while it reads a whole pass, above those after its imports."""
    done = subprocess.run(
        [sys.executable, "-c", READ_A_PASS, str(corpus), str(window)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    peak, rows = map(int, done.stdout.split()[-2:])
    assert rows > 1000 * sum(path.stat().st_size for path in corpus.iterdir()) / MEBIBYTE
    return peak


def most_held_in_a_pass(corpus: Path) -> int:
    """Bytes of Python's and of Arrow's that are held at most while a pass is read, above those before it."""
    settings = DataSettings(data=str(corpus), streaming=True, stream_sample=500, stream_window=128)
    stream = TextStream(
        settings, RowPreparation(settings, 64).prepare().tokenizer, 64, seed=0, turn=64, arrange=LikeLengths(64)
    )
    arrow_before = arrow_most = pa.total_allocated_bytes()
    tracemalloc.start()
    for row in stream:
        arrow_most = max(arrow_most, pa.total_allocated_bytes())
        if row["pass_index"] > 0:
            break
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most + arrow_most - arrow_before


def test_a_pass_of_a_larger_corpus_holds_no_more(tmp_path: Path) -> None:
    small, large = (write_corpus(tmp_path / f"{size}", shards=1, mebibytes=size) for size in (1, 4))
    most_held_in_a_pass(small)  # what is made once is made here
    assert most_held_in_a_pass(large) - most_held_in_a_pass(small) < MEBIBYTE


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system keeps no peak of a process's memory")
def test_memory_of_the_process_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    corpora = [write_corpus(tmp_path / f"{size}", shards=1, mebibytes=size) for size in (20, 200)]
    peaks = [peak_above_imports(corpus, window=8192) for corpus in corpora]
    print(f"peak above the imports: {[round(peak / MEBIBYTE, 1) for peak in peaks]} MiB")
    assert abs(peaks[1] - peaks[0]) < 10 * MEBIBYTE


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 40 rows: 50 steps of 8 rows are more than three passes."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = random.Random(3)
    for number in range(3):
        lines = [f"{' '.join(generator.choices(WORDS, k=generator.randrange(2, 18)))} {n}" for n in range(40)]
        (folder / f"train-{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def log_of(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name not in ("time", "tokens_per_second")} for row in rows]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_streamed_run_that_is_killed_goes_on_to_the_same_bits(corpus: Path, tmp_path: Path, workers: str) -> None:
    recipe = tmp_path / "run.yaml"
    recipe.write_text(RECIPE.format(data=corpus), encoding="utf-8")
    flags, killed = f"--dataloader_num_workers {workers}", tmp_path / "killed"
    assert train(recipe, tmp_path / "whole", flags).code == 0
    assert train(recipe, killed, flags, before_step(33, die)).code == -9
    assert [path.name for path in list_checkpoints(tmp_path / "killed")][-1] == "checkpoint-30"
    assert train(recipe, killed, flags).code == 0
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    last, same = (list_checkpoints(tmp_path / name)[-1] for name in ("whole", "killed"))
    assert last.name == same.name == "checkpoint-50"
    mine, theirs = load_file(last / "model.safetensors"), load_file(same / "model.safetensors")
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)
    for name in ("optimizer.pt", "scheduler.pt", "run_state.json"):
        assert (last / name).read_bytes() == (same / name).read_bytes(), name
    assert json.loads((last / "run_state.json").read_text())["cursor"]["pass_index"] >= 2


def test_a_resume_reads_one_window_whatever_was_seen_before(tmp_path: Path, count_read: Callable[[], Read]) -> None:
    lines = [f"{' '.join(WORDS[n % 9 : n % 9 + 5])} {n}" for n in range(4000)]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    longest = max(map(len, lines)) + 1
    settings = DataSettings(data=str(tmp_path / "train.txt"), streaming=True, stream_window=100)
    tokenizer = RowPreparation(settings, 16).prepare().tokenizer
    stream = TextStream(settings, tokenizer, 16, seed=0, turn=8, arrange=LikeLengths(8))
    seen = iter(stream)
    for steps in (5, 100, 600, 1000):
        for _ in range(8 * steps):
            cursor = next(seen)["cursor"]
        resumed = TextStream(settings, tokenizer, 16, seed=0, turn=8, arrange=LikeLengths(8))
        resumed.seek(cursor)
        count_read()
        next(iter(resumed))
        read = count_read()
        assert 0 < read.lines <= 200, f"after {steps} more steps"  # the window itself, and one more where it was done
        assert 0 < read.size <= 200 * longest, f"after {steps} more steps"


@pytest.fixture
def count_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Read]:
    """`count_read()`: what was read since the last call."""
    from training.data.sources import readers

    lines, sizes = [0], [0]
    decode, opened = readers._decoded, Path.open

    class Counting(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            return self._counted(super().read(size))

        def readline(self, size: int | None = -1) -> bytes:
            return self._counted(super().readline(size))

        def _counted(self, raw: bytes) -> bytes:
            sizes[0] += len(raw)
            return raw

    def counted(raw: bytes, number: int) -> tuple[str, str | None]:
        lines[0] += 1
        return decode(raw, number)

    def counting(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
        return Counting(io.FileIO(path)) if mode == "rb" else opened(path, mode, *args, **kwargs)

    def since() -> Read:
        read = Read(lines[0], sizes[0])
        lines[0] = sizes[0] = 0
        return read

    monkeypatch.setattr(readers, "_decoded", counted)
    monkeypatch.setattr(Path, "open", counting)
    return since
