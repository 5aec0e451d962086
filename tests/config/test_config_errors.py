"""What is wrong with a config: whole messages, each with its file and line."""

import os
import struct
import time
from pathlib import Path

import pytest

from pyinit.config.load import load
from pyinit.errors import ConfigError

SERVICE = '[services.ok]\ncommand = ["x"]\n'
BOX = '[container]\nlayers = ["layer"]\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layer").mkdir()
    return tmp_path


def problems(text, environment=None, name="services.toml"):
    Path(name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(name, environment or {})
    assert caught.value.exit_code == 100
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def of_service(lines, **kind):
    """The messages of a service's keys, from line 3 on."""
    return problems(f'[services.app]\ncommand = ["x"]\n{lines}\n', **kind)


UNITS = 'expected a duration such as "250ms", "5s", "2m" or "1h", found'
SIZES = 'expected a size such as "64K", "512M" or "2G", found'
COMMAND = 'expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string'
OF_SERVICE = {
    "stop_timeout = 5": f"stop_timeout: {UNITS} 5",
    "stop_timeout = 0.5": f"stop_timeout: {UNITS} 0.5",
    'stop_timeout = "5"': f'stop_timeout: {UNITS} "5"',
    'stop_timeout = "-5s"': f'stop_timeout: {UNITS} "-5s"',
    'stop_timeout = "5 s"': f'stop_timeout: {UNITS} "5 s"',
    'stop_timeout = "s"': f'stop_timeout: {UNITS} "s"',
    'stop_timeout = ".5s"': f'stop_timeout: {UNITS} ".5s"',
    'stop_timeout = "1e3s"': f'stop_timeout: {UNITS} "1e3s"',
    'stop_timeout = "5d"': f'stop_timeout: {UNITS} "5d"',
    'stop_timeout = "99999999h"': f'stop_timeout: {UNITS} "99999999h"',
    "stop_timeout = true": f"stop_timeout: {UNITS} true",
    "log = { max_size = 512 }": f"log.max_size: {SIZES} 512",
    'log = { max_size = "512MB" }': f'log.max_size: {SIZES} "512MB"',
    'log = { max_size = "0M" }': f'log.max_size: {SIZES} "0M"',
    'log = { max_size = "99999999999T" }': f'log.max_size: {SIZES} "99999999999T"',
    "stop_signal = 15": 'stop_signal: expected a signal such as "TERM" or "RTMIN+3", found 15',
    'stop_signal = "TREM"': 'stop_signal: expected a signal such as "TERM" or "RTMIN+3", found "TREM"',
    'stop_signal = "65"': 'stop_signal: expected a signal such as "TERM" or "RTMIN+3", found "65"',
    'umask = "0888"': 'umask: expected octal digits in a string, such as "022", found "0888"',
    "umask = 27": 'umask: expected octal digits in a string, such as "022", found 27',
    'umask = "1777"': 'umask: expected octal digits in a string, such as "022", found "1777"',
    'kind = "onshot"': 'kind: expected "service", "oneshot" or "task", found "onshot"; did you mean oneshot?',
    'kind = ["service"]': 'kind: expected "service", "oneshot" or "task", found a list',
    'kill = "group "': 'kill: expected "cgroup", "group" or "process", found "group "; did you mean group?',
    'restart = "on_failure"': (
        'restart: expected "always", "on-failure" or "never", found "on_failure"; did you mean on-failure?'
    ),
    "restart = true": 'restart: expected "always", "on-failure" or "never", found true',
    "enabled = 1": "enabled: expected true or false, found 1",
    'critical = "yes"': 'critical: expected true or false, found "yes"',
    "requires = 'db'": 'requires: expected a list of strings, found "db"',
    "requires = [1]": "requires[1]: expected a string, found 1",
    "environment = []": "environment: expected a table, found a list",
    "environment = { A = true }": "environment.A: expected a string, found true",
    "environment = { A = 1.5 }": "environment.A: expected a string, found 1.5",
    'environment = { "A=B" = "x" }': "environment.A=B: expected a name without = and NUL",
    'environment = { A = "x\\u0000" }': 'environment.A: expected a string without NUL, found "x\\x00"',
    "user = -1": "user: expected a user's name or number, found -1",
    'user = ""': 'user: expected a user\'s name or number, found ""',
    'user = "a b"': 'user: expected a user\'s name or number, found "a b"',
    "group = 4294967295": "group: expected a group's name or number, found 4294967295",
    "working_directory = 'app'": 'working_directory: expected an absolute path, found "app"',
    "working_directory = ''": 'working_directory: expected an absolute path, found ""',
    "working_directory = 7": "working_directory: expected an absolute path, found 7",
    "working_directory = '/proc/1/root'": 'working_directory: expected a folder outside /proc, found "/proc/1/root"',
    "rlimits = { nofiel = 1 }": "rlimits.nofiel: there is no such key; did you mean nofile?",
    "rlimits = { nofile = -1 }": 'rlimits.nofile: expected a number or "unlimited", found -1',
    "rlimits = { nofile = '1k' }": 'rlimits.nofile: expected a number or "unlimited", found "1k"',
    "rlimits = { nofile = { soft = 1 } }": 'rlimits.nofile.hard: expected a number or "unlimited", found nothing',
    "rlimits = { nofile = { soft = 2, hard = 1 } }": "rlimits.nofile: expected soft <= hard, found 2 and 1",
    "restart_delay = '1s'": 'restart_delay: expected a table, found "1s"',
    "restart_delay = { factor = 0.5 }": "restart_delay.factor: expected a number from 1 to 100, found 0.5",
    "restart_delay = { jitter = 2 }": "restart_delay.jitter: expected a number from 0 to 1, found 2",
    "restart_delay = { initial = '1m' }": "restart_delay.initial: expected 0 < initial <= max, found 60s and 30s",
    "restart_delay = { first = 1 }": f"restart_delay.first: {UNITS} 1",
    "start_limit = { count = 0 }": "start_limit.count: expected an integer from 1 to 10000, found 0",
    "start_limit = { count = 1.0 }": "start_limit.count: expected an integer from 1 to 10000, found 1.0",
    "start_limit = { then = 'reboot' }": 'start_limit.then: expected "retry", "fail" or "exit", found "reboot"',
    "success_exit_codes = 0": "success_exit_codes: expected a list of exit codes, 0 to 255, found 0",
    "success_exit_codes = [256]": "success_exit_codes: expected a list of exit codes, 0 to 255, found a list",
    "ready = true": "ready: expected a table, found true",
    "ready = {}": "ready: expected one of tcp, unix, http, exec, path, fd, notify, log, found none",
    "ready = { timeout = '1s' }": "ready: expected one of tcp, unix, http, exec, path, fd, notify, log, found none",
    "ready = { fd = 3, notify = true }": "ready: expected one of tcp, unix, http, exec, path, fd, notify, log, found fd and notify",
    "ready = { fd = 1 }": "ready.fd: expected an integer from 3 to 1000, found 1",
    "ready = { notify = false }": (
        "ready.notify: expected true, found false; take `ready` out, and the service is ready when it runs"
    ),
    "ready = { path = '' }": 'ready.path: expected an absolute path, found ""',
    "ready = { fd = 3, timeout = 30 }": f"ready.timeout: {UNITS} 30",
    'forward_signals = "USR1"': 'forward_signals: expected a list of strings, found "USR1"',
    'forward_signals = ["USR1", "NOPE"]': (
        'forward_signals[2]: expected a signal such as "USR1" or "RTMIN+3", found "NOPE"'
    ),
    'forward_signals = ["TERM"]': (
        'forward_signals: TERM is the init\'s own or can\'t be caught; expected others, such as "USR1" or "WINCH"'
    ),
    "log = 'file'": 'log: expected a table, found "file"',
    "log = { to = 'sylog' }": 'log.to: expected "file", "stdout", "syslog", "null" or "inherit", found "sylog"; did you mean syslog?',
    "log = { to = 'service:' }": 'log.to: expected "file", "stdout", "syslog", "null", "inherit" or "service:NAME", found "service:"; did you mean service:NAME?',
    "log = { to = 'service:no' }": "log.to: there is no service no; there are: app",
    "log = { to = 'service:app' }": 'log.to: a service can\'t be its own logger: expected another\'s name, or to = "file"',
    "log = { to = 'stdout', keep = 3 }": 'log.keep: is of no use to a log that goes to "stdout": expected to = "file" or "syslog", or take this out',
    "log = { to = 'null', rate = 3 }": 'log.rate: is of no use to a log that goes to "null": expected to = "file" or "syslog" or "stdout", or take this out',
    "log = { max_age = '0s' }": 'log.max_age: expected a time of 1 s or more, found "0s"',
    "log = { max_line = '2M' }": 'log.max_line: expected a size of at most "1M", found "2M"',
    "log = { total_size = '15M' }": "log.total_size: expected twice max_size or more, for there is always a current file and an older one",
    "log = { rate_burst = 5 }": "log.rate_burst: belongs to `rate`; add that, or take this out",
    "log = { rate = 5, rate_burst = 4 }": "log.rate_burst: expected rate_burst >= rate, found 4 and 5",
    "log = { rate = 0 }": "log.rate: expected an integer from 1 to 1000000, found 0",
    "log = { format = 'json', timestamp = 'iso' }": 'log.timestamp: each object of format = "json" has its time already; take this out',
    "log = { format = 'xml' }": 'log.format: expected "text" or "json", found "xml"',
    "log = { stderr = 'apart' }": 'log.stderr: expected "joined" or "separate", found "apart"; did you mean separate?',
    "log = { timestamp = 'utc' }": 'log.timestamp: expected "iso", "tai64n" or "none", found "utc"',
    "log = { keep = 0 }": "log.keep: expected an integer from 1 to 10000, found 0",
    "log = { compress = 1 }": "log.compress: expected true or false, found 1",
    "log = { file = 'x' }": "log.file: there is no such key; known are: compress, echo, format, keep, max_age, max_line, max_size, rate, rate_burst, stderr, timestamp, to, total_size",
    "stop_timout = '5s'": "stop_timout: there is no such key; did you mean stop_timeout?",
}


@pytest.mark.parametrize(("text", "message"), OF_SERVICE.items())
def test_a_key_of_a_service(text, message):
    assert of_service(text) == [f"services.toml:3: services.app.{message}"]


@pytest.mark.parametrize(
    ("host", "port"), [("localhost", "80"), ("127.0.0.1", "0"), ("127.0.0.1", "65536"), ("", "80"), ("127.0.0.1", "http"), ("1.2.3", "4")]
)
def test_readiness_by_tcp_wants_numbers(host, port):
    assert of_service(f"ready = {{ tcp = '{host}:{port}' }}") == [
        f'services.toml:3: services.app.ready.tcp: expected a numeric address and a port, such as "127.0.0.1:80" or "[::1]:80", found "{host}:{port}"'
    ]


ONE_OF = "tcp, unix, http, exec, path"
OF_LIFE = {
    "nice = 20": "nice: expected an integer from -20 to 19, found 20",
    "oom_score_adj = 2000": "oom_score_adj: expected an integer from -1000 to 1000, found 2000",
    "cpu_affinity = '3-1'": 'cpu_affinity: expected CPUs such as [0, 1] or "0-3,6", found "3-1"',
    "cpu_affinity = []": 'cpu_affinity: expected CPUs such as [0, 1] or "0-3,6", found a list',
    "capabilities = ['CHWON']": 'capabilities[1]: expected a capability such as "NET_BIND_SERVICE", found "CHWON"; did you mean CHOWN?',
    "capabilities = []\nambient_capabilities = ['KILL']": "ambient_capabilities: KILL is not in `capabilities`, which bounds it; add it there",
    "chroot = 'x'": 'chroot: expected an absolute path, found "x"',
    "landlock = {}": 'landlock: expected one of ro, rw, tcp_bind, tcp_connect, scope, such as ro = ["/usr", "/etc"], found none',
    "landlock = { rw = [], scope = [] }": 'landlock: expected one of ro, rw, tcp_bind, tcp_connect, scope, such as ro = ["/usr", "/etc"], found none',
    "landlock = { ro = ['/usr', '-lib'] }": 'landlock.ro[2]: expected an absolute path, with "-" before it if it may be missing, found "-lib"',
    "landlock = { rw = '/usr' }": 'landlock.rw: expected a list of strings, found "/usr"',
    "landlock = { exec = [] , ro = ['/'] }": "landlock.exec: there is no such key; known are: ro, rw, scope, tcp_bind, tcp_connect",
    "landlock = { tcp_bind = [80, 70000] }": "landlock.tcp_bind[2]: expected a port from 0 to 65535, found 70000",
    "landlock = { tcp_connect = [0] }": "landlock.tcp_connect[1]: expected a port from 1 to 65535, found 0",
    "landlock = { tcp_connect = ['http'] }": 'landlock.tcp_connect[1]: expected a port from 1 to 65535, found "http"',
    "landlock = { tcp_bind = 80 }": "landlock.tcp_bind: expected a list of ports, found 80",
    "landlock = { scope = ['signal'] }": 'landlock.scope[1]: expected "signals" or "abstract_sockets", found "signal"; did you mean signals?',
    "read_only_paths = ['x']": 'read_only_paths[1]: expected an absolute path, found "x"',
    "stdin = 'file'": 'stdin: expected "null", "tty", "file:/path" or "socket:NAME", found "file"',
    "stdin = 'socket:web'": "stdin: there is no socket web among this service's `sockets`",
    "tty = '/dev/tty1'\nsession = 'group'": 'session: a controlling terminal needs a session: expected "own" beside `tty`, found "group"',
    "tty = '/dev/tty1'\nstdin = 'null'": "stdin: the terminal of `tty` is standard input; take one of them out",
    "environment_files = ['a.env']": 'environment_files[1]: expected an absolute path, with "-" before it if it may be missing, found "a.env"',
    "health = {}": f"health: expected one of {ONE_OF}, found none",
    "health = { fd = 3 }": "health.fd: there is no such key; known are: action, body, exec, failures, http, interval, path, start_period, status, tcp, timeout, unix",
    "health = { path = '/x', interval = '0s' }": "health.interval: expected a time above 0",
    "health = { path = '/x', status = 200 }": "health.status: belongs to http, and this asks by path; take one of them out",
    "health = { http = 'localhost' }": 'health.http: expected a URL such as "http://127.0.0.1:8080/health", found "localhost"',
    "health = { http = 'http://localhost/' }": 'health.http: expected a numeric address and a port, such as "127.0.0.1:80" or "[::1]:80", found "localhost:80"',
    "health = { http = 'http://[::1]/', status = 99 }": 'health.status: expected a status such as 200, or a range such as "200-299", found 99',
    "health = { http = 'http://[::1]/', body = '(' }": 'health.body: expected a regular expression, found "(" (missing ), unterminated subpattern at position 0)',
    "ready = { log = '' }": "ready.log: expected a regular expression, found nothing",
    "ready = { log = 'up' }\nlog = { to = 'null' }": 'ready: lines of a log that goes to "null" are not seen here: expected log.to = "file", "syslog" or "stdout"',
    "watchdog = '0s'": "watchdog: expected a time above 0",
    "stop = [{ signal = 'TERM' }]\nstop_signal = 'INT'": "stop_signal: `stop` says it already; take one of them out",
    "stop = []": "stop: expected steps such as [{ signal = \"QUIT\", wait = \"5s\" }], found none",
    "stop = [{ signal = 'X' }]": 'stop[1].signal: expected a signal such as "TERM" or "RTMIN+3", found "X"',
    "reload_signal = 'HUP'\nreload_command = 'x'": "reload_signal: expected one of reload_signal and reload_command, found both",
    "pre_start = [['x'], []]": 'pre_start[2]: expected a command such as ["/bin/mkdir", "-p", "/run/app"], found a list',
    "finish = [['x'], ['y']]": "finish: expected one command, found a list of commands",
    "hook_timeout = { pre_start = '0s' }": "hook_timeout.pre_start: expected a time above 0",
    "kind = 'task'": 'a task needs schedule = "*/5 * * * *" or interval = "10m", found none',
    "schedule = '* * * *'": 'schedule: expected five fields, such as "*/5 * * * *", found 4',
    "schedule = '0 0 30 2 *'": 'schedule: "0 0 30 2 *" never comes: no such month has that day',
    "interval = '5m'\nhealth = { path = '/x' }": "health: belongs to a service, and this is a task; take it out",
    "interval = '5m'\nkind = 'service'": "interval: belongs to a task, and this is a service; take it out",
    "interval = '5m'\nstart_limit = { then = 'exit' }": (
        'start_limit: a task that fails runs again at its next time: expected then = "retry" or "fail", found "exit"'
    ),
    "interval = '5m'\ncritical = true": "critical: a task that fails runs again at its next time; take this out",
    "interval = '5m'\nrestart = 'always'": 'restart: a task that is done is not started again: expected "on-failure" or "never", found "always"',
    "timeout = '5m'": "timeout: a service may run for ever; this belongs to a oneshot or a task (ready and health have their own)",
    "instances = 0": 'instances: expected a number from 1 to 1000, or names such as ["eu", "us"], found 0',
    "condition = { path_exists = 'x' }": 'condition.path_exists: expected an absolute path, found "x"',
    "condition = { env = '=1' }": 'condition.env: expected "NAME" or "NAME=value", found "=1"',
    "cgroup = { memory_max = '1M', memory_high = '2M' }": "cgroup.memory_high: expected memory_high <= memory_max, for what is above that is killed, not slowed",
    "strict = 1": "strict: expected true or false, found 1",
}


@pytest.mark.parametrize(("text", "message"), OF_LIFE.items())
def test_a_key_of_a_services_life(text, message):
    found = of_service(text)
    assert [line.partition("services.app")[2].lstrip(".").removeprefix(": ") for line in found] == [message]


def test_the_place_of_a_wrong_key_is_its_own_line():
    assert of_service("nice = 1\numask = '8'") == [
        'services.toml:4: services.app.umask: expected octal digits in a string, such as "022", found "8"'
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", f"services.toml:1: services.app: command is missing: {COMMAND}"),
        ("command = []", f"services.toml:2: services.app.command: {COMMAND}, found nothing"),
        ('command = [""]', f"services.toml:2: services.app.command: {COMMAND}, found nothing"),
        ('command = " "', f"services.toml:2: services.app.command: {COMMAND}, found nothing"),
        ("command = 5", f"services.toml:2: services.app.command: {COMMAND}, found 5"),
        ('command = ["x", 1]', "services.toml:2: services.app.command[2]: expected a string, found 1"),
        ('command = [\n"x",\n["y"]]', "services.toml:4: services.app.command[2]: expected a string, found a list"),
        (
            "command = \"x 'y\"",
            "services.toml:2: services.app.command: expected words as a shell has them, found \"x 'y\" (no closing quotation)",
        ),
    ],
)
def test_a_command(command, message):
    assert problems(f"[services.app]\n{command}\n") == [message]


