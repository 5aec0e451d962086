"""Network file systems: what mount.nfs and mount.cifs do before the system call, and what the kernel's answers mean.

Owns which options the kernel is given, and the words for what a server refuses. Must not know where a mount goes, or
configs. Laws: runs in the host's network namespace, in a short-lived child that may be killed at any moment, for names
are resolved and servers waited for here; every error is an OSError whose text says what to do about it; a password
stands in no text.
Sources: nfs(5), mount.cifs(8), the kernel's fs/nfs/fs_context.c, fs/smb/client/fs_context.c, net/9p.
"""

import errno
import os
from _collections_abc import Callable

from pyinit.config import netsources
from pyinit.linux import mount
from pyinit.linux import sock as socket
from pyinit.records import NamedTuple

Options = dict[str, str | None]
NFS_PORT, PORTMAPPER_PORT, CIFS_PORT, P9_PORT = 2049, 111, 445, 564
_VERSIONS_OF_NFS = ("3", "4.0", "4.1", "4.2")
_DEFAULT_NFS = "4.2"
_STATD = "/run/rpc.statd.pid"
_KNOCK_S = 5.0  # for a server's answer to a SYN
_NO_ANSWER = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


class Server(NamedTuple):
    """Who is to be reached. A port of 0: it can't be knocked at, for it does not speak TCP."""

    host: str
    port: int
    family: str = ""  # "4" or "6", if an option asks for one


class Peer(NamedTuple):
    """A server's address, and ours as that server sees it; both as digits."""

    address: str
    own: str


Reach = Callable[[Server], Peer]


def connect(fstype: str, source: str, options: Options, attributes: int) -> int:
    """An fd of a detached mount with MOUNT_ATTR_* `attributes`; OSError that says what is wrong, in the server's terms.

    `options` are those of nfs(5), mount.cifs(8) and 9p, an option of None is a flag; passwords are among them.
    """
    kernel_type, prepared = prepare(fstype, source, options, reach)
    if kernel_type == "nfs" and _locks_remotely(prepared) and not os.path.exists(_STATD):
        raise OSError(errno.ENOLCK, "NFS 3 locks files by rpc.statd, which does not run here: start it, or give the option nolock")
    try:
        return mount.new_filesystem(kernel_type, prepared, attributes=attributes)
    except OSError as error:
        number, words = error.errno or errno.EIO, _without_passwords(error.strerror or "", options)
    # Not `from` the kernel's error, whose text is not ours to vouch for.
    raise OSError(number, f"{meaning(kernel_type, prepared, number)} ({words})")


def prepare(fstype: str, source: str, options: Options, reach: Reach) -> tuple[str, Options]:
    """The kernel's name of the type, and all its options in the order that it needs; OSError EINVAL for what can't be meant."""
    found = netsources.place(fstype, source)
    if isinstance(found, str):
        raise _invalid(f"source: {found}")
    for key, value in options.items():
        if value is not None and ("\0" in value or len(os.fsencode(value)) > netsources.MOST_BYTES):
            raise _invalid(f"option {key}: the kernel takes {netsources.MOST_BYTES} bytes at most, and no NUL")
        if key not in netsources.PASSWORDS and (fault := netsources.option_fault(fstype, key)):
            raise _invalid(f"option {key}: {fault}")
    if fstype in netsources.NFS:
        return _nfs(fstype, source, found, dict(options), reach)
    if fstype in netsources.CIFS:
        return "cifs", _cifs(source, found, dict(options), reach)
    return "9p", _p9(source, dict(options), reach)


def _nfs(fstype: str, source: str, place: netsources.Place, options: Options, reach: Reach) -> tuple[str, Options]:
    version = _nfs_version(options)
    if version == "3" and fstype == "nfs4":
        raise _invalid('type "nfs4" is NFS 4: for vers=3 write type = "nfs"')
    proto = options.get("proto") or next((name for name in ("udp", "tcp", "rdma") if name in options), "tcp")
    family = "" if "proto" not in options else "6" if proto.endswith("6") else "4"
    port = _port(options, NFS_PORT if version != "3" else PORTMAPPER_PORT) if proto.startswith("tcp") else 0
    peer = reach(Server(place.host, port, family))
    filled: Options = {"source": source, "vers": version, "addr": peer.address}
    if version != "3":
        filled["clientaddr"] = peer.own  # where the server calls back
    elif host := options.get("mounthost"):
        filled["mountaddr"] = reach(Server(host, 0)).address
    # A sloppy file system forgives the options after that one only.
    first: Options = {"sloppy": None} if "sloppy" in options else {}
    return "nfs" if version == "3" else "nfs4", {**first, **filled, **options}


