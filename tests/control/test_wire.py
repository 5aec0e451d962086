"""The words of the control socket, without a socket."""

import pytest

from pyinit.control import wire
from pyinit.control.wire import BadRequestError, Request, decode


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b'{"verb":"status"}', Request("status")),
        (b'{"verb":"start","names":["b","a","b"]}', Request("start", ("b", "a"))),
        (b'{"verb":"stop","names":["a"],"wait":false}', Request("stop", ("a",), wait=False)),
        (b'{"verb":"signal","names":["a"],"signal":64}', Request("signal", ("a",), signal=64)),
        (b'{"verb":"shutdown","exit_code":0}', Request("shutdown", exit_code=0)),
        (b'{"verb":"shutdown","exit_code":null}', Request("shutdown")),
        (b'{"verb":"logs","lines":5,"follow":true,"later":"word"}', Request("logs", lines=5, follow=True)),
    ],
)
def test_a_request(line, request_):
    assert decode(line) == request_


VERBS = 'expected {"verb": one of status, start, stop, restart, wait, hup, enable, disable, signal, logs, events, ps, exec, reload, shutdown, stats, pause, resume, update}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "expected one line of JSON"),
        (b"\xff", "expected one line of JSON"),
        (b"[" * 60_000, "expected one line of JSON"),
        (b"1" * 60_000, "expected one line of JSON"),
        (b"[]", VERBS),
        (b'{"verb":["status"]}', VERBS),
        (b'{"verb":"Status"}', VERBS),
        (b'{"verb":"stop","names":"app"}', 'expected "names" to be a list of strings'),
        (b'{"verb":"stop","names":[null]}', 'expected "names" to be a list of strings'),
        (b'{"verb":"signal","names":["a"]}', 'expected "signal" to be a number from 1 to 64'),
        (b'{"verb":"signal","signal":true}', 'expected "signal" to be a number from 1 to 64'),
        (b'{"verb":"signal","signal":9.0}', 'expected "signal" to be a number from 1 to 64'),
        (b'{"verb":"signal","signal":65}', 'expected "signal" to be a number from 1 to 64'),
        (b'{"verb":"shutdown","exit_code":-1}', 'expected "exit_code" to be a number from 0 to 255'),
        (b'{"verb":"shutdown","exit_code":"1"}', 'expected "exit_code" to be a number from 0 to 255'),
        (b'{"verb":"update"}', 'expected at most one name, and limits in "limits"'),
        (b'{"verb":"update","names":["a","b"],"limits":{"pids_max":1}}', 'expected at most one name, and limits in "limits"'),
        (b'{"verb":"update","limits":[1]}', 'expected at most one name, and limits in "limits"'),
        (b'{"verb":"exec"}', 'expected at most one name, and a command in "argv"'),
        (b'{"verb":"exec","argv":["x"],"names":["a","b"]}', 'expected at most one name, and a command in "argv"'),
        (b'{"verb":"exec","argv":["x"],"user":0}', 'expected "user" and "directory" to be strings'),
        (b'{"verb":"exec","argv":["x"],"directory":"/\\u0000"}', 'expected "user" and "directory" to be strings'),
        (b'{"verb":"exec","argv":["x"],"environment":["A=b"]}', 'expected "environment" to be strings by names'),
        (b'{"verb":"exec","argv":["x"],"environment":{"A":1}}', 'expected "environment" to be strings by names'),
        (b'{"verb":"exec","argv":["x"],"environment":{"A=":"b"}}', 'expected "environment" to be strings by names'),
        (b'{"verb":"exec","argv":["x"],"environment":{"":"b"}}', 'expected "environment" to be strings by names'),
        (b'{"verb":"exec","argv":["x"],"size":[1]}', 'expected "size" to be rows and columns'),
        (b'{"verb":"exec","argv":["x"],"size":[1,65536]}', 'expected "size" to be rows and columns'),
        (b'{"verb":"exec","argv":["x"],"size":[true,1]}', 'expected "size" to be rows and columns'),
    ],
)
def test_no_request(line, message):
    with pytest.raises(BadRequestError) as caught:
        decode(line)
    assert str(caught.value) == message


def test_an_answer_is_one_line_of_ascii_whatever_it_holds():
    assert wire.encode({"error": "é\n\ud800"}) == b'{"error":"\\u00e9\\n\\ud800"}\n'
