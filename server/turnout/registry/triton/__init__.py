"""Model repositories of NVIDIA Triton, which KServe mounts too: models with `config.pbtxt` and `<number>/model.onnx`.

`config` parses a config.pbtxt, `mapping` translates it (both without side effects), `settings` writes the resulting
server settings, `tree` finds models and versions on disk, and `samples` makes golden cases of warm-up requests.
"""
