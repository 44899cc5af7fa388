"""The Open Inference Protocol, version 2, for both transports: `turnout.rpc.oip` and `turnout.web.oip`.

`elements`, `tensors` and `json_tensors` are its data, `parameters` its parameters, `exchange` one request and its
answer; `metadata` and `description` tell clients about models. `extensions` has Triton's: statistics, the model
repository, settings, shared memory and classification. `services` is all of these.
"""
