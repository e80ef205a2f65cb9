"""Compiles a training for a TPU slice where there is no TPU, and says what it would take.

python -m launch.compile_check --config=amt_86m --topology=v5e:16x16
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt_jax.errors import Parser, UserError, run_command
from amt_jax.train import parse
from launch.chips import slice_devices
from launch.report import Figures, Report, lines

if TYPE_CHECKING:
    from amt_jax.model.config import TransformerConfig
    from amt_jax.parallel.mesh import MeshConfig
    from amt_jax.tokens.symbolic import SymbolicTokenizer

EPILOG = """\
The programs are the ones that train and generate use: the step for the whole mesh, the reading of a prompt, and the
loop that draws tokens. Bytes and operations are counted from what the compiler made of them, a chip, loops as often as
they run. Times are estimates from the chip's datasheet, not measurements: between the slowest of products, memory and
interconnect, if the other two hide behind it, and their sum, if nothing does. What vector units do (softmax, norms,
random numbers) is in neither.

--rows stays the same whatever the slice, so that a larger slice takes larger batches (weak scaling);
--config.batch_size=N, rows of a microbatch over all chips, stands above it. Any field of the config can be overridden
as for amt_jax.train, such as --config.mesh.fsdp=16."""


def main(argv: list[str] | None = None) -> None:
    """Reads the flags, compiles, prints."""
    parser = Parser(
        prog="python -m launch.compile_check",
        description="Compiles a training ahead of time for a TPU slice, with no TPU attached.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="a config file, or the name of one in configs/")
    parser.add_argument("--topology", required=True, help="v5e:16x16, v5p:4x4x4, v6e:8x8 and the like")
    parser.add_argument("--rows", type=int, default=1, help="rows of each microbatch a chip holds (default: 1)")
    parser.add_argument("--tokenizer", default="remi", help="the vocabulary (default: %(default)s)")
    parser.add_argument("--condition-size", type=int, default=239, help="values of each condition (default: 239)")
    parser.add_argument("--segments", type=int, default=16, help="pieces a row, at most (default: 16)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures there too, as json")
    args, overrides = parse(parser, argv)
    report = check(
        args.config,
        args.topology,
        overrides,
        rows=args.rows,
        tokenizer=args.tokenizer,
        condition_size=args.condition_size,
        segments=args.segments,
    )
    print("\n".join(lines(report)))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")


def check(
    config_name: str,
    topology: str,
    overrides: list[str],
    *,
    rows: int = 1,
    tokenizer: str = "remi",
    condition_size: int = 239,
    segments: int = 16,
) -> Report:
    """Compiles the programs of a config for a slice; see `main` for the arguments."""
    devices = slice_devices(topology)
    import jax

    from amt_jax.data.card import Card, Vocabulary
    from amt_jax.parallel.mesh import make_mesh
    from amt_jax.tokens.symbolic import SymbolicTokenizer
    from amt_jax.train import load_config, override
    from amt_jax.training.config import TrainConfig, transformer_config
    from amt_jax.training.flops import executed_flops, model_flops
    from amt_jax.training.program import compile_step, make_program
    from amt_jax.training.summary import summary

    config = TrainConfig.from_json(override(load_config(config_name), overrides))
    if not any(word.startswith("--config.batch_size") for word in overrides):
        groups = len(devices) // (config.mesh.tensor * config.mesh.sequence)
        config = dataclasses.replace(config, batch_size=max(rows * groups, 1))
    tokens = SymbolicTokenizer.create(tokenizer)
    spec = tokens.spec
    composers = Vocabulary("categorical", tuple(map(str, range(1, condition_size))))
    if config.model.dtype == "auto":
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
    model = transformer_config(config, Card(spec, {}, {"composer": composers}))
    mesh = make_mesh(config.mesh, config.batch_size, model, devices)
    program = make_program(config, model, spec, mesh, total_steps=10_000)
    programs = [
        figures("train step", lambda: compile_step(program, model, config.rows_per_step, segments)),
        *decoding(model, tokens, config.mesh, devices),
    ]
    return Report(
        config=config_name,
        topology=topology,
        overrides=overrides,
        mesh=dict(mesh.shape),
        summary=summary(program, config, model),
        parameters=sum(x.size for x in jax.tree.leaves(program.model.shapes)),
        tokens=config.rows_per_step * config.context,
        formula_flops=executed_flops(model, config.rows_per_step, splash=True),
        model_flops=model_flops(model, config.rows_per_step),
        checkpoint=checkpoint_layout(program.layout),
        programs=programs,
    )


def decoding(
    model: TransformerConfig, tokenizer: SymbolicTokenizer, config: MeshConfig, devices: list
) -> list[Figures]:
    """Reading a prompt of half a context, and drawing tokens with a cache of a whole one, a guided piece a group.

    Weights are cut by `tensor` only: cut by fsdp, they would be gathered anew for every token.
    """
    import functools

    import jax
    import jax.numpy as jnp

    from amt_jax.model.params import abstract_model
    from amt_jax.parallel.mesh import make_mesh, parameter_shardings, sharding
    from amt_jax.sampling.constraints import Limits
    from amt_jax.sampling.decode import DecodeState, Plan, decode, prefill, shardings
    from amt_jax.sampling.filters import Controls
    from amt_jax.sampling.sampler import MAX_CANDIDATES, STEPS_A_DISPATCH
    from amt_jax.tokens.grammar import Grammar

    rows = len(devices) // config.tensor
    mesh = make_mesh(dataclasses.replace(config, data=rows, fsdp=1, sequence=1), rows, model, devices)
    network, slots = abstract_model(model), model.context_length

    def shape(dtype, *dims):
        return jax.ShapeDtypeStruct(dims, dtype)

    def placed(shapes, places):
        return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)

    def whole(shapes):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(mesh)), shapes)

    numbers, reals = shape(jnp.int32, rows), shape(jnp.float32, rows)
    branches = 2 if model.conditions else 1
    params = placed(network.shapes, parameter_shardings(mesh, network.axes))
    conditions = whole(
        {each.name: shape(jnp.float16, branches * rows, 1, each.length, each.width) for each in model.conditions}
    )
    window = placed(shape(jnp.int32, rows, slots // 2), sharding(mesh, "batch"))
    first = placed(numbers, sharding(mesh, "batch"))
    reading = functools.partial(prefill.lower, network.graph, params, conditions, window, first, slots=slots, mesh=mesh)
    cache, logits, heard = jax.eval_shape(
        functools.partial(prefill, network.graph, slots=slots, mesh=mesh), params, conditions, window, first
    )
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)
    clock = jax.eval_shape(lambda: grammar.start((rows,), jnp))
    state = DecodeState(
        cache=cache,
        logits=logits,
        window=shape(jnp.int32, rows, slots),
        index=shape(jnp.int32),
        first=numbers,
        output=shape(jnp.int32, rows, slots),
        count=shape(jnp.int32),
        done=shape(jnp.bool_, rows),
        seen=shape(jnp.bool_, rows, model.vocab_size),
        clock=clock._replace(ends=shape(jnp.int32, rows, 0)),  # as without a limit of the polyphony
        heard=heard,
    )
    plan = Plan(
        controls=Controls(shape(jnp.uint32, rows), reals, numbers, reals, reals, reals),
        scales=shape(jnp.float32, branches - 1, rows),
        conditions=conditions,
        max_tokens=numbers,
        limits=Limits(reals, reals, numbers, numbers, shape(jnp.bool_, rows, model.vocab_size)),
    )
    drawing = functools.partial(
        decode.lower, network.graph, params, whole(plan), placed(state, shardings(state, mesh)), STEPS_A_DISPATCH,
        grammar=grammar, candidates=MAX_CANDIDATES, pad=tokenizer.spec.pad, mesh=mesh,
    )  # fmt: skip
    return [
        figures("prefill", lambda: reading().compile()),
        figures("decode step", lambda: drawing().compile()),
    ]


def figures(name: str, compiling) -> Figures:
    """What a compiled program takes; UserError if it does not fit the chip."""
    import jax

    from launch.hlo import Program

    print(f"compiling the {name} ...", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    try:
        compiled = compiling()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the {name} does not fit a chip's memory ({' '.join(str(error).split())[:300].rstrip('.')}); "
            "divide more with --config.mesh.fsdp, or take fewer --rows, or --config.model.remat=full"
        ) from None
    seconds = time.perf_counter() - begin
    memory, totals = compiled.memory_analysis(), Program(compiled.as_text()).totals()
    return Figures(
        name=name,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes,
        shared=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=totals.flops,
        memory_bytes=totals.memory_bytes,
        collectives={kind: (each.count, each.bytes) for kind, each in sorted(totals.collectives.items())},
        largest=(str(totals.largest), totals.largest.bytes),
        kernels=dict(sorted(totals.kernels.items())),
        open_loops=totals.open_loops,
        compile_seconds=seconds,
    )


def checkpoint_layout(layout: Any) -> dict[str, int]:
    """A checkpoint's arrays and bytes, and what a host reads to resume: each part that its chips hold, once."""
    import jax

    leaves, hosts = jax.tree.leaves(layout), collections.Counter()
    for leaf in leaves:
        size = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        parts = leaf.sharding.devices_indices_map(leaf.shape)
        for host, _ in {(device.process_index, str(index)) for device, index in parts.items()}:
            hosts[host] += size
    return {
        "arrays": len(leaves),
        "bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "hosts": len(hosts),
        "bytes_a_host": max(hosts.values()),
    }


if __name__ == "__main__":
    run_command(main)
