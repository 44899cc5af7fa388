"""The rules of the Open Inference Protocol, version 2, however it is spoken: `turnout.rpc.oip`, `turnout.web.oip`.

`elements`, `tensors` and `json_tensors` are its data, `parameters` its words, `exchange` one request and its answer;
`metadata` and `description` are what clients ask beside that. `services` holds Triton's extensions: `statistics`,
`repository`, `settings` and `shared_memory`, whose decisions are in `version_statistics`, `log_settings`,
`trace_settings` and `regions`.
"""