@pytest.mark.parametrize("name", ["a b", "../x", ".x", "-x", "@x", "a/b", "x" * 64, ""])
def test_a_services_name(name):
    assert problems(f'[services."{name}"]\ncommand = ["x"]\n') == [
        "services.toml:1: services: expected a name of up to 63 letters, digits, _ . - or @, found "
        + (f'"{name}"' if len(name) < 60 else f'"{"x" * 56}..."')
    ]


def test_a_oneshot_has_neither_readiness_nor_an_endless_restart():
    assert of_service('kind = "oneshot"\nrestart = "always"\nready = { fd = 3 }') == [
        'services.toml:4: services.app.restart: a oneshot that is done is not started again: expected "on-failure" or "never", found "always"',
        "services.toml:5: services.app.ready: a oneshot is ready when it exits 0; take this out",
    ]


OF_INIT = {
    "stop_timeout = 9": f"stop_timeout: {UNITS} 9",
    'exit = "on-sigal"': (
        'exit: expected "on-signal", "when-all-exited" or "when-main-exits", found "on-sigal"; did you mean on-signal?'
    ),
    'exit = "when-main-exits"': 'exit: expected main = "NAME" beside it: the service whose exit code counts',
    'main = "okay"': "main: there is no service okay; did you mean ok?",
    'main = "app"': "main: there is no service app; there are: ok",
    'log_dir = "logs"': 'log_dir: expected an absolute path, found "logs"',
    'control_socket = ""': 'control_socket: expected an absolute path, found ""',
    'stop_signals = ["WINHC"]': 'stop_signals[1]: expected a signal such as "USR1" or "RTMIN+3", found "WINHC"',
    "environment_clear = 0": "environment_clear: expected true or false, found 0",
    "enviroment = {}": "enviroment: there is no such key; did you mean environment?",
}


