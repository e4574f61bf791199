"""What flow control tells of itself: metrics, and the tables of ``/debug/api_priority_and_fairness/``.

Names of metrics and columns are upstream's (apiserver pkg/util/flowcontrol metrics, apf_controller_debug.go).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kaa.api.clock import format_micro_time

from .control import WAIT_BUCKETS_S, Flow, FlowControl, Level
from .queues import Queue, Ticket

_PREFIX = "apiserver_flowcontrol_"
ROOT = "/debug/api_priority_and_fairness/"


def metrics(control: FlowControl) -> str:
    """The Prometheus exposition."""
    lines: list[str] = []

    def family(name: str, kind: str, help: str, samples: Iterable[tuple[str, float]]) -> None:
        found = [f"{_PREFIX}{name}{{{labels}}} {value:g}" for labels, value in samples]
        if found:
            lines.extend((f"# HELP {_PREFIX}{name} {help}", f"# TYPE {_PREFIX}{name} {kind}", *found))

    counts = sorted(control.counts.items())
    family(
        "dispatched_requests_total",
        "counter",
        "Number of requests executed by API Priority and Fairness subsystem",
        ((_labels(key), one.dispatched) for key, one in counts),
    )
    family(
        "rejected_requests_total",
        "counter",
        "Number of requests rejected by API Priority and Fairness subsystem",
        (
            (f'{_labels(key)},reason="{reason}"', count)
            for key, one in counts
            for reason, count in sorted(one.rejected.items())
        ),
    )
    for name, help, value in _GAUGES:
        family(
            name, "gauge", help, ((f'priority_level="{n}"', value(one)) for n, one in sorted(control.levels.items()))
        )
    lines += _waits(control)
    return "\n".join(lines) + "\n"


def _labels(key: tuple[str, str]) -> str:
    return f'priority_level="{key[0]}",flow_schema="{key[1]}"'


def _executing(level: Level) -> int:
    return level.queues.executing if level.queues is not None else level.exempt_executing


_GAUGES: tuple[tuple[str, str, Callable[[Level], float]], ...] = (
    (
        "current_inqueue_requests",
        "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
        lambda level: level.queues.waiting if level.queues is not None else 0,
    ),
    (
        "current_executing_requests",
        "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and"
        " Fairness subsystem",
        _executing,
    ),
    (
        "current_executing_seats",
        "Concurrency (number of seats) occupied by the currently executing requests in the API Priority and Fairness"
        " subsystem",
        lambda level: level.queues.seats_in_use if level.queues is not None else level.exempt_executing,
    ),
    (
        "nominal_limit_seats",
        "Nominal number of execution seats configured for each priority level",
        lambda level: level.limits.nominal,
    ),
    (
        "lower_limit_seats",
        "Configured lower bound on number of execution seats available to each priority level",
        lambda level: level.limits.least,
    ),
    (
        "upper_limit_seats",
        "Configured upper bound on number of execution seats available to each priority level",
        lambda level: level.limits.most,
    ),
    (
        "current_limit_seats",
        "current derived number of execution seats available to each priority level",
        lambda level: level.queues.limit if level.queues is not None else level.limits.nominal,
    ),
    (
        "demand_seats_smoothed",
        "Smoothed seat demands",
        lambda level: level.queues.demand.smooth if level.queues is not None else level.exempt_executing,
    ),
)


def _waits(control: FlowControl) -> Iterator[str]:
    name = f"{_PREFIX}request_wait_duration_seconds"
    yield f"# HELP {name} Length of time a request spent waiting in its queue"
    yield f"# TYPE {name} histogram"
    for key, one in sorted(control.counts.items()):
        labels = f'{_labels(key)},execute="true"'
        total = 0
        at_once = one.dispatched - sum(one.waits)
        for bound, count in zip((*WAIT_BUCKETS_S, "+Inf"), one.waits, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {at_once + total}'
        yield f"{name}_sum{{{labels}}} {one.waited_s:.6f}"
        yield f"{name}_count{{{labels}}} {one.dispatched}"


# -------------------------------------------------------------------------------------------------------- tables

_LEVEL_COLUMNS = (
    "PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
    "DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests",
)  # fmt: skip
_QUEUE_COLUMNS = (
    "PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR",
    "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum",
)  # fmt: skip
_REQUEST_COLUMNS = (
    "PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime",
    "InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime",
)  # fmt: skip


def table(control: FlowControl, path: str) -> str | None:
    """The text of a debug path; None when it is none."""
    match path.removeprefix(ROOT):
        case "dump_priority_levels":
            return _aligned(_LEVEL_COLUMNS, (_level_row(control, one) for _, one in sorted(control.levels.items())))
        case "dump_queues":
            return _aligned(_QUEUE_COLUMNS, (_queue_row(name, queue) for name, queue in _queues(control)))
        case "dump_requests":
            return _aligned(_REQUEST_COLUMNS, _request_rows(control))
    return None


def _aligned(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells that end with a comma, in columns that stand under each other."""
    cells = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) + 2 for n in range(len(columns))]
    lines = []
    for row in cells:
        shown = [f"{cell},".ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("".join(shown) + row[-1])
    return "\n".join(lines) + "\n"


def _level_row(control: FlowControl, level: Level) -> tuple[object, ...]:
    counts = [one for (name, _), one in control.counts.items() if name == level.name]
    reasons: dict[str, int] = {}
    for one in counts:
        for reason, count in one.rejected.items():
            reasons[reason] = reasons.get(reason, 0) + count
    late, gone = reasons.pop("time-out", 0), reasons.pop("cancelled", 0)
    queues = level.queues
    active = sum(1 for queue in queues.queues if queue.load) if queues is not None else 0
    waiting = queues.waiting if queues is not None else 0
    idle = not waiting and not _executing(level)
    dispatched = sum(one.dispatched for one in counts)
    return (
        level.name, active, str(idle).lower(), "false", waiting, _executing(level), dispatched, sum(reasons.values()),
        late, gone,
    )  # fmt: skip


def _queues(control: FlowControl) -> Iterator[tuple[str, Queue]]:
    for name, level in sorted(control.levels.items()):
        for queue in level.queues.queues if level.queues is not None else ():
            yield name, queue


def _queue_row(name: str, queue: Queue) -> tuple[object, ...]:
    from .queues import GUESS_S

    seats = sum(ticket.seats for ticket in queue.waiting)
    return (
        name, queue.index, len(queue.waiting), queue.executing, queue.seats_in_use, f"{queue.next_r:.8f}ss", seats,
        seats, f"{seats * GUESS_S:.8f}ss",
    )  # fmt: skip


def _request_rows(control: FlowControl) -> Iterator[tuple[object, ...]]:
    for name, queue in _queues(control):
        for n, ticket in enumerate(queue.waiting):
            flow: Flow = ticket.owner[1]
            yield (
                name, flow.schema, queue.index, n, flow.distinguisher, _moment(control, ticket), ticket.seats, 0, "0s",
                "",
            )  # fmt: skip


def _moment(control: FlowControl, ticket: Ticket) -> str:
    ago = control.clock.monotonic() - ticket.arrived
    return format_micro_time(control.clock.now() - ago)
