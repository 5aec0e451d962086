"""The pure core of supervision: facts in, orders out; no os, no time, no signal, no socket, no asyncio."""
