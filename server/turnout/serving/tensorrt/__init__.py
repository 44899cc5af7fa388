"""Versions that run on TensorRT: cached engines, and FP16 if golden cases show that it is exact enough."""
