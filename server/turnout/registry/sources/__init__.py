"""Where ONNX files come from: a path, a URL of an object store, or an MLflow registry.

Whatever it is, the file and its external data are brought into a directory of this machine's first, and published from
there as any other.
"""
