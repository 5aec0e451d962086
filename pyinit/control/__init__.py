"""The control socket: codec, server, client."""
