"""Authentication and authorization of callers.

credential (`credentials`: tokens, JWTs, certificates) -> caller -> `authority`: permissions and quotas (`policy`)

`credentials.jwks` and `policy.policy_file` read the keys and the policy, which can change while the server runs.
`turnout.rpc.authorization` and `turnout.web.authorization` ask the authority about each call.
"""
