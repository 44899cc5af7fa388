"""External checks of rollouts: probes that measure, and a webhook that confirms or vetoes a step.

`prober` runs a probe and `confirm_webhook` asks the webhook. `promql` and `json_path` build requests and parse
responses, `http` sends the requests, and `analyses` runs all this concurrently with the loop that drives rollouts.
"""
