"""Reads stored rollouts, including those that this release cannot parse. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from semver import Version

from turnout.errors import Unsupported
from turnout.rollout.machine.attempt import Rollout
from turnout.state.rollouts import RolloutRecord


@dataclass(frozen=True, slots=True)
class UnreadableRollout:
    """A rollout whose document this release cannot read, because it is damaged or a later release wrote it.

    Attributes:
        fault: What is wrong with the document.
    """

    record: RolloutRecord
    fault: str

    @property
    def versions(self) -> tuple[str, ...]:
        """The candidate and the previous version in the document, if they are valid versions."""
        return tuple(text for text in (self.named("candidate"), self.named("previous")) if Version.is_valid(text))

    def named(self, part: str) -> str:
        """Returns the document's `candidate` or `previous` as it is; "" if it is not text."""
        text = self.record.document.get(part)
        return text if isinstance(text, str) else ""

    @property
    def sentence(self) -> str:
        """What is wrong, and how to resolve it."""
        model, attempt = self.record.model, self.record.attempt
        what = f"attempt {attempt} of {model} cannot be read by this release of Turnout ({self.fault})"
        if self.record.final:
            return f"{what}; it has ended ({self.record.state})"
        return f"{what}; `turnout rollout abort {model} --discard` ends it and keeps what was recorded"


def read_record(record: RolloutRecord) -> Rollout | UnreadableRollout:
    """Parses the document of a stored rollout."""
    try:
        rollout = Rollout.from_json(record.document)
    except ValueError as error:
        return UnreadableRollout(record, _shortened(str(error)))
    if (rollout.model, rollout.attempt) != (record.model, record.attempt):
        return UnreadableRollout(record, f"its document is of attempt {rollout.attempt} of {rollout.model[:64]}")
    if (str(rollout.state), rollout.state.final) != (record.state, record.final):
        return UnreadableRollout(record, f"its document is of a rollout that is {rollout.state}")
    return rollout


def recorded(record: RolloutRecord) -> Rollout:
    """Returns the rollout in a record.

    Raises:
        Unsupported: It cannot be read. The message says how to resolve it.
    """
    found = read_record(record)
    if isinstance(found, UnreadableRollout):
        raise Unsupported(found.sentence)
    return found


def split_records(records: Iterable[RolloutRecord]) -> tuple[list[Rollout], list[UnreadableRollout]]:
    """Returns the rollouts that can be read, and the others."""
    found = [read_record(record) for record in records]
    return (
        [one for one in found if isinstance(one, Rollout)],
        [one for one in found if isinstance(one, UnreadableRollout)],
    )


_FAULT_LENGTH = 200


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _FAULT_LENGTH else f"{line[:_FAULT_LENGTH]} ..."
