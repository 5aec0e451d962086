"""The states of a service and what each fact does in each of them.

Owns State, Kind, Step and the table. Must not know how a step is carried out (service.py).
Laws: the table is total, held by the type checker, for a row can't be written without all its cells;
stale facts (an old pid, a timer that isn't armed) never reach it, so a cell may call them illegal.
"""

from pyinit.records import Enum, TypedDict, Unpack


class State(Enum):
    """Where a service is; `word` is what people are told, which names no hooks."""

    STOPPED = "stopped"
    SCHEDULED = "scheduled"  # a task between its runs
    WAITING = "waiting"  # for other services
    PREPARING = "preparing"  # pre_start is at work
    STARTING = "starting"  # Spawn was ordered, exec not yet reported
    RUNNING = "running"  # exec'd, not ready yet; a oneshot at work
    STARTED = "started"  # ready by its own word, post_start is at work
    READY = "ready"
    DRAINING = "draining"  # it is to stop: pre_stop is at work, or the drain delay runs
    STOPPING = "stopping"  # the process was told to leave
    FINISHING = "finishing"  # the process is gone, finish is at work
    CLEANING = "cleaning"  # what it left behind is being killed
    BACKOFF = "backoff"
    FAILED = "failed"  # finally: nothing happens without a request
    DONE = "done"  # ended with success and isn't restarted

    @property
    def word(self) -> str:
        return _WORDS.get(self, self.value)


_WORDS = {
    State.SCHEDULED: "waiting",
    State.PREPARING: "starting",
    State.STARTED: "running",
    State.DRAINING: "stopping",
    State.FINISHING: "cleaning",
}


class Kind(Enum):
    """What may happen to a service: requests, the supervisor's word, facts of its process, timers."""

    START = "start request"
    STOP = "stop request"
    RESTART = "restart request"
    GO = "go"  # nothing to wait for any more
    REFUSE = "refusal"  # a requirement failed
    KILL = "kill"  # KillAll was ordered
    DUE = "task's time"
    UNMET = "unmet condition"
    EXECED = "exec success"
    EXEC_FAILED = "exec failure"
    EXITED = "process exit"
    READY = "readiness"
    MAINPID = "new main process"
    EXTEND = "extended timeout"
    UNHEALTHY = "failed health"
    HOOK = "end of a hook"
    CLEANED = "finished cleanup"
    READY_TIMER = "ready timer"
    STOP_TIMER = "stop timer"
    RESTART_TIMER = "restart timer"
    CLEANUP_TIMER = "cleanup timer"
    HOOK_TIMER = "hook timer"
    DRAIN_TIMER = "drain timer"


class Step(Enum):
    """What a cell does; each is one method of Service, or of Ending."""

    IGNORE = "ignore"
    ILLEGAL = "illegal"
    LOWER = "target down"
    RAISE = "target up"
    QUEUE = "wait for the others, or for the task's time"
    RUN_NOW = "wait for the others"
    GO = "pre_start or spawn"
    REFUSE = "fail without a start"
    CANCEL = "stopped, no process involved"
    HURRY = "end the back-off, then wait for the others"
    SKIP = "done without a run"
    UNPREPARE = "kill pre_start, then clean up"
    EXECED = "running or ready"
    EXEC_FAILED = "a start that made no process"
    NOTE_EXIT = "keep the exit until exec has reported"
    READY = "post_start or ready"
    MAINPID = "another main process"
    EXTEND = "arm the start's or the stop's timer anew"
    HOOK = "the next command, or what follows the hook"
    HOOK_LATE = "kill the hook, then as if it had failed"
    STOP = "pre_stop, drain, stop signals"
    STOP_TO_START = "the same, then start again"
    UNHEALTHY = "stop, and what the health's action says"
    ABANDON = "stopping, KillAll does the rest"
    TIME_OUT = "not ready in time: stop"
    KILL_UNBORN = "exec did not report in time: kill"
    ADOPT = "exec reported after the kill: kill again"
    DRAINED = "the first stop signal"
    ESCALATE = "the next stop signal, or SIGKILL"
    AGAIN = "start again when it is down"
    EXITED = "finish, clean up"
    UNFINISH = "kill the hook, then clean up"
    NEXT = "down: restart policy"
    GIVE_UP_CLEANUP = "down, although something outlived the cleanup"


class _Row(TypedDict):
    start: Step
    stop: Step
    restart: Step
    go: Step
    refuse: Step
    kill: Step
    due: Step
    unmet: Step
    execed: Step
    exec_failed: Step
    exited: Step
    ready: Step
    mainpid: Step
    extend: Step
    unhealthy: Step
    hook: Step
    cleaned: Step
    ready_timer: Step
    stop_timer: Step
    restart_timer: Step
    cleanup_timer: Step
    hook_timer: Step
    drain_timer: Step


def _row(**cells: Unpack[_Row]) -> dict[Kind, Step]:
    return {Kind[name.upper()]: step for name, step in cells.items() if isinstance(step, Step)}


