"""What rollouts ask outside of the server: probes that measure, and a webhook that confirms or vetoes a step.

`probe_record` and `confirmation` are decisions and pure, `promql` and `json_path` make and read what is sent, `http`
asks, and `analyses` does so beside the loop that drives rollouts.
"""
