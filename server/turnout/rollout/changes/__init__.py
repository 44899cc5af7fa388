"""What operators change about who answers: releases, withdrawals, rollbacks. One rule, decided in one transaction.

A release status says who may be met by range, by `latest` and by default; the policy says who answers plain requests
among what is released, plus the canaries. A command that changes one keeps the other in step, or says that it does not,
and nothing that it changes is undone by a rollout, or undoes one, without a word.
"""