@pytest.mark.parametrize(("text", "message"), OF_INIT.items())
def test_a_key_of_init(text, message):
    assert problems(f"[init]\n{text}\n{SERVICE}") == [f"services.toml:2: init.{message}"]


OF_CONTAINER = {
    'name = "a/b"': 'name: expected up to 63 letters, digits, _ . or -, found "a/b"',
    'name = "a@b"': 'name: expected up to 63 letters, digits, _ . or -, found "a@b"',
    'name = "-a"': 'name: expected up to 63 letters, digits, _ . or -, found "-a"',
    'hostname = "a_b"': 'hostname: expected up to 63 letters, digits, . or -, found "a_b"',
    'hostname = ""': 'hostname: expected up to 63 letters, digits, . or -, found ""',
    'writable = "ram"': 'writable: expected "none", "tmpfs" or a folder with a / in its path, found "ram"',
    'writable = "tmpf"': 'writable: expected "none", "tmpfs" or a folder with a / in its path, found "tmpf"; did you mean tmpfs?',
    "writable = true": 'writable: expected "none", "tmpfs" or a folder with a / in its path, found true',
    'writable_size = "1M"': 'writable_size: only writable = "tmpfs" has it; write that, or take it out',
    'writable_paths = ["/x"]': 'writable_paths: expected writable = "tmpfs" or a folder beside it: where the changes go',
    'namespaces = ["pid", "mnt", "mount", "net"]': (
        'namespaces[2]: expected one of pid, mount, uts, ipc, cgroup, net, user, time, found "mnt"; did you mean mount?'
    ),
    'namespaces = ["mount", "net"]': 'namespaces: expected "pid" among them: there is no container without it',
    'namespaces = ["pid", "mount"]': (
        'namespaces: expected "net" among them, or [container.network] mode = "host": without it the network is the host\'s'
    ),
    "orphan = 1": "orphan: expected true or false, found 1",
    'init = "sbin/init"': 'init: expected an absolute path, found "sbin/init"',
    "namespaces = ['pid', 'mount', 'net']\nuser_namespace = {}": 'user_namespace: expected "user" among `namespaces`, found none; add that, or take this out',
    "namespaces = ['pid', 'mount', 'net']\ntime_offsets = {}": 'time_offsets: expected "time" among `namespaces`, found none; add that, or take this out',
    'user_namespace.map = "autp"': 'user_namespace.map: expected "auto" or "single", found "autp"; did you mean auto?',
    "user_namespace.map = []": "user_namespace.map: expected 1 to 340 ranges, found 0",
    "user_namespace.map = [1]": "user_namespace.map: expected an array of tables, [[container.user_namespace.map]], found a list",
    "user_namespace.map = [{ inside = 0 }]": "user_namespace.map[1]: expected outside = N: the first id of this host that the range stands for",
    "user_namespace.map = [{ inside = 0, outside = -1 }]": "user_namespace.map[1].outside: expected an integer from 0 to 4294967294, found -1",
    "user_namespace.map = [{ inside = 1, outside = 9 }]": "user_namespace.map: expected a range with inside = 0: PID 1 is root in its container",
    "user_namespace.map = [{ outside = 9, count = 0 }]": "user_namespace.map[1].count: expected an integer from 1 to 4294967295, found 0",
    "user_namespace.map = [{ outside = 9, count = 4294967295 }]": "user_namespace.map[1]: it goes beyond the highest id, 4294967294; make count smaller",
    "user_namespace.map = [{ outside = 10, count = 9 }, { inside = 8, outside = 90 }]": (
        "user_namespace.map[2]: it overlaps with map[1]: each id, inside and outside, stands for one; mend the ranges"
    ),
    "user_namespace.map = [{ outside = 10, count = 9 }, { inside = 9, outside = 2, count = 9 }]": (
        "user_namespace.map[2]: it overlaps with map[1]: each id, inside and outside, stands for one; mend the ranges"
    ),
    "user_namespace.maps = 1": "user_namespace.maps: there is no such key; did you mean map?",
    'user_namespace = { map = [{ outside = 9 }], user = "x" }': "user_namespace.user: a map of ranges says itself whose the ids are; take this out",
    'time_offsets.monotonic = "1"': 'time_offsets.monotonic: expected a duration such as "1h", or "-5m" to set it back, found "1"',
    'time_offsets.realtime = "1h"': "time_offsets.realtime: there is no such key; known are: boottime, monotonic",
    'share = ["nett:db"]': 'share[1]: expected a namespace and whose, such as "net:db", "ipc:/path" or "uts:4321", found "nett:db"',
    'share = ["net"]': 'share[1]: expected a namespace and whose, such as "net:db", "ipc:/path" or "uts:4321", found "net"',
    'share = ["net:a/b"]': 'share[1]: expected a container\'s name, an absolute path or a pid behind net:, found "a/b"',
    'share = ["net:99999999"]': 'share[1]: expected a container\'s name, an absolute path or a pid behind net:, found "99999999"',
    'share = ["ipc:a", "ipc:b"]': "share[2]: ipc is there twice; a process is in one of each kind: take one out",
    'share = ["ipc:a"]\nnamespaces = ["pid", "mount", "net", "ipc"]': 'namespaces[4]: "ipc" is in share as well: it is made, or shared; take one out',
    'share = ["user:a"]\nuser_namespace = {}': "user_namespace: the user namespace is shared, so it is the other's to say; take this, or that, out",
    'share = ["net:a"]\nnetwork.mode = "host"': "network: the network is shared with somebody who has it; take this out, or net out of share",
    'hostnam = "x"': "hostnam: there is no such key; did you mean hostname?",
    "mounts = {}": "mounts: expected an array of tables, [[container.mounts]], found a table",
    "cgroup.memory_max = 512": f"cgroup.memory_max: {SIZES} 512",
    "cgroup.cpu_max = 0": "cgroup.cpu_max: expected a number from 0.01 to 4096, found 0",
    "cgroup.cpu_max = nan": "cgroup.cpu_max: expected a number from 0.01 to 4096, found nan",
    'cgroup.cpu_max = "2"': 'cgroup.cpu_max: expected a number from 0.01 to 4096, found "2"',
    "cgroup.cpu_weight = 10001": "cgroup.cpu_weight: expected an integer from 1 to 10000, found 10001",
    "cgroup.pids_max = true": "cgroup.pids_max: expected an integer from 1 to 4194304, found true",
    "cgroup.memory_swap_max = 0": f"cgroup.memory_swap_max: {SIZES} 0",
    "cgroup = { memory_max = '1M', memory_low = '2M' }": "cgroup.memory_low: expected memory_low <= memory_max, for nothing above that is there to be kept",
    'cgroup.cpuset = "3-1"': 'cgroup.cpuset: expected CPUs such as [0, 1] or "0-3,6", found "3-1"',
    "cgroup.io_weight = 0": "cgroup.io_weight: expected an integer from 1 to 10000, found 0",
    "cgroup.io_max = {}": "cgroup.io_max: expected an array of tables, [[container.cgroup.io_max]], found a table",
    'cgroup.pressure = { memory = "2s/1s" }': 'cgroup.pressure.memory: expected a wait and a window of 500ms to 10s, such as "150ms/2s", found "2s/1s"',
    'cgroup.pressure = { io = "1s" }': 'cgroup.pressure.io: expected a wait and a window of 500ms to 10s, such as "150ms/2s", found "1s"',
    'cgroup.pressure = { memroy = "1s/2s" }': "cgroup.pressure.memroy: there is no such key; did you mean memory?",
    'cgroup.io_max = [{ read = "1M" }]': 'cgroup.io_max[1]: expected a device such as "/dev/vda" or "8:0", found nothing',
    'cgroup.io_max = [{ device = "vda", read = "1M" }]': 'cgroup.io_max[1]: expected a device such as "/dev/vda" or "8:0", found "vda"',
    'cgroup.io_max = [{ device = "8:0" }]': "cgroup.io_max[1]: expected one of read, write, read_iops, write_iops beside its device",
    'cgroup.io_max = [{ device = "8:0", read = "1M" }, { device = "8:0", write = "1M" }]': "cgroup.io_max[2]: 8:0 is there twice; put its limits into one",
    'cgroup.io_max = [{ device = "8:0", read_iop = 1 }]': "cgroup.io_max[1].read_iop: there is no such key; did you mean read_iops?",
    "cgroup.swap_max = '1M'": "cgroup.swap_max: there is no such key; did you mean memory_swap_max?",
    "network.ipv6 = true": 'network.ipv6: only mode = "slirp4netns" has it; write that, or take it out',
    "network.publish = []": 'network.publish: only mode = "veth" or "slirp4netns" has it; write that, or take it out',
    "network.mtu = 1400": 'network.mtu: only mode = "veth", "macvlan" or "slirp4netns" has it; write that, or take it out',
    'network.mode = "bridge"': 'network.mode: expected "none", "host", "veth", "macvlan", "slirp4netns" or "netns", found "bridge"',
    'network.bridge = "b"': 'network.bridge: only mode = "veth" has it; write that, or take it out',
    'network.dns = ["dns.example"]': 'network.dns[1]: expected a numeric address, found "dns.example"',
    'network.hosts = { db = "db.example" }': 'network.hosts.db: expected a numeric address, found "db.example"',
    'network.hosts = { localhost = "10.0.0.1" }': (
        "network.hosts.localhost: localhost is the container's own loopback; take it out, or name it otherwise"
    ),
    'network.hosts = { "a b" = "::1" }': "network.hosts.a b: expected a host name of letters, digits, . and -",
    'security.capabilities = ["CHWON"]': (
        'security.capabilities[1]: expected a capability such as "NET_BIND_SERVICE", found "CHWON"; did you mean CHOWN?'
    ),
    'security.devices = "/dev/fuse"': 'security.devices: expected a list such as ["/dev/fuse"], found "/dev/fuse"',
    "security.devices = [5]": 'security.devices[1]: expected a path such as "/dev/fuse" or a table with one, found 5',
    'security.devices = ["/dev/../etc/x"]': 'security.devices[1]: expected a path below /dev, found "/dev/../etc/x"',
    'security.devices = ["fuse"]': 'security.devices[1]: expected a path below /dev, found "fuse"',
    'security.devices = ["/dev/"]': 'security.devices[1]: expected a path below /dev, found "/dev/"',
    "security.devices = [{ access = 'r' }]": 'security.devices[1]: expected a path below /dev, found ""',
    'security.devices = ["/dev/shm/x"]': "security.devices[1]: /dev/shm is made for every container; take it out",
    'security.devices = ["/dev/loop-control", "/dev/loop-control"]': "security.devices[2]: /dev/loop-control is there twice; take one out",
    'security.devices = ["/dev/not-there"]': "security.devices: /dev/not-there: No such file or directory; load the module that it belongs to, or take it out",
    'security.devices = ["/dev/loop-control/x"]': "security.devices: /dev/loop-control/x: Not a directory; load the module that it belongs to, or take it out",
    'security.devices = [{ path = "/dev/loop-control", access = "rx" }]': 'security.devices[1].access: expected some of the letters "rwm", found "rx"',
    'security.devices = [{ path = "/dev/loop-control", mod = "0600" }]': "security.devices[1].mod: there is no such key; did you mean mode?",
    'security.devices = [{ path = "/dev/loop-control", mode = 600 }]': 'security.devices[1].mode: expected octal digits in a string, such as "0660", found 600',
    'security.devices = [{ path = "/dev/loop-control", uid = -1 }]': "security.devices[1].uid: expected an integer from 0 to 4294967294, found -1",
    'security.capabilities = ["CHOWN", "CAP_NET_BIND_SERVCE"]': (
        'security.capabilities[2]: expected a capability such as "NET_BIND_SERVICE", found "CAP_NET_BIND_SERVCE"; did you mean NET_BIND_SERVICE?'
    ),
    'security.capabilities = ["cap_kil"]': (
        'security.capabilities[1]: expected a capability such as "NET_BIND_SERVICE", found "cap_kil"; did you mean KILL?'
    ),
    'security.capabilities = ["sys_admin"]': (
        'security.capabilities[1]: expected a capability such as "NET_BIND_SERVICE", found "sys_admin"; did you mean SYS_ADMIN?'
    ),
    'security.capabilities = "all"': 'security.capabilities: expected a list of strings, found "all"',
    'security.seccomp = "defualt"': (
        'security.seccomp: expected "default", "unconfined" or the path of a profile, with a / or .toml in it, found "defualt"; did you mean default?'
    ),
    "security.seccomp = true": 'security.seccomp: expected "default", "unconfined" or the path of a profile, with a / or .toml in it, found true',
    "security.seccomp_log = 1": "security.seccomp_log: expected true or false, found 1",
    'security.no_new_privileges = "yes"': 'security.no_new_privileges: expected true or false, found "yes"',
    'security.masked_paths = ["/sys/fs/cgroup/cgroup.stat"]': (
        'security.masked_paths[1]: expected /sys/fs/cgroup, which is read-only, or what is not in it, found "/sys/fs/cgroup/cgroup.stat"'
    ),
    'security.masked_paths = ["proc/x"]': 'security.masked_paths[1]: expected an absolute path, found "proc/x"',
    'security.readonly_paths = "none"': 'security.readonly_paths: expected a list of strings, found "none"',
}


