"""The transition table against a table written by hand, and each cell carried out once."""

import pytest

from pyinit.core.actions import ArmTimer, CancelTimer, KillLeftovers, Publish, SendSignal, Spawn, Unwatch
from pyinit.core.events import Timer
from pyinit.core.service import TRANSITIONS, IllegalEventError, Input, Kind, Service, State, Step, Target
from pyinit.model import Hooks, Probe, Readiness, Schedule, ServiceSpec

# "." ignore, "!" illegal; the other words are Step names. Columns are states, rows are kinds.
BY_HAND = """
              stopped scheduled waiting preparing starting    running       started       ready         draining  stopping    finishing cleaning        backoff failed done
START         QUEUE   RUN_NOW   RAISE   RAISE     RAISE       RAISE         RAISE         RAISE         AGAIN     AGAIN       AGAIN     AGAIN           HURRY   QUEUE  QUEUE
STOP          LOWER   CANCEL    CANCEL  UNPREPARE LOWER       STOP          STOP          STOP          LOWER     LOWER       LOWER     LOWER           CANCEL  CANCEL CANCEL
RESTART       QUEUE   RUN_NOW   RAISE   RAISE     RAISE       STOP_TO_START STOP_TO_START STOP_TO_START AGAIN     AGAIN       AGAIN     AGAIN           HURRY   QUEUE  QUEUE
GO            !       !         GO      !         !           !             !             !             !         !           !         !               !       !      !
REFUSE        !       !         REFUSE  !         !           !             !             !             !         !           !         !               !       !      !
KILL          .       CANCEL    CANCEL  UNPREPARE LOWER       ABANDON       ABANDON       ABANDON       ABANDON   .           UNFINISH  .               CANCEL  .      .
DUE           .       RUN_NOW   .       .         .           .             .             .             .         .           .         .               .       .      .
UNMET         .       .         .       SKIP      SKIP        .             .             .             .         SKIP        .         .               .       .      .
EXECED        !       !         !       !         EXECED      !             .             .             .         ADOPT       !         !               !       !      !
EXEC_FAILED   !       !         !       !         EXEC_FAILED !             !             !             !         EXEC_FAILED !         !               !       !      !
EXITED        !       !         !       !         NOTE_EXIT   EXITED        EXITED        EXITED        EXITED    EXITED      !         !               !       !      !
READY         !       !         !       !         READY       READY         .             .             .         .           !         !               !       !      !
MAINPID       .       .         .       .         .           MAINPID       MAINPID       MAINPID       MAINPID   MAINPID     .         .               .       .      .
EXTEND        .       .         .       .         EXTEND      EXTEND        .             .             .         EXTEND      .         .               .       .      .
UNHEALTHY     .       .         .       .         .           UNHEALTHY     UNHEALTHY     UNHEALTHY     .         .           .         .               .       .      .
HOOK          !       !         !       HOOK      !           !             HOOK          !             HOOK      !           HOOK      !               !       !      !
CLEANED       .       .         .       .         .           .             .             .             .         .           .         NEXT            .       .      .
READY_TIMER   !       !         !       !         KILL_UNBORN TIME_OUT      !             !             !         !           !         !               !       !      !
STOP_TIMER    !       !         !       !         !           !             !             !             !         ESCALATE    !         !               !       !      !
RESTART_TIMER !       !         !       !         !           !             !             !             !         !           !         !               GO      !      !
CLEANUP_TIMER !       !         !       !         !           !             !             !             !         !           !         GIVE_UP_CLEANUP !       !      !
HOOK_TIMER    !       !         !       HOOK_LATE !           !             HOOK_LATE     !             HOOK_LATE !           HOOK_LATE !               !       !      !
DRAIN_TIMER   !       !         !       !         !           !             !             !             DRAINED   !           !         !               !       !      !
"""


def by_hand():
    header, *rows = (line.split() for line in BY_HAND.strip().splitlines())
    words = {".": "IGNORE", "!": "ILLEGAL"}
    return {
        (State(state), Kind[row[0]]): Step[words.get(cell, cell)]
        for row in rows
        for state, cell in zip(header, row[1:], strict=True)
    }


def test_the_table_is_what_was_meant_and_total():
    table = {(state, kind): step for state, row in TRANSITIONS.items() for kind, step in row.items()}
    assert table == by_hand()
    assert set(table) == {(state, kind) for state in State for kind in Kind}


def test_state_values_are_the_published_words():
    words = "stopped waiting starting running ready stopping cleaning backoff failed done"
    assert {state.word for state in State} == set(words.split())


def service(**keys):
    return Service(ServiceSpec("app", ("/app",), **keys), lambda: 0.5)


