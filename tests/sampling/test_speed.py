import time

import jax
import jax.numpy as jnp

from amt_jax.sampling.speed import compile_seconds


def test_compiling_is_timed_once():
    @jax.jit
    def inner(x):
        time.sleep(0.3)  # as long as a large network takes to trace
        return jnp.sin(x)

    outer, x = jax.jit(lambda x: inner(x) + inner(x)), jnp.ones(3)
    before, begin = compile_seconds(), time.perf_counter()
    outer(x)
    taken, spent = time.perf_counter() - begin, compile_seconds() - before
    assert 0.3 < spent < taken < spent + 0.3
    outer(x)
    assert compile_seconds() == before + spent
