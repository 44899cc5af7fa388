"""Formats a model's policy for people."""

from collections.abc import Iterable

from turnout.text.shares import share_text


def policy_text(
    baseline: str, canaries: Iterable[tuple[str, float]], shadows: Iterable[tuple[str, float]], twin: float = 0.0
) -> str:
    """Returns a policy on one line, such as `baseline 1.0.0 80%, canary 1.1.0 20%`. Shares and rates are 0 to 1."""
    weights = list(canaries)
    left = f" {share_text(1.0 - sum(weight for _, weight in weights))}" if weights else ""
    parts = [f"baseline {baseline}{left}"]
    parts += [f"canary {version} {share_text(weight)}" for version, weight in weights]
    parts += [f"shadow {version} {share_text(rate)}" for version, rate in shadows]
    if twin:
        parts.append(f"twin {share_text(twin)}")
    return ", ".join(parts)
