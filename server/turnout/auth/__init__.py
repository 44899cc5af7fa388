"""Who calls, and what they may do.

credential (`tokens`, `jwts`, `certificates`) -> caller -> authority: policy + needs + quotas

`roles`, `identity`, `policy`, `document`, `needs`, `tokens`, `quotas`, `remarks` and `throttle` are pure. `authority`
puts them together, `jwks` and `policy_file` read what changes. `turnout.rpc.authorization` and
`turnout.web.authorization` ask it.
"""
