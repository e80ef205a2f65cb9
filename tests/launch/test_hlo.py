"""Counts from HLO against programs whose work is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from launch.hlo import Array, Program

N = 8  # devices of the tests


def compiled(function, *shapes, mesh=None, spec=None):
    """The HLO of a function of float32 arrays, each device working on its part of them."""
    place = NamedSharding(mesh, spec) if mesh else None
    if mesh:
        function = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(), check_vma=False)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_loops_count_as_often_as_they_run():
    def body(x, _):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ y), None), x, length=3)[0], None

    found = Program(compiled(lambda x: jax.lax.scan(body, x, length=5)[0], (16, 16))).totals()
    assert found.flops == 5 * 3 * 2 * 16**3
    assert found.open_loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    def grow(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1e6, lambda x: x @ x, x)

    found = Program(compiled(grow, (16, 16))).totals()
    assert found.flops == 2 * 16**3
    assert found.open_loops == 1


@pytest.mark.parametrize(
    ("collective", "kind", "sent"),
    [
        (lambda x: jax.lax.all_gather(x, "i", tiled=True), "all-gather", 64 * (N - 1)),
        (lambda x: jax.lax.psum(x, "i"), "all-reduce", 2 * 64 * (N - 1) / N),
        (lambda x: jax.lax.psum_scatter(x, "i", tiled=True), "reduce-scatter", 64 * (N - 1) / N),
        (lambda x: jax.lax.all_to_all(x, "i", 0, 0, tiled=True), "all-to-all", 64 * (N - 1) / N),
        (lambda x: jax.lax.ppermute(x, "i", [(i, (i + 1) % N) for i in range(N)]), "collective-permute", 64),
    ],
)
def test_collectives_send_what_their_rings_send(collective, kind, sent):
    mesh = jax.make_mesh((N,), ("i",), (jax.sharding.AxisType.Auto,))

    def four_times(x):
        def body(total, _):
            return total + jnp.sum(collective(x * total)), None

        return jax.lax.scan(body, jnp.float32(1), length=4)[0]

    text = compiled(four_times, (N * 64, 1), mesh=mesh, spec=PartitionSpec("i"))
    found = Program(text).totals().collectives
    assert found[kind].count == 4
    assert found[kind].bytes == 4 * sent * 4  # rounds, bytes of float32


TPU = """\
HloModule jit_f

%fused (p0: bf16[8,1024], p1: f32[4]) -> bf16[8,128] {
  %p0 = bf16[8,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[4]{0:T(128)S(1)} parameter(1)
  ROOT %slice.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} slice(%p0), slice={[0:8], [0:128]}
}

%gathering (p2: bf16[8,128]) -> bf16[64,128] {
  %p2 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%p2), channel_id=7, GROUPS, dimensions={0}
}

%body (state: (u32[], f32[8,128,64])) -> (u32[], f32[8,128,64]) {
  %state = (u32[]{:T(128)}, f32[8,128,64]{2,1,0:T(8,128)}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %i = u32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,128,64]{2,1,0:T(8,128)} get-tuple-element(%state), index=1
  %z = f32[8,128,128]{2,1,0:T(8,128)S(1)} convolution(%x, %x), WINDOW, dim_labels=0bf_0oi->0bf
  %next = u32[]{:T(128)} add(%i, %two)
  ROOT %tuple.1 = (u32[]{:T(128)}, f32[8,128,64]{2,1,0:T(8,128)}) tuple(%next, %x)
}

