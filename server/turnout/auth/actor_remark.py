"""Records who a caller says it acts for, next to who it was proved to be. Pure."""

_MOST_REASON_BYTES = 1024
"""The longest reason that the log has room for."""
_MAX_ACTOR = 96


def with_remark(reason: str, claimed_actor: str, actor: str) -> str:
    """Returns a reason that says who the caller claimed to be, too, if there is room: `canary is fine [as ann@pc]`.

    Args:
        reason: As it was given.
        claimed_actor: Who the caller claimed to be; "" for nobody.
        actor: Who it was proved to be.
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in claimed_actor[:_MAX_ACTOR]).split())
    if not plain or claimed_actor == actor:
        return reason
    room = _MOST_REASON_BYTES - len(reason.encode("utf-8", "replace")) - len(" [as ]")
    kept = plain.encode("utf-8", "ignore")[: max(room, 0)].decode("utf-8", "ignore")
    if not kept:
        return reason
    return f"{reason} [as {kept}]".lstrip()
