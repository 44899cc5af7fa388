"""Sources of ONNX files: a path, a URL of an object store, or an MLflow registry.

The file and its external data are first copied to a directory on this machine, and then published from there.
"""
