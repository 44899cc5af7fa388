"""Turnout: a gRPC model server that keeps many semantic versions of an ONNX model on the rails at once."""

__version__: str


def __getattr__(name: str) -> str:
    """Reads the version where it is asked for: looking a distribution up takes longer than starting Python does."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("turnout")
