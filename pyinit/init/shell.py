"""What a command runs as that belongs to no service: `pyinit exec` without one, and `pyinit enter`.

Owns these defaults, and what the words of the command line change. Must not know how it is started. Law: it is held by
all that holds the container's services by default, and gets no more than they.
"""

from pyinit.model import Config, Origin, ProcessSpec, ServiceSpec
from pyinit.records import NamedTuple

NAMELESS = ""  # no service's name
_ASKED = Origin("exec", 0)


class Wishes(NamedTuple):
    """Of `-u`, `-w` and `-e`; "" and () leave what is."""

    user: str = ""  # or USER:GROUP
    directory: str = ""
    environment: tuple[tuple[str, str], ...] = ()


def nameless(config: Config, *, kill: str) -> ServiceSpec:
    """The container's root, in its default environment, under its limits."""
    process = ProcessSpec(strict=config.init.strict)
    box = config.container
    if box is not None:
        origins = (("rlimits", box.rlimits_origin),)
        process = process._replace(rlimits=box.rlimits, no_new_privileges=box.security.no_new_privileges, origins=origins)
    return ServiceSpec(NAMELESS, ("",), kill=kill, process=process, origin=_ASKED)


def wished(spec: ServiceSpec, wishes: Wishes) -> ServiceSpec:
    """The same with what was asked for."""
    user, mark, group = wishes.user.partition(":")
    if user:
        groups = (() if mark else None) if user != spec.user or mark else spec.groups
        spec = spec._replace(user=user, group=group, groups=groups, user_origin=_ASKED)
    if wishes.directory:
        spec = spec._replace(working_directory=wishes.directory)
    return spec._replace(environment=(*spec.environment, *wishes.environment))
