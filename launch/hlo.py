"""What a compiled program does on one device, counted from its optimised HLO.

XLA's own cost_analysis counts the body of a loop once; here it counts as often as it runs. The text is that of
`jax.stages.Compiled.as_text()`: one instruction a line, `%name = shape opcode(operands), attributes`.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
# These move nothing themselves.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota",
        "after-all", "partition-id", "replica-id", "optimization-barrier"}  # fmt: skip
# Kernels of causal splash attention, see model.splash: products with each block of pairs, and which two operands are
# read anew for each block of the others, of [..., heads, time, head dim].
SPLASH = {"fwd": (2, (3, 4)), "dq": (3, (3, 4)), "dkv": (4, (2, 8))}

ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
INSTRUCTION = re.compile(r"\s+(ROOT )?%(\S+) = (.*)")
OPCODE = re.compile(r" ([a-z][a-z0-9-]*)\(")
CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")


class Array(NamedTuple):
    """One array of a shape: element type, dimensions, and whether it lies in the device's main memory."""

    kind: str
    dims: tuple[int, ...]
    in_memory: bool

    @property
    def bytes(self) -> int:
        bits = BITS.get(self.kind) if self.kind in BITS else int(re.search(r"\d+", self.kind)[0])
        return math.prod(self.dims) * bits // 8

    def __str__(self):
        return f"{self.kind}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: what it makes, of what, and the rest of the line."""

    name: str
    opcode: str
    shape: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool


@dataclasses.dataclass
class Traffic:
    """Collectives of one kind: how many a run, and the bytes that a device sends."""

    count: int = 0
    bytes: float = 0.0


@dataclasses.dataclass
class Totals:
    """Work of one device in one run of a program.

    Attributes:
      flops: of matrix products, 2 a multiply-add.
      memory_bytes: read from and written to main memory by each fusion, product, copy and slice.
      collectives: kind -> traffic.
      kernels: name -> runs of a kernel that the program brings along.
      largest: array in main memory.
      open_loops: loops whose number of rounds the program does not say, counted once.
    """

    flops: float = 0.0
    memory_bytes: float = 0.0
    collectives: dict[str, Traffic] = dataclasses.field(default_factory=lambda: collections.defaultdict(Traffic))
    kernels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    largest: Array = dataclasses.field(default_factory=lambda: Array("token", (), True))
    open_loops: int = 0


