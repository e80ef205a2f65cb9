"""What was found out about a training on a slice: figures, the estimate they give, and both in words."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from launch.chips import chip


@dataclasses.dataclass(frozen=True)
class Figures:
    """A compiled program on one chip.

    Attributes:
      name: which program.
      arguments, results, shared, temporaries, code: bytes of main memory; shared are arguments that become results.
      flops: of matrix products.
      memory_bytes: read and written.
      collectives: kind -> [count, bytes sent].
      largest: array in main memory: its type and dimensions, and bytes.
      kernels: name -> runs, of kernels that are not the compiler's.
      open_loops: loops counted once because their length depends on data.
      compile_seconds: it took so long here.
    """

    name: str
    arguments: int
    results: int
    shared: int
    temporaries: int
    code: int
    flops: float
    memory_bytes: float
    collectives: dict[str, tuple[int, float]]
    largest: tuple[str, int]
    kernels: dict[str, int]
    open_loops: int
    compile_seconds: float

    @property
    def memory(self) -> int:
        """Bytes of main memory taken while it runs."""
        return self.arguments + self.results - self.shared + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Report:
    """What a training takes on a slice.

    Attributes:
      config, topology, overrides: as asked.
      mesh: devices along each axis.
      summary: the lines a run begins with.
      parameters: numbers in the network.
      tokens: a step.
      formula_flops: of a step on all chips as splash attention executes it; see training.flops.
      model_flops: of a step on all chips, nothing computed twice.
      checkpoint: arrays, bytes in all, hosts, bytes that a host reads to resume.
      programs: the compiled ones; the train step first.
    """

    config: str
    topology: str
    overrides: list[str]
    mesh: dict[str, int]
    summary: list[str]
    parameters: int
    tokens: int
    formula_flops: float
    model_flops: float
    checkpoint: dict[str, int]
    programs: list[Figures]

    @property
    def chips(self) -> int:
        return math.prod(self.mesh.values())

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        return cls(**data | {"programs": [Figures(**each) for each in data["programs"]]})


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds that a program's parts take by a chip's datasheet."""

    compute: float
    memory: float
    interconnect: float

    @property
    def fastest(self) -> float:
        """If the two shorter hide behind the longest."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def slowest(self) -> float:
        """If nothing hides behind anything."""
        return self.compute + self.memory + self.interconnect


def estimate(program: Figures, topology: str) -> Estimate:
    """What a program takes by the datasheet of a topology's chip."""
    hardware = chip(topology)
    sent = sum(size for _, size in program.collectives.values())
    return Estimate(
        program.flops / hardware.peak,
        program.memory_bytes / hardware.memory_bandwidth,
        sent / hardware.interconnect,
    )


def utilisation(report: Report) -> tuple[float, float]:
    """Model FLOPs utilisation of the train step, at least and at most, by the estimate."""
    time = estimate(report.programs[0], report.topology)
    ideal = report.model_flops / report.chips / chip(report.topology).peak
    return ideal / time.slowest, ideal / time.fastest


def lines(report: Report) -> list[str]:
    """The report for people."""
    from amt_jax.training.summary import size_of

    hardware, layout = chip(report.topology), report.checkpoint
    found = [
        *report.summary,
        f"checkpoint: {layout['arrays']} arrays, {size_of(layout['bytes'])}; "
        f"each of {layout['hosts']} hosts reads {size_of(layout['bytes_a_host'])} to resume",
    ]
    for each in report.programs:
        time = estimate(each, report.topology)
        found += [
            f"{each.name}: compiled in {each.compile_seconds:.0f} s",
            f"  memory a chip: {size_of(each.memory)} of {size_of(hardware.memory)}: "
            f"arguments {size_of(each.arguments)}, temporaries {size_of(each.temporaries)}, "
            f"results of their own {size_of(each.results - each.shared)}, code {size_of(each.code)}",
            f"  operations a chip: {each.flops / 1e12:.3f} TFLOP in products, "
            f"{size_of(each.memory_bytes)} through memory",
            *(
                f"  interconnect a chip: {kind} {count:,} x, {size_of(size)} sent"
                for kind, (count, size) in each.collectives.items()
            ),
            f"  attention: {', '.join(f'{name} {count:,} x' for name, count in each.kernels.items()) or 'of a cache'}; "
            f"largest array {each.largest[0]}, {size_of(each.largest[1])}",
            f"  estimate, not measured: {time.fastest * 1e3:.3g} to {time.slowest * 1e3:.3g} ms (products "
            f"{time.compute * 1e3:.3g}, memory {time.memory * 1e3:.3g}, interconnect {time.interconnect * 1e3:.3g})",
        ]
    low, high = utilisation(report)
    time = estimate(report.programs[0], report.topology)
    counted = report.programs[0].flops * report.chips
    found += [
        f"a step by formula: {report.formula_flops / 1e12:.2f} TFLOP executed (counted {counted / 1e12:.2f}, "
        f"{counted / report.formula_flops - 1:+.1%}), {report.model_flops / 1e12:.2f} of the model",
        f"estimated {report.tokens / time.slowest:,.0f} to {report.tokens / time.fastest:,.0f} tokens/s, "
        f"model FLOPs utilisation {low:.0%} to {high:.0%}",
    ]
    return found
