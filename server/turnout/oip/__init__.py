"""The rules of the Open Inference Protocol, version 2, however it is spoken: `turnout.rpc.oip`, `turnout.web.oip`.

`elements`, `tensors` and `json_tensors` are its data, `parameters` its parameters, `exchange` one request and its
answer; `metadata` and `description` are what clients ask beside that. `extensions` has Triton's: statistics, the model
repository, settings, shared memory and classification. `services` is all that both transports are given of it.
"""
