"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensor data.

`routes` is the whole of it; `inference` runs requests, which `requests` reads and `answers` writes.
"""
