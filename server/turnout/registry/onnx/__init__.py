"""Reads ONNX files without running them: graph, weights, external data, functions, ZipMap."""
