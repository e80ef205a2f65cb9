"""Attention on a mesh: rows and heads stay where they are, the time axis is exchanged for heads and back."""

from __future__ import annotations

import jax
from jax.sharding import Mesh, PartitionSpec

from amt_jax.model.attention import Attend, blockwise_attend, repeat_heads
from amt_jax.parallel.mesh import RULES


def mesh_attend(mesh: Mesh, attend: Attend = blockwise_attend) -> Attend:
    """`attend` for arrays that lie on `mesh`, with the same result.

    Rows are independent, and so are heads. Along the mesh axis `sequence` each device holds a stretch of time of all
    its heads; an all-to-all gives it all time of a part of them, and another brings the result back (DeepSpeed-Ulysses,
    Jacobs et al. 2023). What a device holds stays proportional to T / sequence.
    """
    if mesh.size == 1:
        return attend
    parts = mesh.shape["sequence"]
    rows = PartitionSpec(RULES["batch"], RULES["time"])
    heads = PartitionSpec(RULES["batch"], RULES["time"], RULES["heads"])

    def local(query, key, value, segments):
        if parts == 1:
            return attend(query, key, value, segments)
        if key.shape[2] % parts:
            key, value = (repeat_heads(x, query.shape[2]) for x in (key, value))
        query, key, value = (
            jax.lax.all_to_all(x, "sequence", split_axis=2, concat_axis=1, tiled=True) for x in (query, key, value)
        )
        segments = jax.lax.all_gather(segments, "sequence", axis=1, tiled=True)
        mixed = attend(query, key, value, segments)
        return jax.lax.all_to_all(mixed, "sequence", split_axis=1, concat_axis=2, tiled=True)

    return jax.shard_map(local, mesh=mesh, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)
