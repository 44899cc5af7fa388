"""Changes by operators of which versions answer: releases, withdrawals and rollbacks. Each is one transaction.

Release statuses determine which versions can be reached by range, by `latest` and by default; the policy determines
which of the released versions, and which canaries, answer plain requests. A command that changes one also adapts the
other, or says that it does not. It never silently undoes the effect of a rollout, nor is it silently undone by one.
"""
