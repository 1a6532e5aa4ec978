"""A model of the lease of one run, and a search of everything that can happen to it.

The model's steps are those of `dgbench.store.lease` and of the process that holds a lease, each as small as a system
call: list, look, look again, create, look for `done`, give a sign of life, confirm, write, finish, release. Between any
two of them each process may be stopped (SIGSTOP, a paused machine), go on, or be killed and started again; or the clock
of the file server jumps, and from then on no process is stopped. `search` visits every state that is reachable, breadth
first, so that a rule that is violated comes with a shortest way there.

Time passes in ticks. A sign of life comes every tick (`BEAT`), a lease is stale after more than `TTL` ticks, and a
holder that was itself silent for more than `PATIENCE` of them claims the next number before it writes anything. A
process that has confirmed its lease writes within `WINDOW` ticks: this is the one assumption about speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

BEAT, GAP, PATIENCE, TTL = 1, 2, 1, 3
WINDOW = TTL - PATIENCE


@dataclass(frozen=True)
class Rules:
    """The rules that the protocol keeps. Each can be broken, to see that the search then finds a way to do harm."""

    creates_exclusively: bool = True
    """A number that exists can't be claimed again."""
    claims_after_the_judged: bool = True
    """The number that is claimed follows the one that was judged, whatever was claimed since."""
    keeps_leases: bool = True
    """Files of leases stay, so that no number becomes free again."""
    checks_done_again: bool = True
    """After a claim, `done` is looked for once more."""
    confirms: bool = True
    """A holder looks at its silence and for a successor before it writes."""
    minds_its_silence: bool = True
    """A holder that was silent for more than `PATIENCE` claims the next number first."""
    looks_twice: bool = True
    """A holder on another machine is judged by two looks that find the same sign of life."""
    looks_a_beat_apart: bool = True
    """Two looks are two beats apart, so that a holder at work gives a sign of life between them."""
    confirms_removals: bool = True
    """A removal of files is confirmed like any other write."""
    writes_in_time: bool = True
    """The assumption: no process is stopped for more than `WINDOW` between a confirmation and the write after it."""


class Process(NamedTuple):
    at: str = "idle"
    """Stage: idle, look, wait, create, check, hold, write, leave. A process that was killed is idle: another comes."""
    stopped: bool = False
    """Whether a holder is stopped. Other processes may rest for any time anyway."""
    behind: int = 0
    """Number of leases that are newer than the one that it judges or holds; 2 stands for more, too."""
    silence: int = 0
    """Ticks since its last sign of life, by its own clock."""
    ticks: int = 0
    """Ticks since its first look (`wait`) or since it confirmed (`write`)."""
    same: bool = True
    """Whether the holder has given no sign of life since the first look."""


class State(NamedTuple):
    """The newest lease, the run and its processes. Older leases decide nothing any more; without any, `released`."""

    owner: int
    """Place of the lease's process; -1 once that is gone."""
    host: str
    """Machine of its process."""
    age: int
    """Ticks since its last sign of life, by the server's clock."""
    released: bool
    done: bool
    jumped: bool
    processes: tuple[Process, ...]


class Harm(Exception):
    """A rule that must hold at any time was violated."""


HOLDING = ("check", "hold", "write", "leave")
Step = tuple[str, State]


