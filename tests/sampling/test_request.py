"""What is asked: the same in other words is the same music, and a row depends on its request and bucket alone."""

import dataclasses

import numpy as np
import pytest

from amt_jax.sampling.request import Bucket, Request
from amt_jax.sampling.settings import GenerationSettings
from tests.condition_values import BACH, SAD, SLOWLY, SOFTLY


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"top_k": 1}, {"temperature": 0.0}),
        ({"temperature": 1e-6}, {"temperature": 0.0}),
        ({"top_p": 0.0}, {"top_k": 1}),
        ({"top_k": 100_000}, {"top_k": 0}),
        ({"guidance": 0.0, "conditions": BACH}, {}),
        # Each group by its own scale, or all in one group; the base is what guidance leads away from.
        ({"guidance": 3.0, "conditions": BACH}, {"guides": [(["composer"], 3.0)], "conditions": BACH}),
        ({"guidance": 1.0, "conditions": BACH, "against": SAD}, {"guidance": 1.0, "conditions": BACH}),
        ({"guidance": 0.0, "conditions": BACH, "against": SAD}, {"guidance": 1.0, "conditions": SAD}),
    ],
)
def test_settings_that_mean_the_same(setup, one, other):
    base = {"seconds": 600, "max_tokens": 40, "top_k": 100, "seed": 5}

    def make(fields):
        fields = base | fields
        more = {name: fields.pop(name) for name in ("conditions", "guides", "against") if name in fields}
        return Request(GenerationSettings(**fields), **more)

    # Two more rows keep both batches in one bucket: all candidates, guided.
    rest = [make({"guidance": 2.0, "conditions": BACH}), make({"top_k": 0})]
    ours, theirs = (setup.generate([make(fields), *rest])[0] for fields in (one, other))
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    assert len(ours.ids) == 40


def test_conditions_and_guidance_change_the_music(setup):
    wanted = GenerationSettings(seconds=600, max_tokens=40, top_k=0)
    guided = dataclasses.replace(wanted, guidance=4.0)
    batch = [Request(wanted), Request(wanted, BACH), Request(guided, BACH), Request(guided)]
    free, conditioned, strong, nothing_to_follow = setup.generate(batch)
    assert not np.array_equal(free.ids, conditioned.ids)
    assert not np.array_equal(conditioned.ids, strong.ids)
    np.testing.assert_array_equal(free.ids, nothing_to_follow.ids)


def test_a_row_depends_on_its_request_alone(setup, prompts):
    wanted = GenerationSettings(seconds=600, max_tokens=70, guidance=3, seed=7)
    mine = Request(wanted, BACH | SLOWLY, prompts(9))

    def beside(seed, length, temperature):
        other = dataclasses.replace(wanted, seed=seed, temperature=temperature, seconds=3.0)
        return [Request(other, SAD | SOFTLY, prompts(length)) for _ in range(2)]

    one = setup.generate([mine, *beside(1, 2, 0.5), mine])
    two = setup.generate([*beside(2, 20, 2.0), mine])
    assert one[0].bucket == two[2].bucket
    for other in (one[3], two[2], setup.sampler.replay(mine, one[0].bucket, 0)):
        np.testing.assert_array_equal(one[0].ids, other.ids)
    assert len(one[0].ids) == 70


def test_buckets(setup, prompts):
    def bucket(*fields, **more):
        return setup.sampler.bucket([Request(GenerationSettings(**each), **more) for each in fields])

    assert bucket({}) == Bucket(rows=1, width=1, branches=1, candidates=64, budget=8192)
    assert bucket({}, {}, {"max_tokens": 9000}).rows == 4
    assert bucket({"max_tokens": 9000}).budget == 16384
    assert bucket({"top_k": 0}, {}).candidates == bucket({"top_k": 65}).candidates == 419
    assert [bucket({}, prompt=prompts(length)).width for length in (1, 31, 32, 500)] == [32, 32, 32, 32]
    assert bucket({"guidance": 3.0}).branches == 1
    assert bucket({"guidance": 1.0}, conditions=BACH).branches == 1
    assert bucket({"guidance": 3.0}, conditions=BACH).branches == 2
    assert bucket({}, conditions=BACH | SAD, guides=[(["composer"], 2.0), (["mood"], 3.0)]).branches == 3
    assert bucket({}, conditions=BACH, against=SAD).branches == 2
