"""Durable state, in a database that servers can share: releases, policies, rollouts, tokens, and the event log."""