class Model:
    """The lease of one run and the processes beside it, each given as (machine, whether it removes the run's files)."""

    def __init__(self, processes: tuple[tuple[str, bool], ...], rules: Rules = Rules()) -> None:
        self.hosts = [host for host, _ in processes]
        self.removes = [removes for _, removes in processes]
        self.rules = rules
        self.symmetries = [
            order
            for order in permutations(range(len(processes)))
            if all(
                (a == b) == (self.hosts[order[i]] == self.hosts[order[j]])
                for i, a in enumerate(self.hosts)
                for j, b in enumerate(self.hosts)
            )
            and all(self.removes[i] is self.removes[j] for i, j in enumerate(order))
        ]
        """Ways to exchange processes and machines that change nothing."""
        self.first = State(-1, "", 0, True, False, False, (Process(),) * len(processes))

    def steps(self, state: State) -> Iterator[Step]:
        """Yield all that may happen next."""
        for i, process in enumerate(state.processes):
            name = f"{'remover' if self.removes[i] else 'run'} {i} on {self.hosts[i]}"
            if process.stopped:
                yield f"{name} goes on", self.put(state, i, process._replace(stopped=False))
            elif process.at in HOLDING and not state.jumped:
                yield f"{name} is stopped", self.put(state, i, process._replace(stopped=True))
            if process.at != "idle":
                yield f"{name} is killed", self.kill(state, i)
            acts = self.holds if process.at in HOLDING else self.claiming
            for what, after in () if process.stopped else acts(state, i, process):
                yield f"{name} {what}", after
        if not state.jumped and not any(process.stopped for process in state.processes):
            yield "the server's clock jumps", state._replace(jumped=True, age=TTL + 1)
        if (later := self.tick(state)) is not None:
            yield "a tick passes", later

    def representative(self, state: State) -> State:
        """Return the same state for all that differ only by an exchange of equal processes."""
        if len(self.symmetries) == 1:
            return state
        return min(self.exchanged(state, order) for order in self.symmetries)

    def exchanged(self, state: State, order: tuple[int, ...]) -> State:
        processes = tuple(state.processes[i] for i in order)
        owner = order.index(state.owner) if state.owner >= 0 else -1
        host = self.hosts[order.index(self.hosts.index(state.host))] if state.host else ""
        return state._replace(owner=owner, host=host, processes=processes)

    @staticmethod
    def put(state: State, i: int, process: Process) -> State:
        return state._replace(processes=(*state.processes[:i], process, *state.processes[i + 1 :]))

    def kill(self, state: State, i: int) -> State:
        state = self.put(state, i, Process())
        return state._replace(owner=-1) if state.owner == i else state

    def tick(self, state: State) -> State | None:
        """Let time pass, unless a process must act before: a working holder gives its sign of life, or writes."""
        later = []
        for process in state.processes:
            holds = process.at in HOLDING
            if holds and not process.stopped and process.silence >= BEAT:
                return None
            if process.at == "write" and process.ticks >= WINDOW and self.rules.writes_in_time:
                return None
            silence = min(process.silence + 1, PATIENCE + 1) if holds else 0
            ticks = min(process.ticks + 1, max(GAP, WINDOW)) if process.at in ("wait", "write") else 0
            later.append(process._replace(silence=silence, ticks=ticks))
        return state._replace(age=min(state.age + 1, TTL + 1), processes=tuple(later))

    # -- what a process does ------------------------------------------------------------------------------------------

    def claiming(self, state: State, i: int, process: Process) -> Iterator[Step]:
        idle = self.put(state, i, Process())
        if process.at == "idle":
            if self.removes[i] or not state.done:
                # A released lease, or none, needs no judgement.
                yield "lists", self.put(state, i, Process("create" if state.released else "look"))
        elif process.at == "create":
            yield self.create(state, i, process)
        elif process.behind:
            # A lease that is not the newest: its holder has ended, or will find its successor.
            yield "looks at an old lease", self.put(state, i, process._replace(at="create", ticks=0))
        elif state.released:
            yield "finds a release", idle
        elif self.hosts[i] == state.host:
            after = idle if state.owner >= 0 else self.put(state, i, process._replace(at="create", ticks=0))
            yield "looks the holder up", after
        elif state.age <= TTL or not process.same:
            yield "finds a sign of life", idle
        elif process.at == "look" and self.rules.looks_twice:
            yield "finds no sign of life", self.put(state, i, process._replace(at="wait", ticks=0, same=True))
        elif process.at == "look" or process.ticks >= (GAP if self.rules.looks_a_beat_apart else 0):
            yield "judges the holder gone", self.put(state, i, process._replace(at="create", ticks=0))

    def create(self, state: State, i: int, process: Process) -> Step:
        """Claim the number after the judged one."""
        behind = process.behind if self.rules.claims_after_the_judged else 0
        if behind and self.rules.creates_exclusively:
            return "is too slow", self.put(state, i, Process())
        if behind > 1:
            return "claims an old number", self.put(state, i, process._replace(at="check", behind=behind - 1))
        return "claims", self.claim(self.put(state, i, process._replace(at="check")), i, new=not behind)

    def claim(self, state: State, i: int, *, new: bool) -> State:
        """Make a process the holder of a lease: the next, or the newest, whose holder then doesn't hear of it."""
        others = [p._replace(behind=min(p.behind + new, 2)) if p.at != "idle" else p for p in state.processes]
        others[i] = others[i]._replace(behind=0, silence=0)
        return state._replace(owner=i, host=self.hosts[i], age=0, released=False, processes=tuple(others))

    def holds(self, state: State, i: int, process: Process) -> Iterator[Step]:
        mine = not process.behind and state.owner == i
        confirms = self.rules.confirms_removals if self.removes[i] else self.rules.confirms
        if process.at == "hold" and not confirms:
            yield "goes on", self.put(state, i, process._replace(at="write", ticks=0))
        if process.silence > PATIENCE and self.rules.minds_its_silence:
            # Whether it is about to give a sign of life, to confirm or to release.
            if process.at != "write":
                yield self.renew(state, i, process)
                return
        elif process.silence:
            yield "gives a sign of life", self.beat(state, i, process, mine)
        if process.at == "check":
            again = state.done and not self.removes[i] and self.rules.checks_done_again
            yield "looks for done", self.put(state, i, process._replace(at="leave" if again else "hold"))
        elif process.at == "hold":
            yield self.confirm(state, i, process)
            yield "saves and leaves", self.put(state, i, process._replace(at="leave"))
        elif process.at == "write":
            yield from self.writes(state, i, process, mine)
        else:
            yield "releases", self.release(state, i, mine)

    def beat(self, state: State, i: int, process: Process, mine: bool) -> State:
        lost = process.behind > 0 and process.at != "write"
        state = self.put(state, i, Process() if lost else process._replace(silence=0))
        if not mine:
            return state
        looked = (p._replace(same=False) if p.at == "wait" else p for p in state.processes)
        return state._replace(age=0, processes=tuple(looked))

    def renew(self, state: State, i: int, process: Process) -> Step:
        if process.behind:
            return "was silent, and has a successor", self.put(state, i, Process())
        return "was silent, and claims the next", self.claim(state, i, new=True)

    def confirm(self, state: State, i: int, process: Process) -> Step:
        if process.behind:
            return "finds a successor", self.put(state, i, Process())
        return "confirms", self.put(state, i, process._replace(at="write", ticks=0))

    def writes(self, state: State, i: int, process: Process, mine: bool) -> Iterator[Step]:
        if not mine:
            raise Harm("a process writes after another one has claimed the run")
        if state.done and not self.removes[i]:
            raise Harm("a process executes a run that is done")
        hold = self.put(state, i, process._replace(at="hold", ticks=0))
        leave = self.put(state, i, process._replace(at="leave", ticks=0))
        if self.removes[i]:
            yield "removes a file", hold._replace(done=False)
            yield "removes the last file", leave._replace(done=False)
        else:
            yield "writes", hold
            yield "writes done", leave._replace(done=True)

    def release(self, state: State, i: int, mine: bool) -> State:
        state = self.put(state, i, Process())
        if not mine:
            return state
        if not self.rules.keeps_leases:
            others = (p._replace(behind=max(p.behind - 1, 0)) for p in state.processes)
            return state._replace(owner=-1, released=True, processes=tuple(others))
        return state._replace(owner=-1, released=True)