S, _, X = Step, Step.IGNORE, Step.ILLEGAL
# Facts that may come late are no error anywhere: CleanupFinished, for the cleanup timer may have gone on without it;
# what a process says of itself (EXTEND, MAINPID, health), which was sent while the state was another.
TRANSITIONS: dict[State, dict[Kind, Step]] = {
    State.STOPPED: _row(
        start=S.QUEUE, stop=S.LOWER, restart=S.QUEUE, go=X, refuse=X, kill=_, due=_, unmet=_,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    State.SCHEDULED: _row(
        start=S.RUN_NOW, stop=S.CANCEL, restart=S.RUN_NOW, go=X, refuse=X, kill=S.CANCEL, due=S.RUN_NOW, unmet=_,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    State.WAITING: _row(
        start=S.RAISE, stop=S.CANCEL, restart=S.RAISE, go=S.GO, refuse=S.REFUSE, kill=S.CANCEL, due=_, unmet=_,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    State.PREPARING: _row(
        start=S.RAISE, stop=S.UNPREPARE, restart=S.RAISE, go=X, refuse=X, kill=S.UNPREPARE, due=_, unmet=S.SKIP,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=S.HOOK, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=S.HOOK_LATE, drain_timer=X,
    ),
    # A process on its way to exec is as fresh as a restart could make it. It can't be told to stop yet:
    # the target says so, and the supervisor stops it once exec has reported.
    State.STARTING: _row(
        start=S.RAISE, stop=S.LOWER, restart=S.RAISE, go=X, refuse=X, kill=S.LOWER, due=_, unmet=S.SKIP,
        execed=S.EXECED, exec_failed=S.EXEC_FAILED, exited=S.NOTE_EXIT, ready=S.READY, mainpid=_, extend=S.EXTEND,
        unhealthy=_, hook=X, cleaned=_,
        ready_timer=S.KILL_UNBORN, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    State.RUNNING: _row(
        start=S.RAISE, stop=S.STOP, restart=S.STOP_TO_START, go=X, refuse=X, kill=S.ABANDON, due=_, unmet=_,
        execed=X, exec_failed=X, exited=S.EXITED, ready=S.READY, mainpid=S.MAINPID, extend=S.EXTEND,
        unhealthy=S.UNHEALTHY, hook=X, cleaned=_,
        ready_timer=S.TIME_OUT, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    # Readiness may overtake the report of exec (two fds, one turn of the loop), and may be said twice.
    State.STARTED: _row(
        start=S.RAISE, stop=S.STOP, restart=S.STOP_TO_START, go=X, refuse=X, kill=S.ABANDON, due=_, unmet=_,
        execed=_, exec_failed=X, exited=S.EXITED, ready=_, mainpid=S.MAINPID, extend=_,
        unhealthy=S.UNHEALTHY, hook=S.HOOK, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=S.HOOK_LATE, drain_timer=X,
    ),
    State.READY: _row(
        start=S.RAISE, stop=S.STOP, restart=S.STOP_TO_START, go=X, refuse=X, kill=S.ABANDON, due=_, unmet=_,
        execed=_, exec_failed=X, exited=S.EXITED, ready=_, mainpid=S.MAINPID, extend=_,
        unhealthy=S.UNHEALTHY, hook=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    State.DRAINING: _row(
        start=S.AGAIN, stop=S.LOWER, restart=S.AGAIN, go=X, refuse=X, kill=S.ABANDON, due=_, unmet=_,
        execed=_, exec_failed=X, exited=S.EXITED, ready=_, mainpid=S.MAINPID, extend=_,
        unhealthy=_, hook=S.HOOK, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=S.HOOK_LATE, drain_timer=S.DRAINED,
    ),
    State.STOPPING: _row(
        start=S.AGAIN, stop=S.LOWER, restart=S.AGAIN, go=X, refuse=X, kill=_, due=_, unmet=S.SKIP,
        execed=S.ADOPT, exec_failed=S.EXEC_FAILED, exited=S.EXITED, ready=_, mainpid=S.MAINPID, extend=S.EXTEND,
        unhealthy=_, hook=X, cleaned=_,
        ready_timer=X, stop_timer=S.ESCALATE, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    State.FINISHING: _row(
        start=S.AGAIN, stop=S.LOWER, restart=S.AGAIN, go=X, refuse=X, kill=S.UNFINISH, due=_, unmet=_,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=S.HOOK, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=S.HOOK_LATE, drain_timer=X,
    ),
    State.CLEANING: _row(
        start=S.AGAIN, stop=S.LOWER, restart=S.AGAIN, go=X, refuse=X, kill=_, due=_, unmet=_,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=X, cleaned=S.NEXT,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=S.GIVE_UP_CLEANUP, hook_timer=X, drain_timer=X,
    ),
    State.BACKOFF: _row(
        start=S.HURRY, stop=S.CANCEL, restart=S.HURRY, go=X, refuse=X, kill=S.CANCEL, due=_, unmet=_,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=S.GO, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    State.FAILED: _row(
        start=S.QUEUE, stop=S.CANCEL, restart=S.QUEUE, go=X, refuse=X, kill=_, due=_, unmet=_,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
    State.DONE: _row(
        start=S.QUEUE, stop=S.CANCEL, restart=S.QUEUE, go=X, refuse=X, kill=_, due=_, unmet=_,
        execed=X, exec_failed=X, exited=X, ready=X, mainpid=_, extend=_, unhealthy=_, hook=X, cleaned=_,
        ready_timer=X, stop_timer=X, restart_timer=X, cleanup_timer=X, hook_timer=X, drain_timer=X,
    ),
}  # fmt: skip

DOWN = frozenset({State.STOPPED, State.FAILED, State.DONE})
IDLE = DOWN | {State.SCHEDULED, State.WAITING, State.BACKOFF}  # no process, no remains
