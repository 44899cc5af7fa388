"""Model repositories of NVIDIA Triton, which KServe mounts too: models with `config.pbtxt` and `<number>/model.onnx`.

`mapping` parses and translates a config.pbtxt, without side effects; `tree` finds models and versions on disk, and
`samples` makes golden cases of warm-up requests.
"""