def is_lost(model: Model, state: State) -> bool:
    """Return whether the run of a state without processes can never be finished, by a process on another machine."""
    if state.done or any(process.at != "idle" for process in state.processes):
        return False
    alone = Model((("another", False),), model.rules)
    came = [state._replace(processes=(Process(),))]
    for now in came:
        if now.done:
            return False
        came += [after for label, after in alone.steps(now) if "killed" not in label and after not in came]
    return True


class Found(NamedTuple):
    states: int
    steps: int
    harm: str
    """The rule that was violated; empty: none."""
    way: list[str]
    """A shortest sequence of steps to the harm."""


def search(model: Model) -> Found:
    """Visit every reachable state, up to the first that does harm."""
    came: dict[State, tuple[State, str] | None] = {model.first: None}
    queue, steps = deque([model.first]), 0
    while queue:
        state = queue.popleft()
        harm = "the run is lost" if is_lost(model, state) else ""
        try:
            for label, after in () if harm else model.steps(state):
                steps += 1
                after = model.representative(after)
                if after not in came:
                    came[after] = (state, label)
                    queue.append(after)
        except Harm as error:
            harm = str(error)
        if harm:
            way = []
            while (before := came[state]) is not None:
                state, label = before
                way.append(label)
            return Found(len(came), steps, harm, way[::-1])
    return Found(len(came), steps, "", [])
