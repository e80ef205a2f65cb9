import time

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData, StepTraceAnnotation

from amt_jax.errors import UserError
from amt_jax.training.profile import costs, trace

# Three streams of two GPUs, times in nanoseconds of two steps: on GPU 0 a product of 40 that runs beside a copy of 30
# and is followed by a pause of 20 and a fusion of 10, on GPU 1 nothing but a fusion of 35 between two of 20 and 45.
GPUS = """
planes { id: 1 name: "/host:CPU"
  lines { name: "python"
    events { metadata_id: 1 offset_ps: 0 duration_ps: 9000 stats { metadata_id: 1 int64_value: 7 } }
    events { metadata_id: 1 offset_ps: 9000 duration_ps: 9000 stats { metadata_id: 1 int64_value: 8 } } }
  event_metadata { key: 1 value { id: 1 name: "train" } }
  stat_metadata { key: 1 value { id: 1 name: "step_num" } } }
planes { id: 2 name: "/device:GPU:0"
  lines { name: "Stream #13(Compute)" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 0 duration_ps: 40000
             stats { metadata_id: 1 str_value: "gemm.1" } stats { metadata_id: 2 str_value: "jit(step)/layer/dot" } }
    events { metadata_id: 2 offset_ps: 60000 duration_ps: 10000 stats { metadata_id: 1 str_value: "fusion.2" } } }
  lines { name: "Stream #14(MemcpyH2D)" timestamp_ns: 1000
    events { metadata_id: 3 offset_ps: 5000 duration_ps: 30000 } }
  lines { name: "XLA Modules" timestamp_ns: 1000 events { metadata_id: 1 offset_ps: 0 duration_ps: 70000 } }
  event_metadata { key: 1 value { id: 1 name: "nvjet_128" } }
  event_metadata { key: 2 value { id: 2 name: "fusion_2" } }
  event_metadata { key: 3 value { id: 3 name: "MemcpyH2D" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
  stat_metadata { key: 2 value { id: 2 name: "name" } } }
planes { id: 3 name: "/device:GPU:1"
  lines { name: "Stream #13(Compute)" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 0 duration_ps: 20000 stats { metadata_id: 1 str_value: "fusion.2" } }
    events { metadata_id: 1 offset_ps: 20000 duration_ps: 35000 stats { metadata_id: 1 str_value: "fusion.3" } }
    events { metadata_id: 1 offset_ps: 55000 duration_ps: 45000 stats { metadata_id: 1 str_value: "fusion.2" } } }
  event_metadata { key: 1 value { id: 1 name: "fusion_2" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } } }
"""
TPU = """
planes { id: 1 name: "/device:TPU:0"
  lines { name: "XLA Ops"
    events { metadata_id: 1 offset_ps: 0 duration_ps: 100000 }
    events { metadata_id: 2 offset_ps: 10000 duration_ps: 30000 }
    events { metadata_id: 2 offset_ps: 50000 duration_ps: 40000 } }
  event_metadata { key: 1 value { id: 1 name: "%while.1 = (f32[8]) while((f32[8]) %tuple)" } }
  event_metadata { key: 2 value { id: 2 name: "%fusion.5 = f32[8] fusion(f32[8] %x)" } } }
"""


@pytest.fixture
def written(tmp_path):
    """A function: a trace as text -> a folder with it."""

    def write(text):
        (tmp_path / "vm.xplane.pb").write_bytes(ProfileData.text_proto_to_serialized_xspace(text))
        return tmp_path

    return write


def test_what_ran_on_gpus(written):
    table = costs(written(GPUS))
    found = {cost.name: (cost.source, round(cost.milliseconds * 1e6, 3), cost.count) for cost in table.costs}
    assert found == {
        "gemm.1": ("layer/dot", 10, 0.25),  # nanoseconds and times a step and device: two steps on two devices
        "fusion.2": ("", 18.75, 0.75),
        "fusion.3": ("", 8.75, 0.25),
        "MemcpyH2D": ("", 7.5, 0.25),
    }
    assert [cost.name for cost in table.costs][:2] == ["fusion.2", "gemm.1"]
    assert sum(cost.share for cost in table.costs) == pytest.approx(1)
    assert table.steps == 2
    assert table.idle == pytest.approx((20 / 70 + 0) / 2)
    assert table.milliseconds == pytest.approx(100 / 2 / 1e6)
    assert table.lines(2)[-1].startswith("36.1% in 2 others; 0.00 ms a step over 2, devices idle 14.3%")


def test_a_loop_does_not_count_what_is_in_it(written):
    table = costs(written(TPU))
    assert {cost.name: round(cost.milliseconds * 1e6) for cost in table.costs} == {"fusion.5": 70, "while.1": 30}
    assert table.idle == 0


def test_a_trace_that_was_taken_here(tmp_path):
    def double(x):
        return x @ x

    @jax.jit
    def work(x):
        for _ in range(3):
            x = jnp.tanh(double(x))
        return x

    x = jnp.eye(256)
    work(x).block_until_ready()
    with trace(tmp_path):
        for step in range(4):
            with StepTraceAnnotation("train", step_num=step):
                begin = time.perf_counter()
                work(x).block_until_ready()
                time.sleep(3 * (time.perf_counter() - begin) + 0.01)
    table = costs(tmp_path)
    assert table.steps == 4
    products = next(cost for cost in table.costs if "dot_general" in cost.source)
    assert "double test_profile.py:" in products.source
    assert (products.count, products.others) == (3, 2)
    assert table.costs[0] == products
    assert 0.4 < table.idle < 1  # two thirds and more of the time nothing ran
    assert f"{products.share:.1%}" in table.lines()[1]


def test_no_trace_and_a_trace_of_nothing(tmp_path):
    with pytest.raises(UserError, match="no trace in"):
        costs(tmp_path)
    with trace(tmp_path):
        pass
    with pytest.raises(UserError, match="no device worked"):
        costs(tmp_path)
