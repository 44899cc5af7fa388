"""What a model's traffic can be rolled back to. Pure."""

from collections.abc import Callable, Iterable

from semver import Version

from turnout.routing.policy import Policy


def rollback_targets(
    history: Iterable[Policy | None], present: Version | None, usable: Callable[[Version], bool] = lambda _: True
) -> tuple[Version, ...]:
    """Returns the versions that were the baseline before the present one, the last one first, each once.

    Args:
        history: The model's policies, the latest epoch first; None where an epoch held none.
        present: The baseline now.
        usable: Tells whether a version may still have traffic: it is there, and was not withdrawn.
    """
    earlier = (policy.baseline for policy in history if policy is not None)
    return tuple(dict.fromkeys(v for v in earlier if v != present and usable(v)))
