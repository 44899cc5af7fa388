"""A golden set for magika: real files whose types are known from their origin, and the labels of the model's classes.

python examples/magika/golden.py DIRECTORY      writes golden.npz and meta.json for magika 3
turnout publish magika auto model.onnx --meta DIRECTORY/meta.json --golden DIRECTORY/golden.npz
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from magika.features import features_v3, labels
from magika.samples import REPOSITORY, Sample, samples

_KINDS = {"server/turnout/*/*.py": "python", "docs/*.md": "markdown", "tests/unit/*.py": "python"}
_OF_EACH = 25


def known_files() -> list[Sample]:
    """Returns real files of this repository and this machine whose types are certain, without tiny files."""
    found = samples()
    for pattern, label in _KINDS.items():
        paths = [path for path in sorted(REPOSITORY.glob(pattern)) if path.stat().st_size > 256][:_OF_EACH]
        found += [Sample(str(path.relative_to(REPOSITORY)), path.read_bytes(), label) for path in paths]
    return found


def write_golden(directory: Path, model: Path) -> tuple[Path, Path]:
    """Writes a golden case with one row for each file, and metadata with the labels of the model's classes.

    Args:
        directory: Folder to write to.
        model: ONNX file of magika 3, with its configuration file next to it.

    Returns:
        The paths of the golden case and the metadata.
    """
    files = known_files()
    golden, meta = directory / "golden.npz", directory / "meta.json"
    np.savez_compressed(
        golden,
        **{  # type: ignore[arg-type]  # no key is allow_pickle
            "inputs/bytes": np.concatenate([features_v3(file.content) for file in files]),
            "labels/target_label": np.array([file.expected for file in files]),
        },
    )
    message = {
        "description": "Content type of a file, from its first and last 1024 bytes",
        "licence": "Apache-2.0",
        "labels": {"target_label": labels(model)},
        "preprocessing": {"bytes": "first and last 1024 bytes without white space around, padded with 256"},
        "scores": {"target_label": True},
    }
    meta.write_text(json.dumps(message, indent=1))
    return golden, meta


if __name__ == "__main__":
    from zoo import fetch

    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(*write_golden(target, fetch("magika", "3.3.0")), sep="\n")
