"""What each runtime gives and does with pyinit as its init: runtime -> question -> cell. Of this the documents' tables are made.

Owns the cells, as the tests must see them; test_runtimes.py asks, runtimes_table.py writes. Nothing is imported that starts anything.
"""

from pyinit.linux.caps import NAMES

GRACE_S = 4.0  # of the whole stop, in the small root's configs
# The same for every service, or a mark of ours.
OURS = {"PYINIT_SERVICE", "USER", "LOGNAME", "SHELL", "PATH", "HOME"}
_PYTHONS = {13, 25}  # a Python ignores PIPE and XFSZ itself, before it looks


def capabilities(mask: str) -> str:
    """A line of /proc/PID/status in words; a machine may lack SYS_RESOURCE."""
    bits = int(mask, 16)
    names = [name for number, name in enumerate(NAMES) if bits >> number & 1]
    if len(names) >= len(NAMES) - 1:
        return "all"
    return " ".join(names) if names else "none"


def signals(mask: str) -> str:
    bits = int(mask, 16)
    return " ".join(str(number) for number in range(1, 65) if bits >> (number - 1) & 1 and number not in _PYTHONS | {32, 33}) or "none"


_NSPAWN = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_OWNER "
    "SYS_CHROOT SYS_PTRACE SYS_ADMIN SYS_BOOT SYS_NICE SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"
)
_PODMAN = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP"
_OURS = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT AUDIT_WRITE SETFCAP"
_OF_NSPAWN = "LANG container container_host_id container_host_version_id container_uuid"


def _given(init: str, capabilities: str, *, no_new_privs: int = 0, seccomp: int = 0) -> str:
    """All the rest is the same everywhere."""
    return (
        f"pid 1 is {init}; a session of its own; fds 0 1 2; capabilities {capabilities}; inheritable none, ambient none; "
        f"no_new_privs {no_new_privs}, seccomp {seccomp}; blocked none, ignored none; / ro"
    )


def _row(pid: str, given: str, environment: str, stop: str, *, exit_code: str = "7", ready: str = "nothing", signals: str) -> dict[str, str]:
    return {
        "PID": pid, "given": given, "environment": environment, "services": "base, top", "crash loop": "failed after 3 starts", "orphans": "20 of 20",
        "status": "base ready, top ready", "stop": f"{stop}; 0; in time", "exit code": exit_code, "READY": ready, "signals": signals,
    }  # fmt: skip


def _signals(reboot: str, interrupt: str = "0") -> str:
    return f"INT {interrupt}, PWR 0, RTMIN+3 0, RTMIN+4 0, RTMIN+5 {reboot}"


def _mounts(proc: str, run: str, dev: str, sys: str) -> str:
    held = {"p": "nosuid", "d": "nodev", "x": "noexec", "r": "ro"}
    rows = [("/proc proc", proc), ("/run tmpfs", run), ("/dev tmpfs", dev), ("/sys sysfs", sys)]
    return "; ".join("/sys not mounted" if how == "-" else " ".join([where, *(held[one] for one in how)]) for where, how in rows)


_SUBREAPER = "2, a subreaper"
CELLS: dict[str, dict[str, str]] = {
    "unshare": _row("1", _given("python3", "all"), "HOST_SAYS", "TERM to PID 1: top, base", signals=_signals("129")),
    "chroot": _row("any, a subreaper", _given("the host's", "all"), "HOST_SAYS", "TERM to pyinit: top, base", signals=_signals("0")),
    "bwrap": _row("1", _given("python3", "all", no_new_privs=1), "HOST_SAYS", "TERM to PID 1: top, base", signals=_signals("129")),
    "runc": _row("1", _given("python3", "KILL NET_BIND_SERVICE AUDIT_WRITE", no_new_privs=1), "TERM", "runc kill ID TERM: top, base", ready="READY=1", signals=_signals("0")),
    "crun": _row("1", _given("python3", "KILL NET_BIND_SERVICE AUDIT_WRITE", no_new_privs=1), "TERM", "crun kill ID TERM: top, base", ready="READY=1", signals=_signals("0")),
    "nspawn": _row("1", _given("python3", _NSPAWN, seccomp=2), _OF_NSPAWN, "TERM to systemd-nspawn: top, base", ready="READY=1", signals=_signals("133")),
    "nspawn-as-pid2": _row(_SUBREAPER, _given("(sd-stubinit)", _NSPAWN, seccomp=2), _OF_NSPAWN, "TERM to systemd-nspawn: top, base", signals=_signals("0")),
    "nspawn-boot": _row("1", _given("python3", _NSPAWN, seccomp=2), _OF_NSPAWN.removeprefix("LANG "), "TERM to systemd-nspawn: top, base", ready="READY=1", signals=_signals("133")),
    "nspawn-image": _row("1", _given("python3", _NSPAWN, seccomp=2), _OF_NSPAWN, "TERM to systemd-nspawn: top, base", ready="READY=1", signals=_signals("133")),
    "lxc-start": _row("1", _given("python3", "all"), "container", "lxc-stop: top, base", exit_code="0", signals=_signals("starts again", "starts again")),
    "lxc-execute": _row(_SUBREAPER, _given("lxc-execute", "all"), "container", "lxc-stop: all at once: base, top", signals=_signals("0")),
    "podman": _row("1", _given("python3", _PODMAN, seccomp=2), "HOSTNAME TERM", "podman stop: top, base", signals=_signals("0")),
    "podman-init": _row("1", _given("python3", _PODMAN, seccomp=2), "HOSTNAME TERM", "podman stop: base", signals=""),
    "pyinit": _row("1", _given("python3", _OURS, seccomp=2), "container", "TERM to pyinit: top, base", ready="READY=1", signals=_signals("0")),
}
_RUNC = _mounts("", "pdx", "p", "rpdx")
_OF_NSPAWN_MOUNTS = _mounts("pdx", "pd", "p", "rpdx").replace("sysfs", "tmpfs")
_MOUNTS = {
    "unshare": _mounts("pdx", "x", "", "-"), "chroot": _mounts("", "x", "", "-"), "bwrap": _mounts("pdx", "pd", "pd", "-"), "runc": _RUNC, "crun": _RUNC,
    "nspawn": _OF_NSPAWN_MOUNTS, "nspawn-as-pid2": _OF_NSPAWN_MOUNTS, "nspawn-boot": _OF_NSPAWN_MOUNTS, "nspawn-image": _OF_NSPAWN_MOUNTS,
    "lxc-start": _mounts("pdx", "pdx", "", "r"), "lxc-execute": _mounts("pdx", "pdx", "", "r"),
    "podman": _mounts("pdx", "pd", "px", "rpdx"), "podman-init": _mounts("pdx", "pd", "px", "rpdx"), "pyinit": _mounts("pdx", "pd", "px", "rpdx"),
}  # fmt: skip
for _name, _cell in _MOUNTS.items():
    CELLS[_name]["mounts"] = _cell
    CELLS[_name]["cgroup"] = "its own" if _name in ("nspawn", "nspawn-boot", "nspawn-image") else "its container's"
_NO_SERVICES = ("crash loop", "status", "signals")
for _question in _NO_SERVICES:  # of one command under podman's --init
    del CELLS["podman-init"][_question]
CELLS["podman-init"]["services"] = "base"
_given_one = CELLS["podman-init"]["given"].replace("a session of its own", "no session of its own")
CELLS["podman-init"]["given"] = _given_one.replace("blocked none", "blocked 20 21 22")  # as catatonit does
NOT_ASKED = {("podman-init", question) for question in _NO_SERVICES}
