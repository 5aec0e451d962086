"""What a command runs as that belongs to no service: `pyinit exec` without one, and `pyinit enter`.

Owns these defaults, and what the words of the command line change. Must not know how it is started. Laws: it is held by
all that holds the container's services by default, and gets no more than they; what is kept of that is text, since root
reads an ordinary user's, too.
"""

from pyinit import __version__
from pyinit.model import Config, Origin, ProcessSpec, Seccomp, ServiceSpec
from pyinit.records import Any, NamedTuple

NAMELESS = ""  # no service's name
_ASKED = Origin("exec", 0)


class Wishes(NamedTuple):
    """Of `-u`, `-w` and `-e`; "" and () leave what is."""

    user: str = ""  # or USER:GROUP
    directory: str = ""
    environment: tuple[tuple[str, str], ...] = ()


class Basis(NamedTuple):
    """What of a config it depends on; plain values, all of them."""

    environment: tuple[tuple[str, str], ...] = ()  # of [init]
    strict: bool = False
    rlimits: tuple[tuple[str, int, int], ...] = ()
    rlimits_origin: tuple[str, int] = ("", 0)
    no_new_privileges: bool = False
    seccomp: tuple[Any, ...] = ()  # of model.Seccomp all but the origin


_STAMP = f"{__version__} {' '.join(Basis._fields)}"


def basis(config: Config) -> Basis:
    """Of a config."""
    box = config.container
    if box is None:
        return Basis(config.init.environment, config.init.strict)
    place, security = (box.rlimits_origin.file, box.rlimits_origin.line), box.security
    filter_ = tuple(security.seccomp[:-1])
    return Basis(config.init.environment, config.init.strict, box.rlimits, place, security.no_new_privileges, filter_)


def packed(config: Config) -> bytes:
    """Its basis, for who can't ask PID 1."""
    return ascii((_STAMP, *basis(config))).encode()


def unpacked(data: bytes) -> Basis:
    """What packed() was given by the same pyinit; else ValueError. Nothing that `data` may be is more than a value."""
    from ast import literal_eval  # for who enters

    try:
        stamp, *values = literal_eval(data.decode())
        if stamp != _STAMP:
            raise ValueError(stamp)
        return Basis(*values)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error


def nameless(of: Basis, *, kill: str) -> ServiceSpec:
    """The container's root, in its default environment, under its limits."""
    origins = (("rlimits", Origin(*of.rlimits_origin)),)
    process = ProcessSpec(
        strict=of.strict, rlimits=of.rlimits, no_new_privileges=of.no_new_privileges, origins=origins, seccomp=Seccomp(*of.seccomp)._replace(origin=_ASKED)
    )  # fmt: skip
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