%condition (state.1: (u32[], f32[8,128,64])) -> pred[] {
  %limit = u32[]{:T(128)} constant(8)
  %state.1 = (u32[]{:T(128)}, f32[8,128,64]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = u32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: bf16[8,1024], b: (u32[], f32[8,128,64]), c: f32[4]) -> bf16[64,128] {
  %a = bf16[8,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %b = (u32[]{:T(128)}, f32[8,128,64]{2,1,0:T(8,128)}) parameter(1)
  %c = f32[4]{0:T(128)S(1)} parameter(2)
  %fusion.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} fusion(%a, %c), kind=kLoop, calls=%fused
  %while.1 = (u32[]{:T(128)}, f32[8,128,64]{2,1,0:T(8,128)}) while(%b), condition=%condition, body=%body
  %part.1 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%fusion.1), kind=kCustom, calls=%gathering
  ROOT %part.2 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%fusion.1), kind=kCustom, calls=%gathering
}
""".replace("WINDOW", "window={size=8 stride=7 lhs_dilate=8}")


@pytest.mark.parametrize(
    "groups",
    ["replica_groups={{0,1,2,3,4,5,6,7}}", "replica_groups=[4,8]<=[32]",
     "replica_groups=mesh['axis_0'=8,'axis_1'=4] {'axis_0'}",
     "replica_groups=mesh['axis_0'=4,'axis_1'=16], device_ids=([2,2]T(1,0)) {'axis_1':(2)8}"],
)  # fmt: skip
def test_what_the_tpu_compiler_writes(groups):
    found = Program(TPU.replace("GROUPS", groups)).totals()
    # A batch of 8 products is written as a convolution over dilated inputs; the counter goes in twos.
    assert found.flops == 4 * 8 * 2 * 128 * 64 * 128
    # Two pieces of one all-gather stand under one channel.
    assert found.collectives["all-gather"].count == 1
    assert found.collectives["all-gather"].bytes == 7 * 8 * 128 * 2
    # Of the argument only the slice is read; S(1) is on the chip, not in its main memory. 3 x 4 bytes: the counter.
    assert found.memory_bytes == 2 * 8 * 128 + 4 * (2 * 4 * 8 * 128 * 64 + 3 * 4)


KERNEL = """\
ENTRY %main (n: s8[1,4,4], m: s8[1,4,4], q: bf16[2,8,2048,64], k: bf16[2,4,2048,64]) -> bf16[2,8,2048,64] {
  %n = s8[1,4,4]{2,1,0:T(4,128)(4,1)S(1)} parameter(0)
  %m = s8[1,4,4]{2,1,0:T(4,128)(4,1)S(1)} parameter(1)
  %q = bf16[2,8,2048,64]{3,2,1,0:T(8,128)(2,1)} parameter(2)
  %k = bf16[2,4,2048,64]{3,2,1,0:T(8,128)(2,1)} parameter(3)
  ROOT %NAME.1 = bf16[2,8,2048,64]{3,2,1,0} custom-call(%n, %m, %q, %k, %k, /*index=5*/%n, %n, %n, %q), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(f)/%NAME"}
}
"""


@pytest.mark.parametrize(("kind", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_splash_kernels(kind, products):
    found = Program(KERNEL.replace("NAME", f"splash_mha_{kind}_segmented")).totals()
    assert found.kernels == {f"splash_mha_{kind}": 1}
    pairs = 10 * 512**2  # of 4 x 4 blocks those below the diagonal and on it
    assert found.flops == products * 2 * 2 * 8 * pairs * 64
    # Each query head reads its blocks of keys and values 2.5 times on average, or its keys' queries; the operands of
    # the kernel and its result count once anyway.
    heads = 2 * 8 * 2048 * 64 * 2
    read_again = {"dkv": 2 * 1.5 * heads}.get(kind, 2 * (2.5 * heads - heads / 2))
    assert found.memory_bytes == 2 * heads + 2 * heads / 2 + heads + read_again
    assert str(found.largest) == "bf16[2,8,2048,64]"


def test_kernels_that_are_not_known_are_not_guessed():
    with pytest.raises(ValueError, match="not understood"):
        Program(KERNEL.replace("NAME", "paged_attention")).totals()


def test_replica_groups_that_are_not_understood_are_not_guessed():
    with pytest.raises(ValueError, match="not understood"):
        Program(TPU.replace("GROUPS", "replica_groups=new[8]")).totals()


@pytest.mark.parametrize(("kind", "size"), [("bf16", 24), ("f32", 48), ("pred", 12), ("s4", 6), ("f8e4m3fn", 12)])
def test_bytes_of_an_array(kind, size):
    assert Array(kind, (3, 4), True).bytes == size
