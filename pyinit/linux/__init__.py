"""The kernel, thinly: one call, one wrapper; no policy, no asyncio."""
