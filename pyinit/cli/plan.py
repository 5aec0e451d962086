"""`pyinit plan FILE`: what the launcher would do, step by step, doing nothing.

Owns how a plan reads. Must not know what is planned. Law: of a value that came from the environment its name is
shown, for it may be a secret and plans get pasted.
"""

import os
import re
from _collections_abc import Iterator, Mapping

from pyinit.config.load import load
from pyinit.core import graph
from pyinit.errors import EXIT_OK, LaunchError, UsageError
from pyinit.launch import plan, rootless, start, stores, users
from pyinit.model import Config, Landlock, Layer

_SHORTEST = 3  # of a value that is told from chance
_HELP = "usage: pyinit plan FILE\n\nShow each step of the launch with its config line and what undoes it; do nothing.\n"


def run(arguments: list[str]) -> int:
    """0; ConfigError for what `check` would refuse."""
    if arguments[:1] in (["--help"], ["-h"]):
        print(_HELP, end="")
        return EXIT_OK
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UsageError("expected one file: `pyinit plan services.toml`")
    environment = _Recorder()
    config = load(arguments[0], environment)
    print("\n".join(_with_names(line, environment.used) for line in lines(config)))
    return EXIT_OK


def _with_names(line: str, used: Mapping[str, str]) -> str:
    """`line` with the names for the values, in one pass, so that no name is taken for a value; longest first."""
    names = {value: f"${{{name}}}" for name, value in used.items() if len(value) >= _SHORTEST}
    if not names:
        return line
    pattern = "|".join(re.escape(value) for value in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda found: names[found[0]], line)


class _Recorder(Mapping[str, str]):
    """The environment, and what of it a config has used."""

    def __init__(self) -> None:
        self.used: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        self.used[name] = os.environ[name]
        return self.used[name]

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def lines(config: Config) -> list[str]:
    """The plan as people read it."""
    text = []
    if config.container is not None:
        for number, step in enumerate(plan.make(_resolved(config)).operations(), 1):
            text.append(f"{number:3} {step.describe()}  [{step.origin}]")
            if step.undo():
                text.append(f"      undo: {step.undo()}")
    specs = {spec.name: spec for spec in config.services}
    text.append("services, in the order of their start:")
    for name in graph.start_order(config.services):
        spec = specs[name]
        after = [*spec.requires, *(f"{other} (wanted)" for other in spec.wants)]
        waits = f", after {', '.join(after)}" if after else ""
        state = ("" if spec.enabled else ", not enabled") + (", no new privileges" if spec.process.no_new_privileges else "")
        if config.container is None and spec.process.seccomp.program:  # else it is an operation
            state += f", seccomp {spec.process.seccomp.name}"
        text.append(f"    {name}: {' '.join(_quote(word) for word in spec.command)}{waits}{state}  [{spec.origin}]")
        if spec.process.landlock is not None:
            text.append(f"        landlock: {_landlock(spec.process.landlock)}  [{dict(spec.process.origins)['landlock']}]")
    return text


def _landlock(rules: Landlock) -> str:
    said = [f"{key} {' '.join(paths)}" for key, paths in (("ro", rules.ro), ("rw", rules.rw)) if paths]
    kinds = (("tcp_bind", rules.tcp_bind), ("tcp_connect", rules.tcp_connect))
    said += [f"{key} {' '.join(map(str, ports)) or 'none'}" for key, ports in kinds if ports is not None]
    return ", ".join([*said, *([f"scope {' '.join(rules.scope)}"] if rules.scope else [])])


def _resolved(config: Config) -> Config:
    """With this host's ids, if it has them; else the plan tells whose they would be."""
    config = _stored(config)
    try:
        if config.container is not None and start.is_rootless(config.container):
            return rootless.adapted(config)
        return users.resolved(config)
    except LaunchError:
        return config


def _stored(config: Config) -> Config:
    """With the files of images that were imported before; what is still in its layout stands for its layers."""
    box = config.container
    if box is None or not any(layer.oci for layer in box.layers):
        return config
    from pyinit.image import store  # for those who have an image of a layout

    found: list[Layer] = []
    for layer in box.layers:
        rows = store.standing(layer.path, layer.tag, stores.default_folder(), layer.sha256) if layer.oci else ()
        found += [Layer(one.path, layer.origin, one.sha256) for one in rows]
        if layer.oci and not rows:
            found.append(Layer(f"the layers of {layer.path}:{layer.tag}, imported before all that", layer.origin))
        elif not layer.oci:
            found.append(layer)
    return config._replace(container=box._replace(layers=tuple(found)))


def _quote(word: str) -> str:
    return repr(word) if not word or set(word) & set(" \n\t'\"$") else word
