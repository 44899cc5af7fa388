"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensor data.

`routes` puts it together; `inference` runs requests; `requests` reads them, and `answers` writes the responses.
"""
