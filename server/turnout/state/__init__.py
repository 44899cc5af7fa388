"""What servers must not forget, in a database that several may share: releases, policies, rollouts, tokens, the log."""