@pytest.mark.parametrize(("text", "message"), OF_CONTAINER.items())
def test_a_key_of_container(text, message):
    line = 3 + max(part.startswith(message.partition(":")[0].partition("[")[0].split(".")[0]) * number for number, part in enumerate(text.split("\n")))
    assert problems(f"{BOX}{text}\n{SERVICE}") == [f"services.toml:{line}: container.{message}"]


_PROC = "/proc in that root is of its pid namespace;"


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ('"mount:db"', f'share[1]: expected "pid:db" beside it, found none: {_PROC} add that'),
        ('"pid:web", "mount:db"', f'share[2]: expected "pid:db" beside it, found "pid:web": {_PROC} write that'),
        ('"mount:4321"', f'share[1]: expected "pid:4321" beside it, found none: {_PROC} add that'),
        ('"mount:/proc/7/ns/mnt"', f'share[1]: expected "pid:/proc/7/ns/pid" beside it, found none: {_PROC} add that'),
        ('"mount:/run/of-db"', f"share[1]: expected the pid namespace of the same one beside it, found none: {_PROC} add that"),
        ('"mount:db", "pid:db", "mount:web"', "share[3]: mount is there twice; a process is in one of each kind: take one out"),
    ],
)
def test_who_stands_in_anothers_root_is_in_its_pid_namespace(share, message):
    assert problems(f"[container]\nshare = [{share}]\n{SERVICE}") == [f"services.toml:2: container.{message}"]


def test_what_makes_or_changes_a_root_is_refused_where_that_is_anothers():
    of_container = """layers = ["layer"]
writable = "tmpfs"
writable_size = "1M"
writable_inodes = 100
writable_paths = ["/var"]
user_namespace = {}
security.masked_paths = []
security.readonly_paths = []
security.devices = ["/dev/fuse"]
network.dns = []
network.hosts = {}
mounts = [{ type = "tmpfs", target = "/ram" }]
secrets.key.env = "KEY"
"""
    for what, whose, advice in (
        ("db", "container db's", "take this out, or write it there"),
        ("77", "that of the process 77", "take this out"),
        ("/proc/7/ns/mnt", "another's, of /proc/7/ns/mnt", "take this out"),
    ):
        text = f'[container]\nshare = ["mount:{what}", "pid:{what.replace("mnt", "pid")}"]\n{of_container}[services.ok]\ncommand = ["x"]\nlog.to = "syslog"\n'
        refused = f"the root is {whose}; {advice}"
        user = "share that one's" if what[0] == "/" else f'share "user:{what}" as well'
        names = [line.partition(" = ")[0] for line in of_container.splitlines()]
        names[-1] = "secrets"
        assert problems(text, {"KEY": "x"}) == [
            f"services.toml:{line}: container.{name}: "
            + (
                f"the root is {whose}, which nobody in a user namespace of this container's own may join; take user out, and if the other has one, {user}"
                if name == "user_namespace" else refused
            )
            for line, name in enumerate(names, 3)
        ] + ['services.toml:18: services.ok.log.to: the root is another\'s, and with it /dev/log; write to = "file"']  # fmt: skip


def test_a_user_namespace_among_those_that_it_makes():
    text = f'[container]\nshare = ["mount:db", "pid:db"]\nnamespaces = ["net", "user"]\n{SERVICE}'
    assert problems(text) == [
        "services.toml:3: container.namespaces: the root is container db's, which nobody in a user namespace of this container's own may join; "
        'take user out, and if the other has one, share "user:db" as well'
    ]


