"""Pictures and sound: written, readable, repeatable, never clipped."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from symusic import Note, Score, Track

from amt_jax.errors import UserError
from amt_jax.music import render

needs_audio = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tinysoundfont", "soundfile", "pretty_midi")),
    reason="the extra `audio` is not installed",
)
PNG = b"\x89PNG\r\n\x1a\n"


def make(tracks, tpq=480):
    """A score of (program, is drum, [(start tick, ticks, pitch, velocity)]) tracks."""
    score = Score(tpq)
    for program, is_drum, notes in tracks:
        track = Track("", program, is_drum)
        track.notes.extend([Note(*note) for note in notes])
        score.tracks.append(track)
    return score


MELODY = make([(0, False, [(i * 240, 240, 60 + i, 80) for i in range(8)])])
BAND = make([(0, False, [(0, 960, 60, 90)]), (33, False, [(480, 480, 36, 90)]), (0, True, [(0, 120, 38, 100)])])


def is_silent(audio: np.ndarray) -> bool:
    """Whether nothing in `audio` is louder than -60 dB of full scale. [samples, 2]"""
    return not len(audio) or float(np.abs(audio).max()) <= 1e-3


@pytest.mark.parametrize("score", [MELODY, BAND, Score(480), make([(0, True, [(0, 1, 35, 1)])])])
def test_piano_roll_is_a_png(tmp_path, score):
    render.save_piano_roll(score, tmp_path / "roll.png", title="<odd> $title_ & all")
    data = (tmp_path / "roll.png").read_bytes()
    assert data.startswith(PNG)
    assert data == render.piano_roll_png(score, "<odd> $title_ & all")


def test_piano_roll_draws_every_note():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    render.draw_piano_roll(axes, BAND)
    assert len(axes.collections[-1].get_paths()) == 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["program 0", "program 33", "drums"]
    assert "snare" in [label.get_text() for label in axes.get_yticklabels()]
    assert axes.get_xlim()[1] == pytest.approx(1.0, abs=0.02)  # 960 ticks at 120


def test_pitch_names():
    assert [render.pitch_name(pitch) for pitch in (0, 60, 70, 127)] == ["C-1", "C4", "Bb4", "G9"]


@needs_audio
def test_audio_sounds_rings_out_and_repeats():
    audio = render.to_audio(MELODY)
    assert audio.dtype == np.float32
    assert audio.shape[1] == 2
    assert not is_silent(audio)
    assert render.SAMPLE_RATE * 2.0 < len(audio) < render.SAMPLE_RATE * 9.0  # two seconds of notes and their tail
    assert np.abs(audio[-100:]).max() < 0.01
    assert np.abs(audio).max() <= 1
    render.to_audio(make([(14, False, [(0, 480, 60, 127)])]))  # bells ring on for longer than a tail
    np.testing.assert_array_equal(audio, render.to_audio(MELODY))


@needs_audio
def test_audio_hears_the_pitch():
    audio = render.to_audio(make([(0, False, [(0, 1920, 69, 100)])]))[: render.SAMPLE_RATE].sum(axis=1)
    peak = np.abs(np.fft.rfft(audio)).argmax() * render.SAMPLE_RATE / len(audio)
    assert peak == pytest.approx(440, abs=3)


@needs_audio
def test_drums_and_programs_sound_different():
    def of(program, is_drum):
        return render.to_audio(make([(program, is_drum, [(0, 480, 38, 100)])]))[: render.SAMPLE_RATE // 2]

    piano, organ, drum = of(0, False), of(19, False), of(0, True)
    assert not np.allclose(piano, organ)
    assert not np.allclose(piano, drum)


@needs_audio
def test_loud_music_does_not_clip():
    cluster = make([(program, False, [(0, 1920, pitch, 127) for pitch in range(40, 80)]) for program in (0, 19, 56)])
    audio = render.to_audio(cluster)
    assert np.abs(audio).max() == pytest.approx(1, abs=1e-6)


@needs_audio
def test_no_notes_is_silent_and_long_scores_of_zero_length_notes_stop():
    assert is_silent(render.to_audio(Score(480)))
    assert is_silent(np.zeros((10, 2), np.float32))
    stuck = render.to_audio(make([(19, False, [(0, 0, 60, 100)])]))  # an organ would sound for ever
    assert len(stuck) < 2 * render.SAMPLE_RATE


@needs_audio
def test_more_tracks_than_midi_channels():
    score = make([(0, False, [(track * 10, 480, 40 + track, 80)]) for track in range(40)])
    assert not is_silent(render.to_audio(score))


@needs_audio
@pytest.mark.parametrize("suffix", render.AUDIO_FORMATS)
def test_audio_files(tmp_path, suffix):
    import soundfile

    render.save_audio(MELODY, tmp_path / f"a{suffix}")
    data, rate = soundfile.read(tmp_path / f"a{suffix}")
    assert rate == render.SAMPLE_RATE
    assert data.shape[1] == 2
    assert np.abs(data).max() > 0.05
    render.save_audio(Score(480), tmp_path / f"empty{suffix}")
    assert (tmp_path / f"empty{suffix}").stat().st_size > 0


def test_unknown_format_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"\.wav, \.mp3"):
        render.save_audio(MELODY, tmp_path / "a.aiff")


def test_missing_extra_is_a_user_error(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(render.importlib, "import_module", missing)
    with pytest.raises(UserError, match="amt_jax\\[audio\\]"):
        render._import("soundfile", "pip install 'amt_jax[audio]'")


def test_music_never_imports_jax():
    code = "import sys, amt_jax.music.features, amt_jax.music.render; print({'jax', 'matplotlib'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
