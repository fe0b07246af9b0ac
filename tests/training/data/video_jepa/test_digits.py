import gzip
import io
import struct

import datasets
import numpy as np
import pytest
from PIL import Image

from training.common.errors import InputError
from training.data.sources.hub import HubAddress
from training.data.video_jepa import digits
from training.data.video_jepa.digits import load_digits, read_idx

HEADER = struct.Struct(">IIII")


def pictures_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def idx_of(pictures: np.ndarray, magic: int = 0x803) -> bytes:
    return HEADER.pack(magic, *pictures.shape) + pictures.tobytes()


@pytest.fixture
def mnist(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_of(pictures_of(200)), 1))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_of(pictures_of(50, seed=1)))
    return tmp_path


def as_set(pictures: np.ndarray) -> set[bytes]:
    return {picture.tobytes() for picture in pictures}


def test_training_and_valid_digits_are_a_cut_of_one_file_and_test_digits_are_the_other(mnist):
    train, valid, test = (load_digits(str(mnist), split).pictures for split in ("train", "valid", "test"))
    assert as_set(train) | as_set(valid) == as_set(pictures_of(200))
    assert not as_set(train) & as_set(valid)
    assert 1 <= len(valid) <= 30
    assert np.array_equal(test, pictures_of(50, seed=1))


def test_the_sides_of_digits_do_not_depend_on_the_others_of_the_file(mnist):
    before = as_set(load_digits(str(mnist), "valid").pictures)
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(idx_of(pictures_of(200)[::-1][:120]))
    assert as_set(load_digits(str(mnist), "valid").pictures) == before & as_set(pictures_of(200)[80:])


def test_a_single_file_is_cut_into_three_disjoint_parts(tmp_path):
    (tmp_path / "some.idx").write_bytes(idx_of(pictures_of(300)))
    parts = [as_set(load_digits(str(tmp_path / "some.idx"), split).pictures) for split in digits.SPLITS]
    assert set.union(*parts) == as_set(pictures_of(300))
    assert sum(map(len, parts)) == 300


def test_the_built_in_digits_need_no_file_and_their_parts_are_disjoint():
    parts = [load_digits("builtin:digits", split) for split in digits.SPLITS]
    sets = [as_set(part.pictures) for part in parts]
    assert sum(len(part.pictures) for part in parts) == 1797
    assert min(map(len, sets)) > 150
    assert not sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]
    assert all(part.pictures.shape[1:] == (28, 28) and part.pictures.max() > 200 for part in parts)
    assert len({part.fingerprint for part in parts}) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds 0 bytes"),
        (idx_of(pictures_of(2))[:-1], r"holds 1,583 bytes, but its header promises 1,584 \(2 pictures\)"),
        (idx_of(pictures_of(2)) + b"x", "holds 1,585 bytes"),
        (idx_of(pictures_of(2), magic=0x801), "holds labels"),
        (idx_of(pictures_of(2), magic=0x804), "begins with 0x00000804"),
        (idx_of(np.zeros((2, 27, 28), np.uint8)), "27 x 28 pixels"),
        (gzip.compress(idx_of(pictures_of(2)), mtime=0)[:-100], "ends early or is damaged after"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, content, said):
    path = tmp_path / "train-images"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_test_digits_says_so(mnist):
    (mnist / "t10k-images-idx3-ubyte").unlink()
    load_digits(str(mnist), "train")
    with pytest.raises(InputError, match=r"holds no t10k-images\* file"):
        load_digits(str(mnist), "test")


@pytest.mark.parametrize("source", ["", "no/such/folder", "builtin:letters", "hub:digits", "hub:a/b:c:d"])
def test_a_source_that_is_none_is_an_error_that_names_the_flag(source):
    with pytest.raises(InputError, match=r"^digits: "):
        load_digits(source, "train")


def test_digits_of_the_hub_are_read_through_datasets_and_their_test_part_stays_apart(monkeypatch):
    def as_png(picture: np.ndarray) -> dict:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    def load(address: HubAddress, name: str) -> datasets.Dataset:
        stored = {"train": pictures_of(60), "test": pictures_of(9, seed=1)}[name]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        rows = {"image": [as_png(picture) for picture in stored], "label": [0] * len(stored)}
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(HubAddress, "load", load)
    monkeypatch.setattr(HubAddress, "split_names", lambda address: {"train": "train", "test": "test"})
    train, valid, test = (as_set(load_digits("hub:mnist", split).pictures) for split in digits.SPLITS)
    assert train | valid == as_set(pictures_of(60))
    assert not train & valid
    assert test == as_set(pictures_of(9, seed=1))


def test_a_hub_data_set_that_cannot_be_had_is_named_under_digits(monkeypatch):
    def refuse(address: HubAddress) -> dict[str, str]:
        raise InputError("data: hub:ylecun/mnist could not be loaded (offline)")

    monkeypatch.setattr(HubAddress, "split_names", refuse)
    with pytest.raises(InputError, match=r"^digits: hub:ylecun/mnist could not be loaded"):
        load_digits("hub:mnist", "train")
