"""What a build file asks for, as frozen values: the images and what goes into each.

Owns the shapes. Must not know TOML, tools or files.
Law: a value here is complete and checked; paths are absolute, but patterns are relative to the image's root.
"""

from pyinit.errors import EXIT_SYSTEM, PyinitError
from pyinit.model import NOWHERE, Origin
from pyinit.records import NamedTuple

# The compressors that mksquashfs and the kernel share, each with its highest level; 0: it has none.
COMPRESSORS = {"gzip": 9, "lz4": 0, "lzo": 9, "xz": 0, "zstd": 22}
DEFAULT_EPOCH = 1735689600  # 2025-01-01: any date in the past does


class BuildError(PyinitError):
    """An image cannot be made: a tool is missing or failed, a file is not what it should be."""

    exit_code = EXIT_SYSTEM


class Image(NamedTuple):
    """One `[[image]]`: a base system (`packages` of `suite`, `skeleton` over them) or a `directory`, never both.

    `skeleton` and `directory` are "" when not given; `level` 0 is the compressor's own default; at `init`, if that is
    given, stands pyinit itself as one program.
    """

    name: str
    suite: str = ""
    packages: tuple[str, ...] = ()
    skeleton: str = ""
    directory: str = ""
    init: str = ""
    exclude: tuple[str, ...] = ()
    compression: str = "zstd"
    level: int = 0
    origin: Origin = NOWHERE


class BuildFile(NamedTuple):
    """A whole build file: images in its order; `output` is the folder they are written to."""

    path: str
    output: str
    epoch: int  # seconds; no file of an image is newer
    images: tuple[Image, ...]