CHECKED = Readiness("probe", Probe("tcp", "127.0.0.1", 80))
HOOKS = Hooks((("prepare",), ("more",)), (("greet",),), (("part",),), (("finish",),))
# The shortest way into each state, for a service with a readiness check.
WAY = {
    State.STOPPED: [],
    State.WAITING: [Input(Kind.START)],
    State.STARTING: [Input(Kind.START), Input(Kind.GO)],
    State.RUNNING: [Input(Kind.START), Input(Kind.GO), Input(Kind.EXECED, 7)],
    State.READY: [Input(Kind.START), Input(Kind.GO), Input(Kind.EXECED, 7), Input(Kind.READY, 7)],
    State.STOPPING: [Input(Kind.START), Input(Kind.GO), Input(Kind.EXECED, 7), Input(Kind.STOP)],
    State.CLEANING: [Input(Kind.START), Input(Kind.GO), Input(Kind.EXECED, 7), Input(Kind.EXITED, 7, 1)],
    State.BACKOFF: [Input(Kind.START), Input(Kind.GO), Input(Kind.EXEC_FAILED, 0, 2, stage="exec"),
                    Input(Kind.EXEC_FAILED, 0, 2, stage="exec")],
    State.FAILED: [Input(Kind.START), Input(Kind.REFUSE, text="requires db, which failed")],
    State.DONE: [],
    State.SCHEDULED: [Input(Kind.START)],
    State.PREPARING: [Input(Kind.START), Input(Kind.GO)],
    State.STARTED: [Input(Kind.START), Input(Kind.GO), Input(Kind.HOOK, 1), Input(Kind.HOOK, 2), Input(Kind.EXECED, 7)],
}
WAY[State.DRAINING] = [*WAY[State.STARTED], Input(Kind.HOOK, 3), Input(Kind.STOP)]
WAY[State.FINISHING] = [*WAY[State.STARTED], Input(Kind.EXITED, 7, 1)]
KEYS = {
    State.SCHEDULED: {"kind": "task", "schedule": Schedule("* * * * *")},
    State.PREPARING: {"hooks": HOOKS}, State.STARTED: {"hooks": HOOKS}, State.DRAINING: {"hooks": HOOKS},
    State.FINISHING: {"hooks": HOOKS},
}  # fmt: skip
TIMER_OF = {
    Kind.READY_TIMER: Timer.READY,
    Kind.STOP_TIMER: Timer.STOP,
    Kind.RESTART_TIMER: Timer.RESTART,
    Kind.CLEANUP_TIMER: Timer.CLEANUP,
    Kind.HOOK_TIMER: Timer.HOOK,
    Kind.DRAIN_TIMER: Timer.DRAIN,
}


def brought_to(state):
    it = service(**KEYS.get(state, {"ready": CHECKED}))
    for event in WAY[state]:
        it.take(event, 0.0)
    if state is State.DONE:
        it = service(restart="never")
        for event in (Input(Kind.START), Input(Kind.GO), Input(Kind.EXECED, 7), Input(Kind.EXITED, 7)):
            it.take(event, 0.0)
        it.take(Input(Kind.CLEANED), 0.0)
    assert it.state is state
    return it


def picture(it):
    return {key: (dict(value) if isinstance(value, dict) else value) for key, value in vars(it).items()}


CELLS = sorted(by_hand().items(), key=str)


@pytest.mark.parametrize(
    ("state", "kind"), [cell for cell, step in CELLS if step is Step.ILLEGAL], ids=lambda value: value.name
)
def test_an_illegal_event_names_state_and_event_and_changes_nothing(state, kind):
    it = brought_to(state)
    if kind in TIMER_OF:
        it.armed[TIMER_OF[kind]] = 1.0  # else it is stale, and ignored
    if kind is Kind.HOOK:
        it._hook = ("finish", 0)  # as above
    before = picture(it)
    with pytest.raises(IllegalEventError) as caught:
        it.take(Input(kind, it._run if kind is Kind.HOOK else it.pid), 1.0)
    assert str(caught.value) == f"app: illegal {kind.value} in state {state.value}"
    assert picture(it) == before


@pytest.mark.parametrize("state", State, ids=lambda value: value.name)
def test_stale_facts_are_ignored_in_every_state(state):
    it = brought_to(state)
    before = picture(it)
    stale = [Input(kind) for kind, timer in TIMER_OF.items() if timer not in it.armed]
    if state is not State.STARTING:  # any pid may be the new one's there
        stale += [Input(kind, 99) for kind in (Kind.EXECED, Kind.EXEC_FAILED, Kind.EXITED, Kind.READY)]
    assert [it.take(event, 1.0) for event in stale] == [[]] * len(stale)
    assert picture(it) == before


START_ACTIONS = [Spawn("app"), ArmTimer("app", Timer.READY, 31.0), Publish("app", "starting", "")]
TO_BE_STOPPED = [
    Unwatch("app"),
    CancelTimer("app", Timer.READY),
    SendSignal("app", 15),
    ArmTimer("app", Timer.STOP, 8.0),
]
GO_CLEAN = [KillLeftovers("app"), ArmTimer("app", Timer.CLEANUP, 3.0)]
NO_EXEC = "exec failed, errno 2"


