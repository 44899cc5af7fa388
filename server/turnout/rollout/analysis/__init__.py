"""What rollouts ask outside of the server: probes that measure, and a webhook that confirms or vetoes a step.

`prober` asks a probe and `confirm_webhook` the webhook, `promql` and `json_path` make and read what is sent, `http`
sends it, and `analyses` does so beside the loop that drives rollouts.
"""
