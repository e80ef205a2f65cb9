import itertools
import os

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amt_jax.data.card import Card, Vocabulary
from amt_jax.data.conditions import TRANSPOSITION, Conditions
from amt_jax.data.pipeline import Augmentation, Records, Rows, batches
from amt_jax.data.plan import EvalPlan, TrainPlan
from amt_jax.errors import UserError
from amt_jax.tokens.spec import TokenSpec

lengths_strategy = st.lists(st.integers(0, 30), min_size=1, max_size=12).map(np.array)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_dataset, make_pieces):
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, make_pieces([7, 0, 41, 5, 3, 17, 1, 9]))
    return folder


@pytest.fixture
def records(folder):
    return Records(folder, Card.load(folder), "train")


# --- plans


@given(lengths_strategy, st.integers(1, 20), st.integers(0, 3), st.integers(0, 5))
def test_every_target_stands_once_an_epoch(lengths, context, seed, epoch):
    plan = TrainPlan(lengths, context, seed)
    seen = [np.zeros(length + 1, int) for length in lengths]
    filled = []
    for index in range(epoch * plan.rows_per_epoch, (epoch + 1) * plan.rows_per_epoch):
        row_epoch, spans = plan.row(index)
        assert row_epoch == epoch
        assert 1 <= len(spans) <= plan.max_segments
        for span in spans:
            assert 0 <= span.start == span.scored < span.stop
            seen[span.record][span.start : span.stop] += 1
        filled.append(sum(span.stop - span.start for span in spans))
    assert all((counts == 1).all() for counts in seen)
    assert sorted(filled)[1:] == [context] * (len(filled) - 1)


@given(lengths_strategy, st.integers(1, 20), st.data())
def test_evaluation_scores_every_target_once(lengths, context, data):
    stride = data.draw(st.integers(1, context))
    plan = EvalPlan(lengths, context, stride)
    scored = [np.zeros(length + 1, int) for length in lengths]
    for index in range(len(plan.rows)):
        spans = plan.row(index)[1]
        assert sum(span.stop - span.start for span in spans) <= context
        assert len(spans) <= plan.max_segments
        for span in spans:
            scored[span.record][span.scored : span.stop] += 1
            # With overlap, what counts is preceded by the piece's start or by context - stride targets.
            assert span.scored - span.start >= min(span.scored, context - stride)
    assert all((counts == 1).all() for counts in scored)
    assert plan.row(len(plan.rows)) == (0, [])


@given(lengths_strategy, st.integers(1, 20), st.data())
def test_targets_left_out_are_seen_but_do_not_count(lengths, context, data):
    stride = data.draw(st.integers(1, context))
    skipped = np.array([data.draw(st.integers(0, 25)) for _ in lengths])
    plan = EvalPlan(lengths, context, stride, skipped=skipped, ends=False)
    scored, seen = ([np.zeros(length, int) for length in lengths] for _ in range(2))
    for span in itertools.chain(*plan.rows):
        assert span.start <= span.scored <= span.stop <= lengths[span.record]
        scored[span.record][span.scored : span.stop] += 1
        seen[span.record][span.start : span.stop] += 1
        # Before what counts stand the piece's start or context - stride targets, those left out as well.
        assert span.scored in (span.start, span.stop) or span.scored - span.start >= min(span.scored, context - stride)
    for skip, counts, everything in zip(skipped, scored, seen, strict=True):
        assert (counts[:skip] == 0).all()
        assert (counts[skip:] == 1).all()
        assert everything.all() or skip >= len(everything)


def test_epochs_differ_in_order_and_in_cuts():
    plan = TrainPlan(np.array([50]), 8, 0)
    cuts = [{span.start for i in range(7) for span in plan.row(7 * epoch + i)[1]} for epoch in range(4)]
    assert len({frozenset(c) for c in cuts}) > 1
    plan = TrainPlan(np.full(20, 9), 10, 0)
    orders = [[plan.row(20 * epoch + i)[1][0].record for i in range(20)] for epoch in range(2)]
    assert orders[0] != orders[1]


