"""What a caller shows: client certificates, bearer tokens, JWTs and the keys behind them."""
