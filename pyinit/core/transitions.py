"""The states of a service and what each fact does in each of them.

Owns State, Kind, Step and the table. Must not know how a step is carried out (service.py).
Laws: the table is total, held by the type checker, for a row can't be written without all its cells;
stale facts (an old pid, a timer that isn't armed) never reach it, so a cell may call them illegal.
"""

from enum import Enum
from typing import TypedDict, Unpack


class State(Enum):
    STOPPED = "stopped"
    WAITING = "waiting"  # for other services
    STARTING = "starting"  # Spawn was ordered, exec not yet reported
    RUNNING = "running"  # exec'd, not ready yet; a oneshot at work
    READY = "ready"
    STOPPING = "stopping"  # the process was told to leave
    CLEANING = "cleaning"  # the process is gone, what it left behind is being killed
    BACKOFF = "backoff"
    FAILED = "failed"  # finally: nothing happens without a request
    DONE = "done"  # ended with success and isn't restarted


class Kind(Enum):
    """What may happen to a service: requests, the supervisor's word, facts of its process, timers."""

    START = "start request"
    STOP = "stop request"
    RESTART = "restart request"
    GO = "go"  # nothing to wait for any more
    REFUSE = "refusal"  # a requirement failed
    KILL = "kill"  # KillAll was ordered
    EXECED = "exec success"
    EXEC_FAILED = "exec failure"
    EXITED = "process exit"
    READY = "readiness"
    CLEANED = "finished cleanup"
    READY_TIMER = "ready timer"
    STOP_TIMER = "stop timer"
    RESTART_TIMER = "restart timer"
    CLEANUP_TIMER = "cleanup timer"


class Step(Enum):
    """What a cell does; each is one method of Service."""

    IGNORE = "ignore"
    ILLEGAL = "illegal"
    LOWER = "target down"
    RAISE = "target up"
    QUEUE = "wait for the others"
    SPAWN = "spawn"
    REFUSE = "fail without a start"
    CANCEL = "stopped, no process involved"
    HURRY = "end the back-off, then wait for the others"
    EXECED = "running or ready"
    EXEC_FAILED = "a start that made no process"
    NOTE_EXIT = "keep the exit until exec has reported"
    READY = "ready"
    STOP = "send the stop signal"
    STOP_TO_START = "send the stop signal, then start again"
    ABANDON = "stopping, KillAll does the rest"
    TIME_OUT = "not ready in time: stop"
    KILL_UNBORN = "exec did not report in time: kill"
    ADOPT = "exec reported after the kill: kill again"
    ESCALATE = "SIGKILL"
    AGAIN = "start again when it is down"
    EXITED = "clean up"
    NEXT = "down: restart policy"
    GIVE_UP_CLEANUP = "down, although something outlived the cleanup"


class _Row(TypedDict):
    start: Step
    stop: Step
    restart: Step
    go: Step
    refuse: Step
    kill: Step
    execed: Step
    exec_failed: Step
    exited: Step
    ready: Step
    cleaned: Step
    ready_timer: Step
    stop_timer: Step
    restart_timer: Step
    cleanup_timer: Step


def _row(**cells: Unpack[_Row]) -> dict[Kind, Step]:
    return {Kind[name.upper()]: step for name, step in cells.items() if isinstance(step, Step)}


S, _, X = Step, Step.IGNORE, Step.ILLEGAL
# A late CleanupFinished is no error anywhere: the cleanup timer may have gone on without it.
TRANSITIONS: dict[State, dict[Kind, Step]] = {
    State.STOPPED: _row(
        start=S.QUEUE, stop=S.LOWER, restart=S.QUEUE, go=X, refuse=X, kill=_,
        execed=X, exec_failed=X, exited=X, ready=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X,
    ),
    State.WAITING: _row(
        start=S.RAISE, stop=S.CANCEL, restart=S.RAISE, go=S.SPAWN, refuse=S.REFUSE, kill=S.CANCEL,
        execed=X, exec_failed=X, exited=X, ready=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X,
    ),
    # A process on its way to exec is as fresh as a restart could make it. It can't be told to stop yet:
    # the target says so, and the supervisor stops it once exec has reported.
    State.STARTING: _row(
        start=S.RAISE, stop=S.LOWER, restart=S.RAISE, go=X, refuse=X, kill=S.LOWER,
        execed=S.EXECED, exec_failed=S.EXEC_FAILED, exited=S.NOTE_EXIT, ready=S.READY, cleaned=_,
        ready_timer=S.KILL_UNBORN, stop_timer=X, restart_timer=X, cleanup_timer=X,
    ),
    State.RUNNING: _row(
        start=S.RAISE, stop=S.STOP, restart=S.STOP_TO_START, go=X, refuse=X, kill=S.ABANDON,
        execed=X, exec_failed=X, exited=S.EXITED, ready=S.READY, cleaned=_,
        ready_timer=S.TIME_OUT, stop_timer=X, restart_timer=X, cleanup_timer=X,
    ),
    # Readiness may overtake the report of exec (two fds, one turn of the loop), and may be said twice.
    State.READY: _row(
        start=S.RAISE, stop=S.STOP, restart=S.STOP_TO_START, go=X, refuse=X, kill=S.ABANDON,
        execed=_, exec_failed=X, exited=S.EXITED, ready=_, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X,
    ),
    State.STOPPING: _row(
        start=S.AGAIN, stop=S.LOWER, restart=S.AGAIN, go=X, refuse=X, kill=_,
        execed=S.ADOPT, exec_failed=S.EXEC_FAILED, exited=S.EXITED, ready=_, cleaned=_,
        ready_timer=X, stop_timer=S.ESCALATE, restart_timer=X, cleanup_timer=X,
    ),
    State.CLEANING: _row(
        start=S.AGAIN, stop=S.LOWER, restart=S.AGAIN, go=X, refuse=X, kill=_,
        execed=X, exec_failed=X, exited=X, ready=X, cleaned=S.NEXT,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=S.GIVE_UP_CLEANUP,
    ),
    State.BACKOFF: _row(
        start=S.HURRY, stop=S.CANCEL, restart=S.HURRY, go=X, refuse=X, kill=S.CANCEL,
        execed=X, exec_failed=X, exited=X, ready=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=S.SPAWN, cleanup_timer=X,
    ),
    State.FAILED: _row(
        start=S.QUEUE, stop=S.CANCEL, restart=S.QUEUE, go=X, refuse=X, kill=_,
        execed=X, exec_failed=X, exited=X, ready=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X,
    ),
    State.DONE: _row(
        start=S.QUEUE, stop=S.CANCEL, restart=S.QUEUE, go=X, refuse=X, kill=_,
        execed=X, exec_failed=X, exited=X, ready=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X,
    ),
}  # fmt: skip

DOWN = frozenset({State.STOPPED, State.FAILED, State.DONE})
IDLE = frozenset({State.STOPPED, State.WAITING, State.BACKOFF, State.FAILED, State.DONE})  # no process, no remains
