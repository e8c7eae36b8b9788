"""The score of each item of a task, in a form small enough for `report.json`: 14,000 answers take 2.4 kB.

The items are in the order of their hashes, which is the same in every run that asks the same questions. Two runs can be
paired if `items`, the digest of the ordered hashes, is the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, model_validator

from pipeline.results.base import Frozen

DIGEST = 32


class ItemScores(Frozen):
    """Scores of `n` items in base64: bits if every score is 0 or 1, else little-endian float16."""

    items: str = Field(max_length=DIGEST)
    n: NonNegativeInt
    kind: Literal["bits", "float16"]
    data: str

    @classmethod
    def of(cls, scores: Sequence[tuple[str, float]]) -> ItemScores:
        """Encode scores by the hash of their item; items with equal hashes keep their order."""
        ordered = sorted(scores, key=lambda item: item[0])
        digest = hashlib.sha256("\n".join(item for item, _ in ordered).encode()).hexdigest()[:DIGEST]
        values = np.array([score for _, score in ordered], dtype=np.float64)
        binary = bool(np.isin(values, (0.0, 1.0)).all())
        packed = np.packbits(values == 1).tobytes() if binary else values.astype("<f2").tobytes()
        return cls(
            items=digest, n=len(ordered), kind="bits" if binary else "float16", data=base64.b64encode(packed).decode()
        )

    def values(self) -> NDArray[np.float64]:
        """Return the scores, in the order of the items' hashes."""
        packed = base64.b64decode(self.data, validate=True)
        if self.kind == "bits":
            return np.unpackbits(np.frombuffer(packed, np.uint8), count=self.n).astype(np.float64)
        return np.frombuffer(packed, "<f2").astype(np.float64)

    @model_validator(mode="after")
    def _is_whole(self) -> ItemScores:
        """Raise a ValueError if the data are not the scores of `n` items."""
        try:
            size = len(base64.b64decode(self.data, validate=True))
        except (binascii.Error, ValueError):
            raise ValueError("the scores are not base64") from None
        if size != ((self.n + 7) // 8 if self.kind == "bits" else 2 * self.n):
            raise ValueError(f"{size} bytes are not the scores of {self.n} items")
        if not np.isfinite(self.values()).all():
            raise ValueError("a score is not finite")
        return self
