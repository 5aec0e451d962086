"""Programs of the host, by the PATH.

Owns the search. Must not know what they are for.
"""

import os
from _collections_abc import Mapping


def find_program(name: str, env: Mapping[str, str]) -> str:
    """Where execvp(3) would find it; "" if nowhere."""
    for folder in [""] if "/" in name else env.get("PATH", os.defpath).split(":"):
        path = os.path.join(folder or ".", name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""