PATHS = "expected an absolute path below the root, without .. : , and \\, found"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("var", f'{PATHS} "var"'), ("/", f'{PATHS} "/"'), ("/a/../b", f'{PATHS} "/a/../b"'), ("/a:b", f'{PATHS} "/a:b"'),
        ("/proc/x", "/proc/x does not lie on the root: /proc is mounted by itself; take it out"),
        ("/var/lib/app", "/var/lib/app and /var/lib lie in one another; take one out"),
        ("/var", "/var and /var/lib lie in one another; take one out"),
        ("/tmp", "/tmp does not lie on the root: /tmp is mounted by itself; take it out"),
    ],
)  # fmt: skip
def test_a_writable_path(path, message):
    text = f'writable = "tmpfs"\nwritable_size = "1"\nwritable_inodes = 2\nwritable_paths = ["/var/lib", "{path}"]\n'
    assert problems(f"{BOX}{text}{SERVICE}") == [
        f'services.toml:4: container.writable_size: {SIZES} "1"',
        "services.toml:5: container.writable_inodes: expected an integer from 16 to 2147483647, found 2",
        f"services.toml:6: container.writable_paths[2]: {message}",
    ]


def test_a_writable_path_below_a_mount_and_a_folder_that_is_none(folder):
    (folder / "state").write_text("")
    mount = '[[container.mounts]]\ntype = "tmpfs"\ntarget = "/data"\n'
    text = f'writable = "./state"\nwritable_paths = ["/data/x", "/database"]\nwritable_inodes = 99\n{mount}'
    assert problems(f"{BOX}{text}{SERVICE}") == [
        f"services.toml:3: container.writable: expected a folder, found something else: {folder}/state",
        "services.toml:4: container.writable_paths: /data/x is hidden by the mount of /data at services.toml:6; take one out",
        'services.toml:5: container.writable_inodes: only writable = "tmpfs" has it; write that, or take it out',
    ]


@pytest.mark.parametrize(
    ("layers", "line", "message"),
    [
        ("", 1, 'layers: expected a list of squashfs files or folders, such as ["base.squashfs"], found none'),
        ("layers = []", 1, 'layers: expected a list of squashfs files or folders, such as ["base.squashfs"], found none'),
    ],
)
def test_no_layers(layers, line, message):
    assert problems(f"[container]\n{layers}\n{SERVICE}") == [f"services.toml:{line}: container.{message}"]


PUBLISH = 'expected [ADDRESS:]PORT[:PORT][/tcp or /udp], such as "127.0.0.1:8080:80/tcp" or "8000-8010:80-90"'
VETH = 'bridge = "b"\naddress = "10.0.0.2/24"\n'
OF_VETH = {
    VETH.replace('"b"', '"a-name-too-long-x"'): (4, 'bridge: expected a link\'s name of up to 15 letters, found "a-name-too-long-x"'),
    VETH.replace("/24", ""): (5, 'address: expected an address with its prefix, such as "10.91.0.2/24", found "10.0.0.2"'),
    VETH.replace("/24", "/33"): (5, 'address: expected an address with its prefix, such as "10.91.0.2/24", found "10.0.0.2/33"'),
    VETH.replace("10.0.0.2", "10.0.0.256"): (
        5, 'address: expected an address with its prefix, such as "10.91.0.2/24", found "10.0.0.256/24"',
    ),
    VETH + 'gateway = "router"': (6, 'gateway: expected an address in the network of 10.0.0.2/24, found "router"'),
    VETH + 'gateway = "10.0.1.1"': (6, 'gateway: expected an address in the network of 10.0.0.2/24, found "10.0.1.1"'),
    VETH + 'gateway = "10.0.0.2"': (6, 'gateway: expected another address than the container\'s own, found "10.0.0.2"'),
    VETH.replace("0.2/", "0.0/"): (5, 'address: expected an address of one host, found its network\'s own: "10.0.0.0/24"'),
    VETH.replace("0.2/", "0.255/"): (5, 'address: expected an address of one host, found its network\'s broadcast address: "10.0.0.255/24"'),
    VETH.replace("10.0.0.2/24", "fd00::/64"): (5, 'address: expected an address of one host, found its network\'s own: "fd00::/64"'),
    VETH.replace("10.0.0.2/24", "fd00::2/64") + "mtu = 1279": (
        6, "mtu: expected 1280 or more, which IPv6 needs, found 1279; or leave IPv6 out",
    ),
    VETH + 'gateway = "fd00::1"': (6, 'gateway: expected an address in the network of 10.0.0.2/24, found "fd00::1"'),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), OF_VETH.items())
def test_a_key_of_a_veth(text, expected):
    line, message = expected
    found = problems(f'{BOX}[container.network]\n{text}\nmode = "veth"\n{SERVICE}')
    assert found == [f"services.toml:{line}: container.network.{message}"]


POOL = 'pool = ["10.0.0.0/29", "fd00::/64"]\n'
OF_POOL = {
    'pool = "10.0.0.1/24"': 'pool: expected a network of four addresses or more, such as "10.91.0.0/16" or "fd91::/64", found "10.0.0.1/24"',
    'pool = ["fd00::/127"]': 'pool[1]: expected a network of four addresses or more, such as "10.91.0.0/16" or "fd91::/64", found "fd00::/127"',
    'pool = ["10.0.0.0/24", "10.1.0.0/24"]': 'pool[2]: expected one IPv4 and one IPv6 at most, found another: "10.1.0.0/24"',
    'address = ["10.0.0.2/24", "10.0.1.2/24"]': 'address[2]: expected one IPv4 and one IPv6 at most, found another: "10.0.1.2/24"',
    'address = "10.0.0.2/24"\n' + POOL: 'pool: only address = "auto" has it; write that, or take it out',
    'address = 1': 'address: expected a list of strings, found 1',
    'mac = "01:00:00:00:00:01"': 'mac: expected a link\'s own address, such as "02:00:0a:5b:00:02", found "01:00:00:00:00:01"',
    'mac = "02:00:00:00:01"': 'mac: expected a link\'s own address, such as "02:00:0a:5b:00:02", found "02:00:00:00:01"',
    "mtu = 67": "mtu: expected an integer from 68 to 65535, found 67",
    'routes = [{ to = "10.9.0.1/16", via = "10.91.0.9" }]': 'routes[1].to: expected a network, such as "10.0.0.0/8", found "10.9.0.1/16"',
    'routes = [{ to = "10.9.0.0/16", via = "10.9.0.9" }]': (
        'routes[1].via: expected a router\'s address in the network of 10.91.0.0/16, found "10.9.0.9"'
    ),
    POOL + 'routes = [{ to = "10.9.0.0/16", via = "fd00::9" }]': (
        'routes[1].via: expected a router\'s address in the network of 10.0.0.0/29 or fd00::/64, found "fd00::9"'
    ),
    'routes = [{ via = "10.91.0.9" }]': 'routes: to is missing: expected a network, such as "10.0.0.0/8"',
    'publish = ["::1:80:80"]': f'publish[1]: {PUBLISH}, found "::1:80:80"',
    'publish = ["80:80/sctp"]': f'publish[1]: {PUBLISH}, found "80:80/sctp"',
    'publish = ["0:80"]': f'publish[1]: {PUBLISH}, found "0:80"',
    'publish = ["80-81:80"]': f'publish[1]: {PUBLISH}, found "80-81:80"',
    'publish = ["81-80"]': f'publish[1]: {PUBLISH}, found "81-80"',
    'publish = ["localhost:80:80"]': f'publish[1]: {PUBLISH}, found "localhost:80:80"',
    'publish = ["[10.0.0.1]:80:80"]': f'publish[1]: {PUBLISH}, found "[10.0.0.1]:80:80"',
    'publish = ["1000-3000:1000-3000"]': "publish[1]: expected a range of at most 1024 ports, found 2001",
    'publish = ["[fd00::9]:80:80"]': "publish[1]: fd00::9 is IPv6, and the container has no such address; give it one in address or pool",
    'publish = ["80:8080", "10.0.0.1:75-85:75-85"]': 'publish[2]: expected each port of the host once, found "10.0.0.1:75-85:75-85" beside line 4\'s',
    'outbound = [{ to = "10.0.0.1/8" }]': 'outbound[1].to: expected a network or an address, such as "10.0.0.0/8", found "10.0.0.1/8"',
    'outbound = [{ to = "db" }]': 'outbound[1].to: expected a network or an address, such as "10.0.0.0/8", found "db"',
    'outbound = [{ ports = [80, "x"] }]': 'outbound[1].ports[2]: expected a port or a range, such as 5432 or "8000-8010", found "x"',
    'outbound = [{ ports = [80], protocol = "icmp" }]': 'outbound[1].ports: only protocol = "tcp" or "udp" has ports; take them out',
    "outbound = [{ ports = [] }]": "outbound[1].ports: expected a port or more, found none; leave it out for all",
    POOL + "mtu = 576": "mtu: expected 1280 or more, which IPv6 needs, found 576; or leave IPv6 out",
    'parent = "eth0"': 'parent: only mode = "macvlan" has it; write that, or take it out',
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), OF_POOL.items())
def test_a_key_of_a_network_with_a_link(text, message):
    found = problems(f'{BOX}[container.network]\n{text}\nmode = "veth"\n{SERVICE}')
    assert [one.partition(": ")[2] for one in found] == [f"container.network.{message}"]


