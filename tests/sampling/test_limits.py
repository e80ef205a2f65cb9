"""Instruments, polyphony and bars asked for are met, whatever the model would like to play."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from symusic import Note, Score, Track

from amt_jax.model.params import init_params
from amt_jax.sampling.request import Request
from amt_jax.sampling.sampler import Sampler
from amt_jax.sampling.settings import GenerationSettings
from amt_jax.tokens.grammar import DRUMS, Grammar
from amt_jax.tokens.symbolic import PRESETS, SymbolicTokenizer

ASKED = (  # bars, polyphony, programs
    (2, 0, None), (1, 1, None), (5, 3, None), (3, 2, (40, DRUMS)), (4, 0, (0, 5)), (2, 2, (DRUMS,)),
    (0, 1, (33,)), (0, 4, None), (0, 16, (0,)),
)  # fmt: skip


def chords(seed: int) -> Score:
    """Long chords of two instruments, much alike from bar to bar."""
    random, score = np.random.default_rng(seed), Score(8)
    for program in (40, 0):
        times = 8 * np.flatnonzero(random.random(60) < 0.6)
        notes = [Note(int(time), 32, 60 + pitch, 80) for time in times for pitch in (0, 4, 7)]
        score.tracks.append(Track(program=program, notes=notes))
    return score


@pytest.fixture(scope="module", params=["remi", "remi_multitrack", "tsd", "amt_events", "remi_multitrack bpe"])
def player(request, setup):
    """A tokenizer and a sampler of an untrained model, which plays anything: long notes, without long pauses."""
    preset, *bpe = request.param.split()
    tokenizer = SymbolicTokenizer.create(preset)
    if bpe:
        tokenizer.train_bpe([tokenizer.encode(chords(seed)) for seed in range(20)], 560)
        first, stop = tokenizer.spec.ranges["Program"]
        assert max(sum(first <= i < stop for i in ids) for ids in tokenizer.spec.merges) > 2  # merges of many notes
    config = dataclasses.replace(
        setup.config, vocab_size=tokenizer.spec.vocab_size, conditions=(), clock="tokens", history=()
    )
    params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
    grammar = Grammar.create(tokenizer.spec, tokenizer.names)
    beat = PRESETS[preset].steps[0, 4]
    brief = (grammar.length > 1) & (grammar.length < 4 * beat)
    sparse = brief | (grammar.rest > 0) | (grammar.shift > beat // 2)
    grammar = dataclasses.replace(grammar, next_state=np.where(sparse, -1, grammar.next_state))
    return tokenizer, Sampler(config, params, tokenizer.spec, grammar, max_batch=4)


def notes_of(score):
    """(onset, end, program) of all notes, 128 for drums."""
    return [
        (note.start, note.end, DRUMS if track.is_drum else track.program)
        for track in score.tracks
        for note in track.notes
    ]


def bars_of(score):
    """How many bars the notes of a score reach into."""
    signatures, bars, tick = list(score.time_signatures), 0, 0
    end = max(end for _, end, _ in notes_of(score))
    while tick < end:
        meter = [each for each in signatures if each.time <= tick][-1:] or signatures[:1]
        beats, unit = (meter[0].numerator, meter[0].denominator) if meter else (4, 4)
        tick, bars = tick + beats * 4 * score.ticks_per_quarter // unit, bars + 1
    return bars


def sounding(notes, tick):
    return sum(start <= tick < end for start, end, program in notes if program != DRUMS)


def settings(seed, bars=0, polyphony=0, **fields):
    wanted = {"seconds": 36000 if bars else 6, "max_tokens": 2000, "top_k": 0, "temperature": 1.0, "top_p": 1.0}
    return GenerationSettings(seed=seed, bars=bars, polyphony=polyphony, **(wanted | fields))


def test_limits_are_met(player):
    tokenizer, sampler = player
    multitrack = PRESETS[tokenizer.name].programs
    asked = [each for each in ASKED if multitrack or each[2] is None or 0 in each[2]]
    requests = [Request(settings(i, *each[:2]), programs=each[2]) for i, each in enumerate(asked)]
    crowd = 0
    for (bars, polyphony, programs), result in zip(asked, sampler.generate(requests), strict=True):
        assert len(result.ids) < 2000
        score = tokenizer.decode(result.ids)
        notes = notes_of(score)
        if programs and multitrack:
            assert {program for _, _, program in notes} <= set(programs)
        most = max(sounding(notes, start) for start, _, _ in notes)
        if polyphony:
            assert most <= polyphony
        crowd = max(crowd, most)
        state = sampler.grammar.start()
        for token in result.ids:
            state = sampler.grammar.advance(state, token)
        assert sampler.grammar.allowed(state)[sampler.grammar.eos]  # no note is left unfinished
        if bars:
            assert bars_of(score) == bars
            assert state.bar < bars
        else:
            assert score.to("second").end() >= 5
    assert crowd > 4  # where nobody forbids it


def test_only_what_is_new_obeys(player):
    """A prompt of a crowded violin is kept; the piano joins when there is room, for so many bars more."""
    tokenizer, sampler = player
    multitrack = PRESETS[tokenizer.name].programs
    notes = [Note(2 * i, 32, 50 + 3 * i, 80) for i in range(8)]
    prompt_score = Score(8)
    prompt_score.tracks.append(Track(program=40, notes=notes))
    prompt = tokenizer.encode(prompt_score)
    for polyphony in (1, 3):
        requests = [
            Request(settings(seed, 2, polyphony), prompt=prompt, programs=(0,) if multitrack else None)
            for seed in range(3)
        ]
        for result in sampler.generate(requests):
            ids = np.concatenate([prompt, result.ids])
            score = tokenizer.decode(ids)
            old, every = notes_of(tokenizer.decode(prompt)), notes_of(score)
            new = list(every)
            for each in old:
                new.remove(each)
            assert new
            assert not multitrack or {program for _, _, program in new} == {0}
            assert all(sounding(every, start) <= polyphony for start, _, _ in new)
            assert bars_of(score) == 3  # the one that the prompt has begun, and two


def test_a_limit_is_a_row_s_own(setup):
    free, limited = settings(1), settings(1, polyphony=1)
    others = [Request(settings(7, 2, 1)), Request(settings(8, 3))]
    one, two, alone = (
        [result.ids for result in setup.sampler.generate([Request(free), Request(limited), *others])],
        [result.ids for result in setup.sampler.generate([*others[::-1], Request(limited), Request(free)])],
        [result.ids for result in setup.sampler.generate([Request(free)] * 4)],
    )
    np.testing.assert_array_equal(one[0], two[3])
    np.testing.assert_array_equal(one[1], two[2])
    np.testing.assert_array_equal(one[0], alone[0])
    assert not np.array_equal(one[0], one[1])
