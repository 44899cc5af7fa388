"""ONNX files, read without running them: graph, weights, external data, functions, ZipMap."""
