"""The asyncio client. It is written by hand; most of `_sync` is generated from it."""