OF_SLIRP = {
    'pool = "10.0.2.0/26"': 'pool: expected an IPv4 network of 128 addresses or more, such as "10.0.2.0/24", found "10.0.2.0/26"',
    'pool = "10.0.2.1/24"': 'pool: expected an IPv4 network of 128 addresses or more, such as "10.0.2.0/24", found "10.0.2.1/24"',
    'pool = "fd00::/64"': 'pool: expected an IPv4 network of 128 addresses or more, such as "10.0.2.0/24", found "fd00::/64"',
    "ipv6 = true\nmtu = 1000": "mtu: expected 1280 or more, which IPv6 needs, found 1000; or leave IPv6 out",
    "mtu = 65522": "mtu: expected an integer from 68 to 65521, found 65522",
    'publish = ["[::1]:80:80"]': 'publish[1]: expected an IPv4 address, found "::1": slirp4netns publishes at IPv4 addresses only; name another, or leave it out',
    'publish = ["80:8080", "10.0.0.1:80:80"]': 'publish[2]: expected each port of the host once, found "10.0.0.1:80:80" beside line 4\'s',
    'address = "10.0.2.7/24"': 'address: only mode = "veth" or "macvlan" has it; write that, or take it out',
    "outbound = []": 'outbound: only mode = "veth" has it; write that, or take it out',
}


@pytest.mark.parametrize(("text", "message"), OF_SLIRP.items())
def test_a_key_of_a_network_by_slirp4netns(text, message):
    found = problems(f'{BOX}[container.network]\n{text}\nmode = "slirp4netns"\n{SERVICE}')
    assert [one.partition(": ")[2] for one in found] == [f"container.network.{message}"]


def test_a_macvlan_needs_a_parent_and_an_address_and_a_given_network_its_path():
    assert problems(f'{BOX}[container.network]\nmode = "macvlan"\n{SERVICE}') == [
        "services.toml:3: container.network: address is missing: expected an address with its prefix, such as "
        '"10.91.0.2/24", or a pool = "..." of its parent\'s network',
        'services.toml:3: container.network: parent is missing: expected a link of the host, such as "eth0"',
    ]
    assert problems(f'{BOX}[container.network]\nmode = "netns"\n{SERVICE}') == [
        'services.toml:3: container.network: path is missing: expected a network namespace, such as "/run/netns/blue" or "/proc/PID/ns/net"',
    ]


TYPES = '"squashfs", "erofs", "tmpfs", "bind", "overlay", "nfs", "nfs4", "cifs", "9p" or "fuse.PROGRAM"'
ELSEWHERE = 'expected what is mounted, as mount(8) or the program has it, such as "server:/path"'
OF_MOUNT = {
    'target = "/x"': (3, f": type is missing: expected {TYPES}"),
    'target = "/x"\ntype = "floppy"': (5, f'[1].type: expected {TYPES}, found "floppy"'),
    'target = "/x"\ntype = "fuse."': (5, f'[1].type: expected {TYPES}, found "fuse."'),
    'target = "/x"\ntype = "fuse"': (5, f'[1].type: expected {TYPES}, found "fuse"'),
    'target = "/x"\ntype = "fuse.a/b"\nsource = "y"': (5, f'[1].type: expected {TYPES}, found "fuse.a/b"'),
    'target = "/x"\ntype = "nfs3"': (5, f'[1].type: expected {TYPES}, found "nfs3"; did you mean nfs?'),
    'target = "/x"\ntype = "9p"': (3, f": source is missing: {ELSEWHERE}"),
    'target = "/x"\ntype = "fuse.sshfs"': (3, f": source is missing: {ELSEWHERE}"),
    'target = "/x"\ntype = "fuse.no-such"\nsource = "y"': (
        3, ".type: there is no program no-such on the host, which fuse.no-such needs; install it",
    ),
    'target = "/x"\ntype = "overlay"': (
        3, '.layers: expected a list of squashfs files or folders, such as ["base.squashfs"], found none',
    ),
    'target = "/x"\ntype = "overlay"\nlayers = ["gone"]': (
        6, ".layers: {folder}/gone is not there; build or copy it (`pyinit build` makes images)",
    ),
    'target = "/x"\ntype = "overlay"\nlayers = ["layer"]\nwritable = "ram"': (
        7, '[1].writable: expected "none", "tmpfs" or a folder with a / in its path, found "ram"',
    ),
    'target = "/x"\ntype = "overlay"\nlayers = ["layer"]\nwritable_size = "1M"': (
        7, '[1].writable_size: only writable = "tmpfs" has it; write that, or take it out',
    ),
    'target = "/x"\ntype = "overlay"\nlayers = ["layer"]\nwritable = "tmpfs"\nread_only = true': (
        8, '[1].read_only: writable = "none" makes it read-only; take one out',
    ),
    'target = "/x"\ntype = "bind"\nsource = "layer"\noptions = ["noexec", "size=1M"]': (
        7, '[1].options[2]: expected nosuid, nodev, noexec, an atime or nosymfollow, for a bind has no options of its own, found "size=1M"',
    ),
    'target = "/x"\ntype = "tmpfs"\noptions = ["size=1M"]': (6, '[1].options[1]: expected the key `size` for it, found "size=1M"'),
    'target = "/x"\ntype = "tmpfs"\noptions = ["noexec,noatime"]': (
        6, '[1].options[1]: expected one option a string, such as ["noexec", "noatime"], found "noexec,noatime"',
    ),
    'target = "/x"\ntype = "fuse.sshfs"\nsource = "h:"\noptions = ["fd=3"]': (
        7, '[1].options[1]: pyinit sets fd itself; take it out, found "fd=3"',
    ),
    'target = "/x"\ntype = "tmpfs"\noptions = "noexec"': (6, '[1].options: expected a list of strings, found "noexec"'),
    'target = "/x"\ntype = "bind"\nsource = "layer"\nidmap = { uid = ["1000"] }': (
        7, '[1].idmap.uid[1]: expected "SOURCE:INSIDE" or "SOURCE:INSIDE:COUNT" in numbers, found "1000"',
    ),
    'target = "/x"\ntype = "bind"\nsource = "layer"\nidmap = { gid = ["0:1", "5:4294967290:9"] }': (
        7, '[1].idmap.gid[2]: expected "SOURCE:INSIDE" or "SOURCE:INSIDE:COUNT" in numbers, found "5:4294967290:9"',
    ),
    'target = "/x"\ntype = "bind"\nsource = "layer"\nidmap = {}': (
        7, '[1].idmap.uid: expected uid = ["SOURCE:INSIDE"], gid = ["SOURCE:INSIDE"] or both, found nothing',
    ),
    'target = "/x"\ntype = "bind"\nsource = "layer"\nidmap = { users = [] }': (
        7, "[1].idmap.users: there is no such key; known are: gid, uid",
    ),
    'target = "/x"\ntype = "bind"\nsource = "layer"\npropagation = "rslave"': (
        7, '[1].propagation: expected "private", "slave" or "shared", found "rslave"; did you mean slave?',
    ),
    'target = "/x"\ntype = "cifs"\nsource = "//h/s"\nsecret_options = { password = "x" }': (
        7, '[1].secret_options.password: expected file, env or command, such as { file = "share-password" }: a secret does not stand in a config',
    ),
    'target = "/x"\ntype = "nfs4"\nsource = "/export"': (6, '[1].source: expected "host:/path", found "/export"'),
    'target = "/x"\ntype = "9p"\nsource = "h"\noptions = ["trans=tcp", "source=x"]': (
        7, '[1].options[2]: pyinit sets source itself; take it out, found "source"',
    ),
    'target = "/x"\ntype = "cifs"\nsource = "//h/s"\noptions = ["username=x", "password=s3cret,word"]': (
        7, '[1].options[2]: expected one option a string, such as ["noexec", "noatime"], found "password"',
    ),
    'target = "/x"\ntype = "cifs"\nsource = "//h/s"\noptions = ["pass=s3cret"]': (
        7, '[1].options[1]: expected pass in secret_options, for here it stands in the open, found "pass"',
    ),
    'type = "tmpfs"': (3, ": target is missing: expected an absolute path in the container"),
    'type = "tmpfs"\ntarget = "x"': (5, '[1].target: expected an absolute path, found "x"'),
    'type = "tmpfs"\ntarget = "/"': (5, '[1].target: expected a place of its own below the root, without .., found "/"'),
    'type = "tmpfs"\ntarget = "/a/../b"': (
        5, '[1].target: expected a place of its own below the root, without .., found "/a/../b"',
    ),
    'type = "tmpfs"\ntarget = "/proc"': (5, '[1].target: expected a place of its own below the root, without .., found "/proc"'),
    'type = "bind"\ntarget = "/x"': (3, ": source is missing: expected a path on the host"),
    'type = "tmpfs"\ntarget = "/x"\nsource = "y"': (
        6, "[1].source: a tmpfs has no such key; its keys are: type, target, read_only, options, mode, uid, gid, size, files",
    ),
    'type = "bind"\ntarget = "/x"\nsource = "layer"\nsize = "1M"': (
        7,
        "[1].size: a bind has no such key; its keys are: "
        "type, target, read_only, options, mode, uid, gid, source, create, idmap, propagation",
    ),
    'type = "tmpfs"\ntarget = "/x"\nsize = 16': (6, f"[1].size: {SIZES} 16"),
    'type = "tmpfs"\ntarget = "/x"\nmode = 750': (6, '[1].mode: expected octal digits in a string, such as "0755", found 750'),
    'type = "tmpfs"\ntarget = "/x"\nuid = "root"': (6, '[1].uid: expected an integer from 0 to 4294967294, found "root"'),
    'type = "tmpfs"\ntarget = "/x"\nfiles = { "../y" = "" }': (6, "[1].files.../y: expected a name below the target, without .."),
    'type = "tmpfs"\ntarget = "/x"\nfiles = { "/y" = "" }': (6, "[1].files./y: expected a name below the target, without .."),
    'type = "tmpfs"\ntarget = "/x"\nfiles = { y = 1 }': (6, "[1].files.y: expected a string, found 1"),
    'type = "tmpfs"\ntarget = "/x"\nfiles = { app.env = "A=1" }': (
        6, '[1].files.app.env: expected a variable\'s name, found "A=1"; a file\'s name with a dot stands in quotes',
    ),
    'type = "tmpfs"\ntarget = "/x"\nfiles = { app.conf = "A=1" }': (
        6, "[1].files.app: expected one of content, file, env or command, found none of them; a name with a dot stands in quotes",
    ),
    'type = "tmpfs"\ntarget = "/x"\nfiles.y = { content = "", mode = 600 }': (
        6, '[1].files.y.mode: expected octal digits in a string, such as "0644", found 600',
    ),
    'type = "tmpfs"\ntarget = "/x"\nfiles.y = { file = "a", env = "B" }': (
        6, "[1].files.y: expected one of content, file, env or command, found file and env",
    ),
    'type = "tmpfs"\ntarget = "/x"\nfiles.y = { file = "gone" }': (
        6, ".files: expected a file on the host, found none: {folder}/gone",
    ),
    'type = "tmpfs"\ntarget = "/x"\nfiles.y = { env = "NOT_SET" }': (
        6, "[1].files.y.env: NOT_SET is not set in the environment; set it before pyinit starts",
    ),
    'type = "tmpfs"\ntarget = "/x"\nfiles.y = { command = ["no-such-program"] }': (
        6, ".files: there is no program no-such-program on the host; install it, or write its path",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), OF_MOUNT.items())
