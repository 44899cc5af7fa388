"""The recorded result of a precision trial, kept beside the engines that it was made with.

Like the engines, a record is valid for one version, kind of GPU and set of libraries, and also for the settings that it
names. A record that cannot be read counts as missing; if it cannot be written, the next load repeats the trial.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from turnout.registry.storage.files import read_small
from turnout.serving.tensorrt.precision import Precision

_MOST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class PrecisionRecord:
    """A file with the result of a precision trial.

    Attributes:
        path: Path of the file.
        settings: Settings that affect what an engine computes, by name.
    """

    path: Path
    settings: Mapping[str, str]

    def read(self) -> Precision | None:
        """Returns the result; None if there is none, it is for other settings, or the file is damaged."""
        try:
            data = read_small(self.path, _MOST_BYTES)
            body = json.loads(data) if len(data) <= _MOST_BYTES else None
        except (OSError, ValueError, RecursionError):
            return None
        match body:
            case {"fp16": bool(fp16), "reason": str(reason), "settings": dict(settings)} if settings == self.settings:
                return Precision(fp16, reason)
        return None

    def write(self, found: Precision) -> None:
        """Writes a result if possible."""
        body = {"fp16": found.fp16, "reason": found.reason, "settings": dict(self.settings)}
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            scratch.write_text(json.dumps(body) + "\n")
            scratch.replace(self.path)
