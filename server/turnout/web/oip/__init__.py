"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensor data.

`routes` has the URLs, `inference` runs requests, `requests` parses them, and `answers` writes the responses.
`description` and `extensions` have the other endpoints.
"""