def _nfs_version(options: Options) -> str:
    """Taken out of the options, where it may stand as vers=, nfsvers=, or v4.2; with none the kernel would refuse."""
    names = [f"v{one}" for one in ("2", "4", *_VERSIONS_OF_NFS) if f"v{one}" in options]
    given = [text for key in ("vers", "nfsvers") if (text := options.pop(key, None)) is not None] + [name[1:] for name in names]
    for name in names:
        del options[name]
    if len(set(given)) > 1:
        raise _invalid(f"the options name several versions of NFS: {', '.join(given)}; leave one")
    version = given[0] if given else _DEFAULT_NFS
    minor = options.pop("minorversion", None) if version == "4" else None
    # mount.nfs would try all of 4.2, 4.1, 4.0; the kernel alone would take 4 for 4.0, which is what nobody means by it.
    version = f"4.{minor}" if minor else _DEFAULT_NFS if version == "4" else version
    if version not in _VERSIONS_OF_NFS:
        raise _invalid(f"vers: expected one of {', '.join(_VERSIONS_OF_NFS)}, found {version}")
    return version


def _cifs(source: str, place: netsources.Place, options: Options, reach: Reach) -> Options:
    if "guest" in options:
        del options["guest"]  # mount.cifs's own word: the kernel knows no user by an empty name
        options = {**options, "username": "", "password": ""}
    elif not {"username", "user"} & set(options) and options.get("sec") != "none":
        if not (options.get("sec") or "").startswith("krb5"):
            raise _invalid("cifs needs an option username, with a password in secret_options, or the option guest, or sec=krb5")
        options = {**options, "username": "root"}  # the kernel wants one, whoever the ticket is for
    port = 0 if "rdma" in options else _port(options, CIFS_PORT)
    peer = reach(Server(place.host, port))
    # The share, and the folder in it, the kernel reads in the source. `sloppy` forgives what comes after it, and `sec`
    # takes back an earlier `sign`. The password is last: a kernel that refuses an option after it frees it twice.
    order = ("sloppy", "sec")
    early = {key: options[key] for key in order if key in options}
    late = {key: options[key] for key in netsources.PASSWORDS if key in options}
    rest = {key: value for key, value in options.items() if key not in early and key not in late}
    return {"source": source, **early, "ip": peer.address, **rest, **late}


def _p9(source: str, options: Options, reach: Reach) -> Options:
    trans = options.get("trans") or "virtio"
    if trans == "tcp":
        source = reach(Server(source, _port(options, P9_PORT), "4")).address  # older kernels know no IPv6 there
    return {"source": source, "trans": trans, **options}


def _port(options: Options, default: int) -> int:
    text = options.get("port", str(default))
    if text is None or not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 16:
        raise _invalid(f"port: expected 1-65535, found {text or 'nothing'}")
    return int(text)


def _locks_remotely(options: Options) -> bool:
    return "nolock" not in options and options.get("local_lock") != "all"


def _invalid(text: str) -> OSError:
    return OSError(errno.EINVAL, text)


def _without_passwords(text: str, options: Options) -> str:
    for key in netsources.PASSWORDS:
        if value := options.get(key):
            text = text.replace(value, "***")
    return text


def reach(server: Server) -> Peer:
    """Resolve the name, knock at each address in turn, and take the first that answers; OSError that says who did not."""
    family = {"4": socket.AF_INET, "6": socket.AF_INET6}.get(server.family, socket.AF_UNSPEC)
    try:
        host = server.host.encode() if server.host.isascii() else server.host  # as text it would import the tables of IDNA
        found = socket.getaddrinfo(host, server.port, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        text = (error.strerror or "unknown host").lower()
        raise OSError(errno.EHOSTUNREACH, f"{server.host}: {text}: is the name right, and known to this host's resolver?") from error
    except UnicodeError as error:
        raise _invalid(f"{server.host}: is no name of a host") from error
    faults: list[OSError] = []
    for version, _, _, _, address in found:
        digits = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
        with socket.socket(version, socket.SOCK_STREAM if server.port else socket.SOCK_DGRAM) as sock:
            sock.settimeout(_KNOCK_S)
            try:
                sock.connect(address if server.port else (address[0], 9, *address[2:]))  # UDP: nothing is sent
            except OSError as error:
                faults.append(_unreached(digits, server.port, error.errno or errno.ETIMEDOUT))
                continue
            return Peer(digits, socket.getnameinfo(sock.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0])
    raise faults[0] if len(faults) == 1 else OSError(faults[-1].errno, "; ".join(str(one.strerror) for one in faults))


def _unreached(address: str, port: int, number: int) -> OSError:
    if number == errno.ECONNREFUSED:
        what = "is the server up?" if port != PORTMAPPER_PORT else "NFS 3 asks rpcbind there; is it up? else give port, mountport and nolock"
        return OSError(number, f"{address} refuses connections to port {port}: {what}")
    if number in _NO_ANSWER:
        why = "" if number == errno.ETIMEDOUT else f" ({os.strerror(number)})"
        return OSError(number, f"{address} does not answer on port {port}{why}: is the server up, and does a firewall or a route stand between?")
    return OSError(number, f"{address} port {port}: {os.strerror(number)}")


def meaning(fstype: str, options: Options, number: int) -> str:
    """What the kernel's errno says of this server, and what to do."""
    kind = "nfs" if fstype.startswith("nfs") else fstype
    if number in _NO_ANSWER or number in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED):
        return f"the server does not talk to us, though something answers there: is it the right port, and {_SPEAKS[kind].format(**_defaults(options))}?"
    if number == errno.ENODEV:
        return f"this kernel has no {fstype}: {_MODULES[kind]}"
    text = _MEANINGS.get((kind, number)) or _MEANINGS.get(("", number), "the mount failed; dmesg(1) may tell more")
    return text.format(**_defaults(options))


