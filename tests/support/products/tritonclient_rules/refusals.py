"""Calls that should fail."""

from collections.abc import Callable
from typing import Any

from tritonclient.utils import InferenceServerException


def refused(call: Callable[..., Any], **arguments: Any) -> InferenceServerException:
    """Calls and returns the error that must come of it."""
    try:
        call(**arguments)
    except InferenceServerException as error:
        return error
    raise AssertionError("it was not refused")
