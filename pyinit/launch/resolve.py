"""Where a mount target really lies in an image, symlinks followed inside the root.

Owns that walk. Must not know what will be mounted. Law: a link that leads out of the root, or to nothing, is an error.
"""

import errno
import os
import stat

_MOST_LINKS = 40  # as the kernel's own limit (path_resolution(7))


def canonical_target(root_fd: int, target: str) -> str:
    """The absolute path in the root that `target` names, without symlinks; the missing tail is kept as it is.

    Raises OSError (ELOOP, EXDEV, ENOTDIR) whose text names the link.
    """
    pending = [name for name in target.split("/") if name]
    done: list[str] = []
    links = 0
    must_exist = 0  # how many leading components a link has promised
    through = ""
    while pending:
        name = pending.pop(0)
        try:
            seen = os.stat("/".join([*done, name]), dir_fd=root_fd, follow_symlinks=False)
        except FileNotFoundError:
            if len(done) < must_exist:
                raise _refused(errno.EXDEV, f"{through}, which leads out of the root or to nothing in it") from None
            return "/" + "/".join([*done, name, *pending])
        if not stat.S_ISLNK(seen.st_mode):
            if pending and not stat.S_ISDIR(seen.st_mode):
                raise _refused(errno.ENOTDIR, f"/{'/'.join([*done, name])} is no directory")
            done.append(name)
            continue
        links += 1
        try:
            text = os.readlink("/".join([*done, name]), dir_fd=root_fd)
        except OSError as error:
            raise _refused(errno.ESTALE, f"/{'/'.join([*done, name])} was a symlink a moment ago: somebody changes the folder") from error
        through = f"/{'/'.join([*done, name])} is a symlink to {text}"
        if links > _MOST_LINKS:
            raise _refused(errno.ELOOP, f"{through}, in a loop")
        base = _follow(done, text, through)
        must_exist = len(base)
        done, pending = [], base + pending
    return "/" + "/".join(done)


def _follow(done: list[str], text: str, through: str) -> list[str]:
    base = [] if text.startswith("/") else list(done)
    for word in text.split("/"):
        if word == "..":
            if not base:
                raise _refused(errno.EXDEV, f"{through}, which leads out of the root")
            base.pop()
        elif word not in ("", "."):
            base.append(word)
    return base


def _refused(number: int, text: str) -> OSError:
    return OSError(number, f"{text}; name the real folder as the target, or mend the image")