@pytest.mark.parametrize(
    ("state", "event", "after", "actions"),
    [
        (State.STOPPED, Input(Kind.START), State.WAITING, [Publish("app", "waiting", "")]),
        (State.WAITING, Input(Kind.GO), State.STARTING, START_ACTIONS),
        (State.WAITING, Input(Kind.STOP, text="why"), State.STOPPED, [Publish("app", "stopped", "why")]),
        (State.STARTING, Input(Kind.EXECED, 7), State.RUNNING, [Publish("app", "running", "")]),
        (State.STARTING, Input(Kind.STOP), State.STARTING, []),
        (State.STARTING, Input(Kind.READY, 7), State.READY,
         [CancelTimer("app", Timer.READY), Publish("app", "ready", "")]),
        (State.STARTING, Input(Kind.READY_TIMER), State.STOPPING,
         [Unwatch("app"), SendSignal("app", 9, group=True), Publish("app", "stopping", "not ready after 30 s")]),
        (State.RUNNING, Input(Kind.READY_TIMER), State.STOPPING,
         [TO_BE_STOPPED[0], *TO_BE_STOPPED[2:], Publish("app", "stopping", "not ready after 30 s")]),
        (State.RUNNING, Input(Kind.STOP, text="why"), State.STOPPING,
         [*TO_BE_STOPPED, Publish("app", "stopping", "why")]),
        (State.READY, Input(Kind.RESTART), State.STOPPING,
         [*TO_BE_STOPPED[2:], Publish("app", "stopping", "restart requested")]),
        (State.READY, Input(Kind.KILL, text="why"), State.STOPPING, [Publish("app", "stopping", "why")]),
        (State.READY, Input(Kind.EXITED, 7, -1, 11), State.CLEANING,
         [*GO_CLEAN, Publish("app", "cleaning", "killed by SEGV")]),
        (State.STOPPING, Input(Kind.STOP_TIMER), State.STOPPING, [SendSignal("app", 9, group=True)]),
        (State.STOPPING, Input(Kind.EXITED, 7, 0), State.CLEANING,
         [CancelTimer("app", Timer.STOP), *GO_CLEAN, Publish("app", "cleaning", "stop requested")]),
        (State.CLEANING, Input(Kind.CLEANED), State.STARTING,
         [CancelTimer("app", Timer.CLEANUP), *START_ACTIONS[:2],
          Publish("app", "starting", "restart after: exit code 1")]),
        (State.CLEANING, Input(Kind.CLEANUP_TIMER), State.STARTING,
         [*START_ACTIONS[:2],
          Publish("app", "starting", "restart after: exit code 1; what it left behind outlived 2 s of killing")]),
        (State.BACKOFF, Input(Kind.RESTART_TIMER), State.STARTING,
         [*START_ACTIONS[:2], Publish("app", "starting", f"restart after: {NO_EXEC}")]),
        (State.BACKOFF, Input(Kind.START), State.WAITING,
         [CancelTimer("app", Timer.RESTART), Publish("app", "waiting", "")]),
        (State.FAILED, Input(Kind.STOP, text="why"), State.STOPPED, [Publish("app", "stopped", "why")]),
        (State.DONE, Input(Kind.START), State.WAITING, [Publish("app", "waiting", "")]),
    ],
    ids=lambda value: value.name if isinstance(value, State) else getattr(value, "kind", Kind.GO).name,
)  # fmt: skip
def test_a_cell_carried_out(state, event, after, actions):
    it = brought_to(state)
    assert it.take(event, 1.0) == actions
    assert it.state is after


def test_a_start_during_a_remembered_stop_makes_it_ready_after_all():
    it = service()
    for event in (Input(Kind.START), Input(Kind.GO), Input(Kind.STOP), Input(Kind.EXECED, 7)):
        it.take(event, 0.0)
    assert (it.state, it.target) == (State.RUNNING, Target.DOWN)
    assert it.take(Input(Kind.START), 1.0) == [Publish("app", "ready", "")]


def test_the_reaper_may_be_faster_than_the_report_of_exec():
    it = brought_to(State.STARTING)
    assert it.take(Input(Kind.EXITED, 7, 3), 0.0) == []
    it.take(Input(Kind.EXECED, 7), 0.0)
    assert (it.state, it.cause, it.pid) == (State.CLEANING, "exit code 3", 0)


def test_the_exit_of_a_child_whose_exec_failed_is_not_the_next_ones():
    it = brought_to(State.STARTING)
    it.take(Input(Kind.EXEC_FAILED, 7, 2, stage="exec"), 0.0)
    assert (it.state, it.take(Input(Kind.EXITED, 7, 127), 0.0)) == (State.STARTING, [])
    it.take(Input(Kind.EXECED, 8), 0.0)
    assert (it.state, it.pid) == (State.RUNNING, 8)
