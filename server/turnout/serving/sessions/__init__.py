"""ONNX Runtime: sessions, execution providers, IO binding, memory."""
