"""The parts of the Open Inference Protocol, version 2, that are shared by `turnout.rpc.oip` and `turnout.web.oip`.

`elements`, `tensors` and `json_tensors` convert tensors, `parameters` reads request parameters, and `exchange`
converts requests and responses. `metadata` and `description` describe models to clients. `extensions` contains Triton's
extensions: statistics, model repository, settings, shared memory and classification. `services` bundles everything
except inference.
"""