def _defaults(options: Options) -> dict[str, str]:
    """What texts speak of."""
    return {
        "vers": options.get("vers") or "of the kernel's choice", "user": options.get("username") or options.get("user") or "nobody",
        "own": options.get("clientaddr") or "this host", "trans": options.get("trans") or "",
    }  # fmt: skip


_MODULES = {
    "nfs": "modprobe nfsv4, or nfsv3",
    "cifs": "modprobe cifs",
    "9p": "modprobe 9p and 9pnet_virtio, or a kernel that has them (of Debian's: linux-image-amd64, not the cloud one)",
}
_SPEAKS = {"nfs": "does it speak NFS {vers}", "cifs": "does it speak SMB {vers} (set vers)", "9p": "does it speak 9P"}
_MEANINGS = {
    ("", errno.EINVAL): "the kernel takes an option amiss",
    ("", errno.EPERM): "it needs CAP_SYS_ADMIN here, and a server that lets us",
    ("", errno.ENAMETOOLONG): "the source is too long for the kernel",
    ("nfs", errno.EINVAL): "the kernel takes an option amiss, or sec=krb5 lacks its rpc.gssd",
    ("nfs", errno.EPROTONOSUPPORT): "the server does not speak NFS {vers}, or the kernel does not: set vers to one that both do (4.2, 4.1, 4.0, 3)",
    ("nfs", errno.EACCES): "the export refuses this client, {own}: let it in at the server (its address, its port below 1024, sec=)",
    ("nfs", errno.EPERM): "the export refuses this client, {own}: let it in at the server (its address, its port below 1024, sec=)",
    ("nfs", errno.ENOENT): "the server has no such export, or lets this client see none: look at its list of exports",
    ("nfs", errno.ENOTDIR): "the export is no folder",
    ("nfs", errno.ESTALE): "the server has lost what it exports there: restart the export",
    ("nfs", errno.EIO): "the server failed, or broke off: look at its log",
    ("cifs", errno.EACCES): "the server refuses the user {user}: the name, domain or password is wrong, or the share is not for that user",
    ("cifs", errno.EPERM): "the server refuses the user {user}: the name, domain or password is wrong, or the share is not for that user",
    ("cifs", errno.ENOENT): "the server has no such share, or the share no such folder",
    ("cifs", errno.ENOTDIR): "what the source names in the share is no folder",
    ("cifs", errno.EKEYEXPIRED): "the password of the user {user} has expired",
    ("cifs", errno.EOPNOTSUPP): "the server does not speak SMB {vers}: set vers to one that it does (3.1.1, 3.0, 2.1)",
    ("cifs", errno.ENOKEY): "sec=krb5 needs a ticket, and cifs.upcall to fetch it",
    ("cifs", errno.EIO): "the server answers what the kernel does not understand: look at both logs",
    ("9p", errno.EINVAL): "the kernel takes an option amiss, or has no such trans as {trans}; dmesg(1) tells",
    ("9p", errno.ENOENT): "there is no 9p device of that tag (trans={trans}): the machine must be given one, of qemu by -fsdev and -device virtio-9p-pci,mount_tag=",
    ("9p", errno.EBUSY): "that 9p device is mounted already, and serves one mount at a time",
    ("9p", errno.EPROTO): "what answers there does not speak 9P as we do: set version",
}
