"""The credentials of callers: client certificates, bearer tokens, JWTs and the keys that verify them."""
