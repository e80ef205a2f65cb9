"""Profile: what the devices did in a few steps, and what of it took the longest.

A trace is a folder in the layout of jax.profiler: `xprof --logdir=FOLDER` or TensorBoard with its plugin show it, and
its .trace.json.gz opens in https://ui.perfetto.dev. Beside it lies the text of the programs that ran,
programs.txt.gz, which tells for a name like fusion.123 what it computes and which line of Python asked for it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gzip
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from amt_jax.errors import UserError

PROGRAMS = "programs.txt.gz"
SHOWN = 10  # costs in a table


@dataclasses.dataclass(frozen=True)
class Cost:
    """Operations of a program that one line of Python asked for.

    Attributes:
      name: the one that took the longest, as XLA or the kernel's library calls it.
      others: how many more there are.
      source: what they compute and where that is written; empty if the trace does not tell.
      share: of all time that devices worked.
      milliseconds: a step, on one device.
      count: times a step, on one device.
    """

    name: str
    others: int
    source: str
    share: float
    milliseconds: float
    count: float


@dataclasses.dataclass(frozen=True)
class Table:
    """What a trace tells.

    Attributes:
      costs: the largest first.
      steps: how many were traced (jax.profiler.StepTraceAnnotation), 1 if none was marked.
      milliseconds: a step, from the first operation to the last.
      idle: share of that time in which a device neither computed nor copied, the mean of all devices.
    """

    costs: tuple[Cost, ...]
    steps: int
    milliseconds: float
    idle: float

    def lines(self, count: int = SHOWN) -> list[str]:
        """The largest costs and the idle share, for a person."""
        shown = self.costs[:count]
        names = [cost.name + (f" +{cost.others}" if cost.others else "") for cost in shown]
        width = max(map(len, names), default=0)
        lines = [f"{'share':>6}  {'ms/step':>9}  {'count/step':>10}  {'operation':{width}}  what it is"]
        for name, cost in zip(names, shown, strict=True):
            figures = f"{cost.share:6.1%}  {cost.milliseconds:9.3f}  {cost.count:10.1f}"
            lines.append(f"{figures}  {name:{width}}  {cost.source}".rstrip())
        rest = f"{sum(cost.share for cost in self.costs[count:]):.1%} in {len(self.costs[count:])} others"
        return [*lines, f"{rest}; {self.milliseconds:.2f} ms a step over {self.steps}, devices idle {self.idle:.1%}"]


@contextlib.contextmanager
def trace(folder: Path) -> Iterator[None]:
    """Writes what devices do meanwhile into a folder on this machine.

    The caller waits for its own results (jax.block_until_ready) before and at the end, else work is cut off.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every call of Python would be written, and slow down what is measured
    with jax.profiler.trace(folder, profiler_options=options):
        yield
    modules = [module for each in jax.devices()[0].client.live_executables() for module in each.hlo_modules()]
    with gzip.open(_newest(folder).with_name(PROGRAMS), "wt", encoding="utf-8") as file:
        file.writelines(module.to_string() + "\n" for module in modules)


class Operation(NamedTuple):
    """One run of an operation or a kernel: nanoseconds, the name and number of its program, what it computes."""

    start: float
    end: float
    name: str
    program: tuple[str, Any]
    source: str


def costs(folder: Path) -> Table:
    """What took how long in the newest trace in a folder; UserError if there is none or no device worked in it."""
    path = _newest(folder)
    with warnings.catch_warnings():
        # jaxlib's types of statistics lack a __module__, which Python 3.12 finds fault with.
        warnings.filterwarnings("ignore", "builtin type .* has no __module__", DeprecationWarning)
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        devices = [_device_lines(plane) for plane in planes if plane.name.startswith("/device:")]
        if not any(devices):  # a CPU's operations stand on the threads of the host
            devices = [_host_lines(plane) for plane in planes if plane.name.startswith("/host:CPU")]
        steps = len(_step_numbers(planes)) or 1
    devices = [lines for lines in devices if lines]
    if not devices:
        raise UserError(f"no device worked in the trace {path}; trace a whole step")

    ran = collections.defaultdict(set)  # program -> its operations
    for operation in (each for lines in devices for line in lines for each in line):
        ran[operation.program].add(operation.name)
    texts = _texts(path.with_name(PROGRAMS))
    # Programs of one name, such as one function compiled for two sizes, are told apart by what ran of them.
    sources = {
        program: max(
            (text for name, text in texts if name == program[0]), key=lambda text: len(names & text.keys()), default={}
        )
        for program, names in ran.items()
    }
    time, count = collections.defaultdict(collections.Counter), collections.Counter()
    for operation, nanoseconds in (own for lines in devices for line in lines for own in _own_times(line)):
        name = operation.name
        source = sources[operation.program].get(name) or operation.source
        time[source or name][name, source] += nanoseconds
        count[source or name] += 1
    total, runs = sum(sum(each.values()) for each in time.values()), steps * len(devices)
    table = []
    for key, each in time.items():
        (name, source), nanoseconds = each.most_common(1)[0][0], sum(each.values())
        table.append(
            Cost(name, len(each) - 1, source, nanoseconds / total, nanoseconds / runs / 1e6, count[key] / runs)
        )
    spans = [_span([operation for line in lines for operation in line]) for lines in devices]
    idle = sum(1 - busy / whole for busy, whole in spans) / len(spans)
    whole = max(whole for _, whole in spans)
    return Table(tuple(sorted(table, key=lambda cost: -cost.share)), steps, whole / steps / 1e6, idle)


