"""Inputs and outputs of magika's models: the features of a file's bytes, and the labels of the outputs.

The features are those of magika's library (`Magika._extract_features_from_seekable`, release 0.5.1 for v1 and 1.0.3 for
v3): bytes from the beginning, the middle (v1 only) and the end of a file, without surrounding white space, padded with
the token 256 if there are too few.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PADDING = 256
BLOCK = 4096
"""Number of bytes that are read at each end of a file, before white space is stripped."""


def features_v1(content: bytes) -> NDArray[np.float32]:
    """Returns the input of standard_v1: float32 of shape (1, 1536), 512 bytes each of beginning, middle and end."""
    size = 512
    if len(content) < 2 * BLOCK + size:
        beginning = middle = end = content.strip()
    else:
        beginning, end = content[:BLOCK].lstrip(), content[-BLOCK:].rstrip()
        cut_before, cut_after = BLOCK - len(beginning), BLOCK - len(end)
        start = cut_before + (len(content) - cut_before - cut_after - size) // 2
        middle = content[start : start + size]
    tokens = _head(beginning, size) + _middle(middle, size) + _tail(end, size)
    return np.array([tokens], np.float32)


def features_v3(content: bytes) -> NDArray[np.int32]:
    """Returns the input of standard_v3: int32 of shape (1, 2048), 1024 bytes each of beginning and end."""
    size = 1024
    tokens = _head(content[:BLOCK].lstrip(), size) + _tail(content[-BLOCK:].rstrip(), size)
    return np.array([tokens], np.int32)


@dataclass(frozen=True, slots=True)
class Guess:
    """The label with the highest score.

    Attributes:
        label: Content type, such as `python`.
        score: Score of the label, 0 to 1.
    """

    label: str
    score: float


def labels(model: Path) -> list[str]:
    """Returns the content types of the outputs of `model`, from the configuration file next to it."""
    v3 = model.with_name("config.min.json")
    if v3.exists():
        return list(json.loads(v3.read_text())["target_labels_space"])
    v1 = json.loads(model.with_name("model_config.json").read_text())
    return list(v1["train_dataset_info"]["target_labels_info"]["target_labels_space"])


def best(scores: NDArray[np.float32], names: list[str]) -> Guess:
    """Returns the label with the highest score in a row of scores, shape (labels,)."""
    index = int(np.argmax(scores))
    return Guess(names[index], float(scores[index]))


def _head(content: bytes, size: int) -> list[int]:
    kept = list(content[:size])
    return kept + [PADDING] * (size - len(kept))


def _tail(content: bytes, size: int) -> list[int]:
    kept = list(content[-size:])
    return [PADDING] * (size - len(kept)) + kept


def _middle(content: bytes, size: int) -> list[int]:
    if len(content) >= size:
        start = (len(content) - size) // 2
        content = content[start : start + size]
    kept = list(content)
    left = (size - len(kept)) // 2
    return [PADDING] * left + kept + [PADDING] * (size - len(kept) - left)