def test_a_key_of_a_mount(folder, text, expected):
    line, message = expected
    message = message.replace("{folder}", str(folder))
    assert problems(f"{BOX}[[container.mounts]]\n{text}\n{SERVICE}") == [f"services.toml:{line}: container.mounts{message}"]


IN_CONFIG = 'expected file, env or command, such as { file = "db-password", uid = 33 }: a secret does not stand in a config'
OF_SECRETS = {
    'db = "x"': (4, f"db: {IN_CONFIG}"),
    'db = { content = "x" }': (4, f"db: {IN_CONFIG}"),
    "db = {}": (4, "db: expected one of file, env or command, found none of them"),
    '"a/b" = { env = "PATH" }': (4, "a/b: expected a file's name of letters, digits, _ . and -, for /run/secrets, found \"a/b\""),
    'db = { file = "layer/x", user = "app" }': (4, "db.user: there is no such key; known are: command, env, file, gid, mode, uid"),
}


@pytest.mark.parametrize(("text", "expected"), OF_SECRETS.items())
def test_a_secret(text, expected):
    line, message = expected
    assert problems(f"{BOX}[container.secrets]\n{text}\n{SERVICE}")[:1] == [f"services.toml:{line}: container.secrets.{message}"]


def test_mounts_that_hide_one_another():
    mount = '[[container.mounts]]\ntype = "tmpfs"\n'
    secrets = '[container.secrets]\ndb = { command = "true" }\n'
    assert problems(f'{BOX}{secrets}{mount}target = "/run/secrets"\n{SERVICE}') == [
        "services.toml:5: container.mounts: /run/secrets is where the secrets of services.toml:3 are; move one"
    ]
    files = '[[container.mounts]]\ntype = "fuse.sshfs"\nsource = "h:"\ntarget = "/files"\n'
    assert problems(f'{BOX}{files}{mount}target = "/files/cache"\n{SERVICE}') == [
        "services.toml:7: container.mounts: /files/cache lies in /files, which is mounted anew when its program ends; move one"
    ]


def test_two_mounts_on_one_place():
    mount = '[[container.mounts]]\ntype = "tmpfs"\n'
    assert problems(f'{BOX}{mount}target = "/x"\n{mount}target = "/x/"\n{SERVICE}') == [
        "services.toml:6: container.mounts: /x is the target of two mounts; the other is at services.toml:3"
    ]


def image(head=b"hsqs", used=4096, size=8192, compressor=1, block=1 << 17, log=17, version=(4, 0)):
    content = head + struct.pack("<IIIIHHHHHHQQ", 0, 0, block, 0, compressor, log, 0, 0, *version, 0, used) + bytes(48)
    return content + bytes(size - len(content)) if size > len(content) else content[:size]


def erofs(blocks=2, size=8192):
    content = bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(8) + bytes([12]) + bytes(23) + struct.pack("<I", blocks) + bytes(88)
    return content.ljust(size, b"\0")[:size]


