"""Adds the actor that a caller claims to be to the reason of a change. The log's actor is the proved identity. Pure."""

_MOST_REASON_BYTES = 1024
"""Maximum length of a reason in the log, in bytes."""
_MAX_ACTOR = 96


def with_remark(reason: str, claimed_actor: str, actor: str) -> str:
    """Adds the claimed actor to a reason, if there is room: `canary is fine [as ann@pc]`."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in claimed_actor[:_MAX_ACTOR]).split())
    if not plain or claimed_actor == actor:
        return reason
    room = _MOST_REASON_BYTES - len(reason.encode("utf-8", "replace")) - len(" [as ]")
    kept = plain.encode("utf-8", "ignore")[: max(room, 0)].decode("utf-8", "ignore")
    if not kept:
        return reason
    return f"{reason} [as {kept}]".lstrip()
