"""`[container] rlimits` and the filter of an init of the image: they are its own, for it starts the services.

Owns what of them can be had. Must not know how it is executed.
"""

import resource

from pyinit.errors import LaunchError
from pyinit.init.privileges import RefusedError, fit, read_have
from pyinit.model import Config, ProcessSpec, ServiceSpec


def limit_ourselves(config: Config) -> tuple[list[str], bytes]:
    """Set the limits on this process, which is about to exec; a warning for each that is clamped, and the filter. LaunchError."""
    box = config.container
    assert box is not None
    limits = ProcessSpec(rlimits=box.rlimits, strict=config.init.strict, origins=(("rlimits", box.rlimits_origin),), seccomp=box.security.seccomp)
    try:
        wanted, warnings = fit(ServiceSpec("init", (box.init,), process=limits), read_have())
    except RefusedError as error:
        raise LaunchError(str(error)) from error
    for name, soft, hard in wanted.rlimits:
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
        except (OSError, ValueError) as error:  # above fs.nr_open, for one
            raise LaunchError(f"{box.rlimits_origin}: rlimits: {name} = {hard}: {error}; choose a lower one") from error
    return warnings, wanted.seccomp.program
