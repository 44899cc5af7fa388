"""Turnout: a gRPC model server that keeps many semantic versions of an ONNX model loaded at once."""

__version__: str


def __getattr__(name: str) -> str:
    """Looks up `__version__` on first access, because the lookup takes longer than starting Python."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    global __version__
    __version__ = version("turnout")
    return __version__
