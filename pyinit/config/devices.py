"""Which block devices a config's limits mean: the kernel knows them by number.

Owns the look at /dev. Must not know TOML, or what a limit does. Law: a device that is not there is no error here, for
the limit can't be held then, and that is told where it would be.
"""

import os
import stat

from pyinit.model import CgroupLimits, Config, IoLimit


def numbered(config: Config) -> Config:
    """With the numbers of the devices; limits of a partition are those of its disk, as the kernel wants it."""
    services = tuple(spec._replace(cgroup=limits(spec.cgroup)) if spec.cgroup.io_max else spec for spec in config.services)
    box = config.container
    return config._replace(services=services, container=box and box._replace(cgroup=limits(box.cgroup)))


def limits(found: CgroupLimits) -> CgroupLimits:
    """Those of one group."""
    return found._replace(io_max=tuple(_with_number(one) for one in found.io_max))


def _with_number(one: IoLimit) -> IoLimit:
    if not one.device.startswith("/"):
        return one._replace(number=one.device)
    try:
        seen = os.stat(one.device)
    except OSError:
        return one
    if not stat.S_ISBLK(seen.st_mode):
        return one
    number = f"{os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)}"
    place = f"/sys/dev/block/{number}"
    if os.path.exists(f"{place}/partition"):
        with open(f"{place}/../dev") as file:
            number = file.read().strip()
    return one._replace(number=number)
