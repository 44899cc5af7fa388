"""Which operators make their outputs row by row, and when: one rule for each. What has none may mix rows. Pure."""

from collections.abc import Mapping

from turnout.serving.rowwise.call import Rule
from turnout.serving.rowwise.rules import classical, elementwise, layout, linear, reductions, sequences

RULES: Mapping[tuple[str, str], Rule] = {
    **elementwise.RULES,
    **layout.RULES,
    **linear.RULES,
    **reductions.RULES,
    **sequences.RULES,
    **classical.RULES,
}
"""By domain and operator."""
