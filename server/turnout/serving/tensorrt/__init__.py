"""Versions that run on TensorRT: engines that are built and kept, and FP16 where golden cases show that it is exact."""
