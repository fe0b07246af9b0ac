"""The nearest of many vectors by inner product: exactly, a chunk at a time, or by `faiss` where there are many."""

from typing import Protocol

import numpy as np

CHUNK = 16_384  # vectors compared at a time: 16 MiB of float32 where they are 256 wide
DIGITS = 6  # a matrix product's last bits depend on a vector's place: products of unit vectors are equal up to here
LARGE = 1_000_000  # from here on `faiss` looks, where it is installed (jepa-lm[search])


class Search(Protocol):
    """Finds the k largest products of queries `(B, D)`, float32, with its vectors."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Products and indices `(B, k)`, best first; k is at most the number of vectors."""


class Chunks:
    """Compares all of the vectors `(N, D)`, float16, in float32; of equals (to `DIGITS`) the earlier comes first."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Search`."""
        best, places = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        for start in range(0, len(self.vectors), CHUNK):
            products = queries @ self.vectors[start : start + CHUNK].astype(np.float32).T
            here = np.broadcast_to(np.arange(start, start + products.shape[1]), products.shape)
            best, places = np.concatenate([best, products], axis=1), np.concatenate([places, here], axis=1)
            # Those kept stand first, so that a stable order keeps the earlier of equals.
            order = np.argsort(-best.round(DIGITS), axis=1, kind="stable")[:, :k]
            best, places = np.take_along_axis(best, order, axis=1), np.take_along_axis(places, order, axis=1)
        return best, places


def make_search(vectors: np.ndarray) -> Search:
    """What searches these vectors `(N, D)`, float16: `faiss` from `LARGE` on, where it is installed, else `Chunks`.

    Its index holds a copy of them, and compares all of them too: what is found is the same but for the order of
    equals.
    """
    if len(vectors) < LARGE:
        return Chunks(vectors)
    try:
        import faiss
    except ImportError:
        return Chunks(vectors)
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(vectors), CHUNK):
        index.add(vectors[start : start + CHUNK].astype(np.float32))
    return index