def _newest(folder: Path) -> Path:
    found = sorted(Path(folder).glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"there is no trace in {folder}")
    return found[-1]


def _device_lines(plane: Any) -> list[list[Operation]]:
    """An accelerator's operations: a GPU's by stream, a TPU's on one line."""
    lines = [line for line in plane.lines if line.name.startswith("Stream #") or line.name == "XLA Ops"]
    return _filled([_operation(event, dict(event.stats)) for event in line.events] for line in lines)


def _host_lines(plane: Any) -> list[list[Operation]]:
    """A CPU's operations by thread, without what else stands there."""
    return _filled(
        [_operation(event, stats) for event in line.events if "hlo_op" in (stats := dict(event.stats))]
        for line in plane.lines
    )


def _filled(lines: Iterable[list[Operation]]) -> list[list[Operation]]:
    return [line for line in lines if line]


def _operation(event: Any, stats: dict[str, Any]) -> Operation:
    name = stats.get("hlo_op") or event.name.partition(" = ")[0].lstrip("%")  # a TPU's is the whole instruction
    program = str(stats.get("hlo_module", "")).partition("(")[0], stats.get("program_id")
    return Operation(event.start_ns, event.end_ns, name, program, _tail(stats.get("name") or stats.get("tf_op") or ""))


def _step_numbers(planes: Iterable[Any]) -> set[int]:
    host = (plane for plane in planes if plane.name.startswith("/host:CPU"))
    stats = (dict(event.stats) for plane in host for line in plane.lines for event in line.events)
    return {each["step_num"] for each in stats if "step_num" in each}


def _own_times(line: Iterable[Operation]) -> list[tuple[Operation, float]]:
    """Each operation with its nanoseconds, without those of the operations inside it: a loop contains its body."""
    found, around = [], []
    for operation in sorted(line, key=lambda each: (each.start, -each.end)):
        while around and found[around[-1]][0].end <= operation.start:
            around.pop()
        length = operation.end - operation.start
        if around and operation.end <= found[around[-1]][0].end:
            outer, own = found[around[-1]]
            found[around[-1]] = (outer, own - length)
        around.append(len(found))
        found.append((operation, length))
    return found


def _span(operations: Iterable[Operation]) -> tuple[float, float]:
    """Nanoseconds in which at least one of them ran, and from the first's start to the last's end."""
    ordered = sorted((each.start, each.end) for each in operations)
    busy, first, until = 0.0, ordered[0][0], ordered[0][0]
    for start, end in ordered:
        busy += max(end - max(start, until), 0)
        until = max(until, end)
    return busy, until - first


INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = ")
METADATA = re.compile(r'metadata=\{.*?op_name="([^"]*)"(?:.*?stack_frame_id=(\d+))?')
TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


def _texts(path: Path) -> list[tuple[str, dict[str, str]]]:
    """The name of each program, and for its operations what they compute and where that is written."""
    found: list[tuple[str, dict[str, str]]] = []
    if not path.exists():
        return found
    section, tables = "", {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.startswith("HloModule "):
                found.append((re.split("[ ,]", line)[1], {}))
                section, tables = "", {name: {} for name in TABLES}
            elif line.strip() in TABLES:
                section = line.strip()
            elif section and (row := re.match(r"(\d+) (.*)", line)):
                tables[section][row[1]] = row[2]
            elif instruction := INSTRUCTION.match(line):
                text, frame = known.groups() if (known := METADATA.search(line)) else ("", None)
                found[-1][1][instruction[1]] = " ".join(filter(None, (_tail(text), _place(tables, frame))))
    return found


def _place(tables: dict[str, dict[str, str]], frame: str | None) -> str:
    """ "function file:line" of a stack frame in an HLO module's tables."""
    number = dict(re.findall(r"(\w+)=(\d+)", tables["StackFrames"].get(frame, "")))
    place = dict(re.findall(r"(\w+)=(\d+)", tables["FileLocations"].get(number.get("file_location_id"), "")))
    if not place:
        return ""
    function = tables["FunctionNames"][place["function_name_id"]].strip('"')
    file = tables["FileNames"][place["file_name_id"]].strip('"').replace("\\", "/").rpartition("/")[2]
    return f"{function} {file}:{place['line']}"


def _tail(op_name: str) -> str:
    """An operation's name in JAX without the jitted function that all in its program begin with."""
    return re.sub(r"^(jit\([^()]*\)/)+", "", op_name.partition(";")[0])
