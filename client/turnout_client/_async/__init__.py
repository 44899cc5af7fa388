"""The client for asyncio: written by hand, and what `_sync` is generated from."""