def test_seeds_differ_and_a_plan_is_a_pure_function():
    lengths = np.arange(30)
    rows = [[TrainPlan(lengths, 16, seed).row(i) for i in range(40)] for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_a_plan_of_a_large_dataset_is_fast():
    plan = TrainPlan(np.random.default_rng(0).integers(1, 20_000, 1_000_000), 8192, 0)
    assert plan.rows_per_epoch > 1_000_000
    spans = [plan.row(index)[1] for index in (0, 1, plan.rows_per_epoch + 5)]
    assert [sum(s.stop - s.start for s in row) for row in spans] == [8192] * 3


# --- batches


def flat(batch):
    return {**{k: v for k, v in batch.items() if k != "conditions"}, **batch["conditions"]}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 12), st.integers(0, 30), st.integers(1, 5))
def test_rows_are_the_same_whoever_reads_them(folder, processes, context, start, threads):
    records = Records(folder, Card.load(folder), "train")
    conditions = Conditions(records.card.conditions, {"composer": 1})
    rows = Rows(records, TrainPlan(records.lengths, context, 3), conditions, Augmentation(transpose=3), seed=3)
    shares = [
        iter(batches(rows, 4, start=start, slots=slots, threads=threads)) for slots in np.split(np.arange(4), processes)
    ]
    for step in range(3):
        parts = [flat(next(share)) for share in shares]
        for name in parts[0]:
            whole = np.concatenate([part[name] for part in parts])
            expected = np.stack([flat(rows[start + 4 * step + i])[name] for i in range(4)])
            np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("stride", [5, 10])
def test_evaluation_batches_hold_every_token_once(records, stride, spec, told):
    plan = EvalPlan(records.lengths, 10, stride)
    for batch_size, processes in ((1, 1), (4, 2), (64, 4)):
        counted = total = 0
        lengths = set()
        for slots in np.split(np.arange(batch_size), processes):
            share = list(batches(Rows(records, plan, told(records.card)), batch_size, slots=slots))
            lengths.add(len(share))
            for batch in share:
                assert batch["inputs"].shape == (batch_size // processes, 10, 1)
                counted += int(batch["weights"].sum())
                total += int((batch["targets"][..., 0] * batch["weights"]).sum())
        assert len(lengths) == 1
        assert counted == (records.lengths + 1).sum()
        assert total == sum(int(records[i].ids.sum()) + spec.eos for i in range(len(records)))


def test_rows_hold_the_pieces_as_documented(records, spec, told):
    plan = TrainPlan(records.lengths, 12, 0)
    rows = Rows(records, plan, told(records.card))
    for index in range(plan.rows_per_epoch):
        row, (_, spans) = rows[index], plan.row(index)
        assert row["segments"].max() == len(spans)
        for segment, span in enumerate(spans):
            here = row["segments"] == segment + 1
            record = records[span.record]
            sequence = np.concatenate([[spec.bos], record.ids, [spec.eos]])
            np.testing.assert_array_equal(row["inputs"][here, 0], sequence[span.start : span.stop])
            np.testing.assert_array_equal(row["targets"][here, 0], sequence[span.start + 1 : span.stop + 1])
            np.testing.assert_array_equal(row["positions"][here], np.arange(span.stop - span.start))
            # "A" is listed, "B" falls under OTHER, every fifth piece has no composer.
            expected = {"A": 1, "B": 2, None: 0}[record.conditions.get("composer")]
            np.testing.assert_array_equal(row["conditions"]["composer"][segment], np.eye(3)[[expected]])
        padding = row["segments"] == 0
        assert (row["weights"] == ~padding).all()
        assert (row["inputs"][padding] == spec.pad).all()


def test_the_iterator_restores_at_every_batch(records, told):
    rows = Rows(records, EvalPlan(records.lengths, 10, 10), told(records.card))
    grain.experimental.assert_equal_output_after_checkpoint(batches(rows, 2))


def test_several_streams(tmp_path, write_dataset, told):
    spec = TokenSpec("codes", 3, 80, 0, 1, 2, {"all": (0, 80)})
    pieces = [np.arange(3, 3 + 3 * length).reshape(length, 3) for length in (4, 6)]
    card = write_dataset(tmp_path, pieces, spec=spec)
    records = Records(tmp_path, card, "train")
    row = Rows(records, EvalPlan(records.lengths, 20, 20), told(card))[0]
    assert row["inputs"].shape == (20, 3)
    np.testing.assert_array_equal(row["targets"][:4], pieces[0])
    assert row["inputs"][0].tolist() == [1, 1, 1]
    assert row["targets"][4].tolist() == [2, 2, 2]


# --- augmentation


@given(
    st.lists(st.integers(3, 79), max_size=50),
    st.integers(0, 6),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 99),
)
def test_augmentation_keeps_types_intervals_and_drums(spec, ids, transpose, tempo, velocity, seed):
    ids = np.array(ids, np.uint16)
    varied, _ = Augmentation(transpose, tempo, velocity).apply(ids, spec, np.random.default_rng(seed))
    assert varied.dtype == ids.dtype
    types = spec.type_ids()
    np.testing.assert_array_equal(types[varied], types[ids])
    shift = varied.astype(int) - ids
    names = np.array(list(spec.ranges))[types[ids]]
    assert len(set(shift[names == "Pitch"])) <= 1
    assert (np.abs(shift[names == "Pitch"]) <= transpose).all()
    assert (np.abs(shift[names == "Tempo"]) <= tempo).all()
    assert (np.abs(shift[names == "Velocity"]) <= velocity).all()
    assert (shift[names == "PitchDrum"] == 0).all()


