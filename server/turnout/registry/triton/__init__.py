"""Model repositories of NVIDIA Triton, as KServe mounts them too: models with `config.pbtxt` and `<number>/model.onnx`.

`config` reads a config.pbtxt, `mapping` says what of it Turnout has (both pure), `settings` what of that a server is
set to, `tree` finds models and versions on the disk, `samples` makes golden cases of warm-up requests.
"""
