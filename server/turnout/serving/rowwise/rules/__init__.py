"""Rules that decide when an operator computes its outputs row by row; operators without one may mix rows. Pure."""

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
"""Rules by domain and operator."""