def test_a_share_of_the_pieces_is_transposed_and_told_how_far(records):
    steps = Vocabulary("categorical", values=tuple(f"{step:+d}" for step in range(-4, 5) if step))
    told = Conditions({TRANSPOSITION: steps}, {TRANSPOSITION: 1})
    plan = TrainPlan(records.lengths, 4, 0)
    rows, moved = Rows(records, plan, told, Augmentation(4, transposed=0.3), seed=1), []
    for index in range(40 * plan.rows_per_epoch):
        _, spans = plan.row(index)
        for segment, span in enumerate(spans):
            plain = np.concatenate([records[span.record].ids, [2]])[span.start : span.stop].astype(int)
            shift = rows[index]["targets"][rows[index]["segments"] == segment + 1, 0] - plain
            pitched = (plain >= 3) & (plain < 40)
            if pitched.any():
                step = int(shift[pitched][0])
                value = rows[index]["conditions"][TRANSPOSITION][segment]
                np.testing.assert_array_equal(value, told.value(TRANSPOSITION, f"{step:+d}" if step else None))
                moved.append(step != 0)
    assert 0.15 < np.mean(moved) < 0.35  # 0.3, but for those that are drawn to stay


def test_transposition_reaches_every_step_and_agrees_within_an_epoch(records, spec, told):
    ids = np.array([20, 22], np.uint16)
    found = {int(Augmentation(6).apply(ids, spec, np.random.default_rng(seed))[0][0]) - 20 for seed in range(200)}
    assert found == set(range(-6, 7))

    plan = TrainPlan(records.lengths, 4, 0)
    rows = Rows(records, plan, told(records.card), Augmentation(6, 3, 3), seed=1)
    shifts = {}
    for index in range(4 * plan.rows_per_epoch):
        epoch, spans = plan.row(index)
        for segment, span in enumerate(spans):
            sequence = np.concatenate([[spec.bos], records[span.record].ids, [spec.eos]])[
                span.start + 1 : span.stop + 1
            ]
            got = rows[index]["targets"][rows[index]["segments"] == segment + 1, 0]
            pitched = (sequence >= 3) & (sequence < 40)
            shifts.setdefault((epoch, span.record), set()).update((got - sequence)[pitched].tolist())
    assert all(len(s) <= 1 for s in shifts.values())
    assert len({tuple(s) for (_, record), s in shifts.items() if record == 2}) > 1


def test_augmentation_that_cannot_be_is_refused(records, spec):
    merged = TokenSpec("bpe", 1, 81, 0, 1, 2, spec.ranges, ((3, 4),))
    with pytest.raises(UserError, match="without --bpe"):
        Augmentation(transpose=1).check(merged)
    Augmentation().check(merged)
    with pytest.raises(UserError, match="no Tempo tokens"):
        Augmentation(tempo=1).check(TokenSpec("codes", 1, 80, 0, 1, 2, {"code": (0, 80)}))
    with pytest.raises(UserError, match="0 \\(off\\) or more"):
        Augmentation(velocity=-1).check(spec)


# --- damage


def test_a_missing_or_short_shard_is_said_in_one_line(tmp_path, write_dataset, make_pieces):
    card = write_dataset(tmp_path, make_pieces([5, 6, 7]))
    shard = tmp_path / card.splits["train"].shards[0].file
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cannot read the shards|do not fit"):
        Records(tmp_path, card, "train")
    os.remove(shard)
    with pytest.raises(UserError, match="is missing"):
        Records(tmp_path, card, "train")