def test_images_that_the_kernel_would_refuse_without_a_word(folder):
    for name, content in {
        "old": image(version=(3, 1)), "lzma": image(compressor=2), "none": image(compressor=77), "blocks": image(log=16),
        "used": image(used=5), "whole": erofs(), "short": erofs(blocks=3), "head": erofs(size=1100), "squashfs": image(),
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    layers = ",\n".join(f'"{name}"' for name in ("old", "lzma", "none", "blocks", "used", "whole", "short", "head"))
    rows = (("erofs", "squashfs"), ("squashfs", "whole"))
    mounts = "".join(f'[[container.mounts]]\ntype = "{kind}"\nsource = "{name}"\ntarget = "/{kind}"\n' for kind, name in rows)
    at = f"container.layers: {folder}"
    assert problems(f"[container]\nlayers = [{layers}]\n{mounts}{SERVICE}") == [
        f"services.toml:2: {at}/old is a squashfs of version 3.1, and Linux reads 4.0 only; build it again with mksquashfs 4",
        f"services.toml:3: {at}/lzma is compressed with lzma, which Linux does not read; build it again with zstd, xz, lz4, lzo or gzip",
        f"services.toml:4: {at}/none is damaged: there is no compressor 77; build or copy it again",
        f"services.toml:5: {at}/blocks is damaged: its blocks can't be of 131072 bytes and 2^16 bytes; build or copy it again",
        f"services.toml:6: {at}/used is damaged: 5 bytes are less than its superblock has; build or copy it again",
        f"services.toml:8: {at}/short is truncated: the superblock says 12288 bytes, the file has 8192; build or copy it again",
        f"services.toml:9: {at}/head is truncated: the superblock says 1152 bytes, the file has 1100; build or copy it again",
        f"services.toml:12: container.mounts.source: expected an EROFS image, found a squashfs image: {folder}/squashfs",
        f"services.toml:16: container.mounts.source: expected a squashfs image, found an EROFS image: {folder}/whole",
    ]


def test_images_that_are_not_whole(folder):
    for name, content in {
        "good": image(), "exact": image(used=8192), "short": image(used=8193), "head": image(size=20),
        "other": image(head=b"\x7fELF"), "empty": b"",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    layers = ",\n".join(f'"{name}"' for name in ("good", "exact", "short", "head", "other", "empty", "gone", "layer"))
    mounts = "".join(f'[[container.mounts]]\ntype = "squashfs"\ntarget = "/{n}"\nsource = "{n}"\n' for n in ("gone", "layer"))
    assert problems(f"[container]\nlayers = [{layers}]\n{mounts}{SERVICE}") == [
        f"services.toml:4: container.layers: {folder}/short is truncated: the superblock says 8193 bytes, the file has 8192; build or copy it again",
        f"services.toml:5: container.layers: {folder}/head is truncated: the superblock says 96 bytes, the file has 20; build or copy it again",
        f"services.toml:6: container.layers: expected a squashfs or EROFS image, found something else: {folder}/other",
        f"services.toml:7: container.layers: expected a squashfs or EROFS image, found an empty file: {folder}/empty",
        f"services.toml:8: container.layers: {folder}/gone is not there; build or copy it (`pyinit build` makes images)",
        f"services.toml:13: container.mounts.source: {folder}/gone is not there; build or copy it (`pyinit build` makes images)",
        f"services.toml:17: container.mounts.source: expected a squashfs file, found a folder: {folder}/layer",
    ]


def test_digests_that_pin_nothing(folder):
    (folder / "good").write_bytes(image())
    (folder / "a@b:c").write_bytes(image())
    digest = "0" * 64
    layers = f'"good@sha256:{digest}",\n"good@sha256:12",\n"good@sha512:{digest}",\n"layer@sha256:{digest}",\n"a@b:c"'
    rows = (("bind", f"layer@sha256:{digest}"), ("squashfs", f"image:/x@sha256:{digest}"))
    mounts = "".join(f'[[container.mounts]]\ntype = "{kind}"\nsource = "{source}"\ntarget = "/{kind}"\n' for kind, source in rows)
    wanted = "expected @sha256: and its 64 hexadecimal digits, found"
    host = "container.mounts[{}].source: a digest pins an image on the host, and this is {}; take @sha256:... out"
    assert problems(f"[container]\nlayers = [{layers}]\n{mounts}{SERVICE}") == [
        f'services.toml:3: container.layers[2]: {wanted} "@sha256:12"',
        f'services.toml:4: container.layers[3]: {wanted} "@sha512:{"0" * 48}..."',
        f"services.toml:5: container.layers: {folder}/layer is a folder, which has no digest; pin an image, or take @sha256:... out",
        f"services.toml:9: {host.format(1, 'no image')}",
        f"services.toml:13: {host.format(2, 'an image inside an image, which is pinned with that one')}",
    ]


def test_a_pipe_in_an_images_place_does_not_hang_the_check(folder):
    os.mkfifo(folder / "pipe")
    assert problems(f'[container]\nlayers = ["pipe"]\n{SERVICE}') == [
        f"services.toml:2: container.layers: expected a squashfs or EROFS image, found an empty file: {folder}/pipe"
    ]


def test_a_binds_source(folder):
    text = f'{BOX}[[container.mounts]]\ntype = "bind"\nsource = "data"\ntarget = "/data"\n{SERVICE}'
    assert problems(text) == [
        f"services.toml:5: container.mounts.source: {folder}/data is not there; make it, or write create = true"
    ]


def test_unknown_services_and_circles_have_the_line_of_the_word():
    text = """\
[services.app]
command = ["x"]
requires = [
  "db",
  "cahce",
]
wants = ["app"]
[services.cache]
command = ["x"]
after = ["web"]
before = ["nobody"]
[services.web]
command = ["x"]
requires = ["app"]
[services.db]
command = ["x"]
before = ["cache"]
after = ["web"]
[services.zz]
command = ["x"]
"""
    assert problems(text) == [
        "services.toml:1: services wait for each other in a circle: app -> db -> web -> app; remove one of these",
        "services.toml:5: services.app.requires: there is no service cahce; did you mean cache?",
        "services.toml:7: services.app.wants: a service can't wait for itself; take it out",
        "services.toml:11: services.cache.before: there is no service nobody; there are: app, cache, web, db, zz",
    ]


def test_the_same_service_in_two_files(folder):
    (folder / "more.toml").write_text('\n[services.a]\ncommand = "x"\n[init]\n[container]\nlayers = ["layer"]\n')
    assert problems(f'include = ["more.toml"]\n[services.a]\ncommand = "y"\n[init]\n{BOX}') == [
        "services.toml:2: services.a is defined twice; the other is at more.toml:2",
        "services.toml:4: [init] is there twice; the other is at more.toml:4",
        "services.toml:5: [container] is there twice; the other is at more.toml:5",
    ]


def test_errors_of_all_files_in_the_order_of_files_and_lines(folder):
    (folder / "conf").mkdir()
    (folder / "conf/b.toml").write_text('[services.b]\nkind = 1\ncommand = 2\n')
    (folder / "conf/c.toml").write_text("x = \n")
    assert problems('include = ["b.toml",\n"gone.toml", "c.toml"]\n[sevices.a]\n[services]\na = 1\n', name="conf/main.toml") == [
        "conf/main.toml:2: include: conf/gone.toml: No such file or directory; mend the path, which starts at this file's folder",
        "conf/main.toml:3: sevices: there is no such key; did you mean services?",
        "conf/main.toml:5: services.a: expected a table, found 1",
        'conf/b.toml:2: services.b.kind: expected "service", "oneshot" or "task", found 1',
        f"conf/b.toml:3: services.b.command: {COMMAND}, found 2",
        "conf/c.toml:1: no valid TOML at column 5: invalid value",
    ]


def test_a_file_that_is_included_twice_or_by_itself(folder):
    (folder / "a.toml").write_text('include = ["./services.toml"]\n' + SERVICE)
    assert problems('include = ["a.toml", "*a.toml"]\n') == [
        "services.toml:1: include: a.toml is included twice, or includes itself",
        "a.toml:1: include: services.toml is included twice, or includes itself",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [\n", "services.toml:2: no valid TOML at its end: "),
        ("[a]\nb = 1\nb = 2\n", "services.toml:3: no valid TOML at column 6: "),
        ("a = 1\n  b = x\n", "services.toml:2: no valid TOML at column 7: "),
    ],
)
def test_an_error_of_syntax_has_its_line(text, message):
    """What follows is the parser's own text, which differs between its versions."""
    (found,) = problems(text)
    assert found.startswith(message)


def test_what_the_parser_chokes_on():
    assert problems("a = " + "[" * 5000 + "]" * 5000) == [
        "services.toml:1: lists and tables are nested too deeply to be a config; take them apart"
    ]
    (found,) = problems("a = " + "1" * 5000)
    assert found.startswith("services.toml:1: no valid TOML: ")


def test_a_file_that_is_not_utf_8():
    Path("services.toml").write_bytes(b"# \xe4\n")
    with pytest.raises(ConfigError) as caught:
        load("services.toml", {})
    assert caught.value.problems == ["services.toml:1: expected UTF-8, found the byte 0xe4 at 2"]


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigError) as caught:
        load("none.toml", {})
    assert caught.value.problems == ["none.toml: No such file or directory; name the config with --config FILE"]


def test_a_config_without_services():
    assert problems("[init]\n") == [
        'services.toml:1: expected at least one service, such as [services.app] with command = ["..."], found none'
    ]


def test_names_that_are_not_set_are_told_once_each():
    text = f"""\
[container]
layers = ["${{LAYER}}"]
name = "${{NAME}}"
[container.network]
mode = "${{MODE}}"
[container.cgroup]
pids_max = "${{PIDS}}"
memory_max = "${{MEMORY:-lots}}"
cpu_max = "${{CPUS:-many}}"
{SERVICE}environment = {{ A = "x ${{}} y", B = "${{a b}}", C = "${{X:?no}}", D = "${{open" }}
working_directory = "${{DIR}}"
user = "${{USER_NAME}}"
stop_timeout = "${{TIME}}"
"""
    unset = "is not set in the environment; set it, or write"
    form = "expected ${NAME} or ${NAME:-default}, found"
    assert problems(text) == [
        f"services.toml:2: container.layers[1]: ${{LAYER}} {unset} ${{LAYER:-default}}",
        f"services.toml:3: container.name: ${{NAME}} {unset} ${{NAME:-default}}",
        f"services.toml:5: container.network.mode: ${{MODE}} {unset} ${{MODE:-default}}",
        f"services.toml:7: container.cgroup.pids_max: ${{PIDS}} {unset} ${{PIDS:-default}}",
        f'services.toml:8: container.cgroup.memory_max: {SIZES} "lots"',
        'services.toml:9: container.cgroup.cpu_max: expected a number from 0.01 to 4096, found "many"',
        f"services.toml:12: services.ok.environment.A: {form} ${{}} y",
        f"services.toml:12: services.ok.environment.B: {form} ${{a b}}",
        f"services.toml:12: services.ok.environment.C: {form} ${{X:?no}}",
        f"services.toml:12: services.ok.environment.D: {form} ${{open",
        f"services.toml:13: services.ok.working_directory: ${{DIR}} {unset} ${{DIR:-default}}",
        f"services.toml:14: services.ok.user: ${{USER_NAME}} {unset} ${{USER_NAME:-default}}",
        f"services.toml:15: services.ok.stop_timeout: ${{TIME}} {unset} ${{TIME:-default}}",
    ]


def test_found_text_does_not_reach_the_terminal_raw():
    assert of_service('kind = "\\u001b[31m\\nx\\u202e"') == [
        'services.toml:3: services.app.kind: expected "service", "oneshot" or "task", found "\\x1b[31m\\nx\\u202e"'
    ]


def test_a_thousand_services_load_in_a_moment():
    text = "".join(f'[services.s{n}]\ncommand = ["/bin/x"]\nrequires = ["s{n - 1}"]\n' for n in range(1, 1000))
    Path("services.toml").write_text(f'[services.s0]\ncommand = ["x"]\n{text}')
    start = time.monotonic()
    assert len(load("services.toml", {}).services) == 1000
    assert time.monotonic() - start < 2.0


def test_an_address_is_of_one_service():
    sockets = '[services.app]\ncommand = "x"\nsockets = [{{ name = "a", listen = "{}" }}]\n{}'

    def sharing(more: str, listen: str = "127.0.0.1:80") -> list[str]:
        return problems(sockets.format(listen, more))

    other = '[services.other]\ncommand = "x"\nsockets = [\n{{ name = "b", listen = "{}"{} }}]\n'
    assert sharing(other.format("127.0.0.1:80", ", reuseport = true")) == [
        "services.toml:7: services.other.sockets: 127.0.0.1:80 is app's already (services.toml:3): expected another address, or reuseport = true for both"
    ]
    assert sharing(other.format("[::1]:80", ""), "[::1]:80") == [
        "services.toml:7: services.other.sockets: [::1]:80 is app's already (services.toml:3): expected another address, or reuseport = true for both"
    ]
    assert sharing(other.format("/run/s", ', type = "unix-datagram"'), "/run/s") == [
        "services.toml:7: services.other.sockets: /run/s is app's already (services.toml:3): expected another path"
    ]
    assert sharing("instances = 2\n") == [
        "services.toml:3: services.app@2.sockets: 127.0.0.1:80 is app@1's already (services.toml:3): expected another address, "
        "or reuseport = true for both; ${INSTANCE} may stand in it"
    ]
    for more, listen in (
        ("instances = 2\n", "127.0.0.1:808${INSTANCE}"),
        (other.format("127.0.0.1:80", ', type = "udp"'), "127.0.0.1:80"),
        (other.format("127.0.0.1:80", "") + "enabled = false\n", "127.0.0.1:80"),  # one stands in for the other
    ):
        Path("services.toml").write_text(sockets.format(listen, more))
        assert len(load("services.toml", {}).services) == 2
