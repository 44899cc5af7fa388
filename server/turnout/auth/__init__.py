"""Who calls, and what they may do.

credential (`credentials`: tokens, JWTs, certificates) -> caller -> `authority`: permissions and quotas (`policy`)

`credentials.jwks` and `policy.policy_file` read what changes while the server runs. `turnout.rpc.authorization` and
`turnout.web.authorization` ask the authority.
"""