class Program:
    """An HLO module: computation -> its instructions by name, in order."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line.startswith(("%", "ENTRY ")):
                name = line.removeprefix("ENTRY ").split()[0].removeprefix("%")
                current = self.computations[name] = {}
                if line.startswith("ENTRY "):
                    self.entry = name
            elif match := INSTRUCTION.match(line):
                instruction = _instruction(*match.groups())
                current[instruction.name] = instruction

    def totals(self) -> Totals:
        """Everything that a run of the program does."""
        found, seen = Totals(), set()

        def visit(name: str, times: int, fused: bool) -> None:
            computation = self.computations[name]
            for each in computation.values():
                kind = each.opcode.removesuffix("-start")
                if kind in COLLECTIVES:
                    # What is done piecewise beside products (TPU) stands in each piece under one channel.
                    channel = re.search(r"channel_id=\d+", each.attributes)
                    if (channel[0] if channel else each.name) not in seen:
                        seen.add(channel[0] if channel else each.name)
                        scattered = name.startswith("all-reduce-scatter")  # TPU's fused reduce-scatter
                        kind = "reduce-scatter" if scattered else kind
                        found.collectives[kind].count += times
                        found.collectives[kind].bytes += times * _sent(kind, each, computation)
                elif each.opcode in ("dot", "convolution"):
                    found.flops += times * _flops(each, computation)
                elif "tpu_custom_call" in each.attributes:
                    name, flops, again = _kernel(each, computation)
                    found.kernels[name] += times
                    found.flops += times * flops
                    found.memory_bytes += times * again
                if not fused:
                    arrays = [found.largest, *(array for array in each.shape if array.in_memory)]
                    found.largest = max(arrays, key=lambda array: array.bytes)
                    found.memory_bytes += times * self._memory_bytes(each, computation)
                if each.opcode == "while":
                    rounds = self._rounds(each)
                    found.open_loops += rounds is None
                    body = re.search(r"body=%([\w.\-]+)", each.attributes)[1]
                    visit(body, times * (1 if rounds is None else rounds), fused)
                elif each.opcode in ("fusion", "call", "conditional", "async-start", "custom-call"):
                    for called in _called(each):
                        visit(called, times, fused or each.opcode == "fusion")

        visit(self.entry, 1, False)
        return found

    def _rounds(self, loop: Instruction) -> int | None:
        """How often a loop that counts from 0 runs, if the program says it."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition, body = (
            self.computations[re.search(rf"{part}=%([\w.\-]+)", loop.attributes)[1]] for part in ("condition", "body")
        )
        root = given = _root(condition)
        constants = [condition[name] for name in root.operands if condition[name].opcode == "constant"]
        if root.opcode == "fusion":
            inner = self.computations[_called(root)[0]]
            root = _root(inner)
            constants += [each for each in inner.values() if each.opcode == "constant"]
        counters = [condition[name] for name in given.operands if condition[name].opcode == "get-tuple-element"]
        if (
            root.opcode != "compare"
            or "direction=LT" not in root.attributes
            or len(constants) != 1
            or len(counters) != 1
        ):
            return None
        index = int(re.search(r"index=(\d+)", counters[0].attributes)[1])
        stepped = _root(body)
        stepped = body[stepped.operands[index]] if stepped.opcode == "tuple" else stepped
        steps = [body[name] for name in stepped.operands if body[name].opcode == "constant"]
        if stepped.opcode != "add" or len(steps) != 1:
            return None
        return -(-_number(constants[0]) // _number(steps[0]))

    def _memory_bytes(self, each: Instruction, computation: dict[str, Instruction]) -> int:
        """Bytes read from and written to main memory; of an operand that is only sliced, the slices."""
        if each.opcode in FREE or each.opcode.endswith("-done"):
            return 0
        if each.opcode in ("slice", "dynamic-slice"):
            return 2 * _bytes(each.shape)
        if each.opcode == "dynamic-update-slice":
            return 2 * _bytes(computation[each.operands[1]].shape)
        read, written = [computation[name].shape for name in each.operands], _bytes(each.shape)
        if each.opcode != "fusion":
            # Asynchronous ones give their operand back beside the result.
            return sum(map(_bytes, read)) + (_bytes(each.shape[1:2]) if each.opcode.endswith("-start") else written)
        inner = self.computations[_called(each)[0]]
        users = collections.defaultdict(list)
        for user in inner.values():
            for name in user.operands:
                users[name].append(user)
        total = 0
        for parameter in inner.values():
            if parameter.opcode == "parameter":
                shape = read[int(parameter.attributes.split(")")[0])]
                uses = users[parameter.name]
                if uses and all(use.opcode in ("slice", "dynamic-slice") for use in uses):
                    total += min(_bytes(shape), sum(_bytes(use.shape, anywhere=True) for use in uses))
                elif uses and all(use.opcode == "dynamic-update-slice" for use in uses):
                    written -= _bytes(shape)
                    total += sum(2 * _bytes(inner[use.operands[1]].shape, anywhere=True) for use in uses)
                else:
                    total += _bytes(shape)
        return total + max(written, 0)


def _instruction(root: str | None, name: str, rest: str) -> Instruction:
    match = OPCODE.search(" " + rest)
    shape, tail = rest[: match.start()], rest[match.end() - 1 :]
    depth = 1
    for end, character in enumerate(tail):  # noqa: B007
        depth += (character == "(") - (character == ")")
        if depth == 0:
            break
    # What a constant or a parameter is given stands where others have their operands.
    attributes = tail if match[1] in ("constant", "parameter") else tail[end:]
    arrays = tuple(
        Array(kind, tuple(map(int, dims.split(","))) if dims else (), not re.search(r"S\([1-9]", layout or ""))
        for kind, dims, layout in ARRAY.findall(shape)
    )
    return Instruction(name, match[1], arrays, tuple(re.findall(r"%([\w.\-]+)", tail[:end])), attributes, bool(root))


def _root(computation: dict[str, Instruction]) -> Instruction:
    return next(each for each in computation.values() if each.root)


def _number(constant: Instruction) -> int:
    return int(re.match(r"-?\d+", constant.attributes)[0])


def _called(each: Instruction) -> list[str]:
    return [name for names in CALLED.findall(each.attributes) for name in re.findall(r"%([\w.\-]+)", names)]


def _bytes(shape: tuple[Array, ...], anywhere: bool = False) -> int:
    return sum(array.bytes for array in shape if anywhere or array.in_memory)


def _sent(kind: str, each: Instruction, computation: dict[str, Instruction]) -> float:
    """Bytes that a device sends in the bandwidth-optimal ring algorithms (Thakur et al. 2005)."""
    held = sum(_bytes(computation[name].shape, anywhere=True) for name in each.operands)
    if kind == "collective-permute":
        return held
    n = _group_size(each.attributes)
    return held * {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n}.get(kind, (n - 1) / n)


def _group_size(attributes: str) -> int:
    """Devices that take part in a collective with each other, in each way that HLO writes it."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"('[\w.]+')=(\d+)", match[1])}
        axes = re.findall(r"('[\w.]+')(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part) if part else sizes[axis] for axis, part in axes)
    raise ValueError(f"replica groups not understood: {attributes[:200]}")


def _flops(each: Instruction, computation: dict[str, Instruction]) -> int:
    """2 a multiply-add of a dot or a convolution; positions in padding or between dilated elements are free."""
    left, right = (computation[name].shape[0].dims for name in each.operands[:2])
    result = each.shape[0].dims
    if each.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)[1]
        return 2 * math.prod(result) * math.prod(left[int(dim)] for dim in contracted.split(",") if dim)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes).groups()
    left, right, out = (
        dict(zip(label, dims, strict=True)) for label, dims in zip(labels, (left, right, result), strict=True)
    )
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", each.attributes) or " ")[0]))
    groups = re.search(r"batch_group_count=(\d+)", each.attributes)
    total = 2 * right["i"] * right["o"] * left["b"] // (int(groups[1]) if groups else 1)
    for index, axis in enumerate(sorted(set(labels[0]) - {"b", "f"})):
        stride, dilation, hole = (
            int(window[name].split("x")[index]) if name in window else 1
            for name in ("stride", "rhs_dilate", "lhs_dilate")
        )
        before = int(window["pad"].split("x")[index].split("_")[0]) if "pad" in window else 0
        total *= sum(_valid(left[axis], right[axis], out[axis], stride, dilation, hole, before))
    return total


def _kernel(each: Instruction, computation: dict[str, Instruction]) -> tuple[str, int, float]:
    """A kernel's name, its operations, and the bytes that it reads again of what it has read before."""
    match = re.match(r"splash_mha_(fwd|dq|dkv)", each.name)
    if not match:
        raise ValueError(f"kernel not understood: {each.name}")
    products, read_again = SPLASH[match[1]]
    shapes = [computation[name].shape for name in each.operands]
    *_, heads, time, _ = shapes[2][0].dims
    count = shapes[0][0].dims[-1]  # blocks a row, of which half and the diagonal are visible
    pairs = count * (count + 1) // 2 * (time // count) ** 2
    flops = 2 * products * pairs * math.prod(shapes[2][0].dims) // time
    again = sum(_bytes(shapes[i]) * ((count + 1) / 2 * heads / shapes[i][0].dims[-3] - 1) for i in read_again)
    return match[0], flops, again


def _valid(size: int, kernel: int, out: int, stride: int, dilation: int, hole: int, before: int) -> Iterator[bool]:
    """For each element of a kernel at each place whether it meets an element of the input."""
    for place, element in itertools.product(range(out), range(kernel)):
        at = place * stride + element * dilation - before
        yield at % hole == 0 and 0 <= at < size * hole
