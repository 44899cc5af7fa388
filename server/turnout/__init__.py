"""Turnout: a gRPC model server that keeps many semantic versions of an ONNX model on the rails at once."""

from importlib.metadata import version

__version__ = version("turnout")
