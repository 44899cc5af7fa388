"""What was found out about FP16, kept beside the engines that it was found out with.

It is right for one version, kind of GPU and set of libraries, as those are, and for the settings that it names. What
cannot be read counts as not there, and what cannot be written is found out again at the next load.
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
    """A file.

    Attributes:
        path: Where it lies.
        settings: That change what an engine computes, by name.
    """

    path: Path
    settings: Mapping[str, str]

    def read(self) -> Precision | None:
        """Returns what was found out; None if nothing was, with other settings, or the file is damaged."""
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
        """Keeps what was found out, if that can be done."""
        body = {"fp16": found.fp16, "reason": found.reason, "settings": dict(self.settings)}
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            scratch.write_text(json.dumps(body) + "\n")
            scratch.replace(self.path)
