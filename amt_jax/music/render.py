"""A score as a picture (piano-roll) and as sound."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from symusic import Score

from amt_jax.errors import UserError
from amt_jax.music.features import PITCH_CLASSES, Notes, bars, seconds_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLE_RATE = 44_100
AUDIO_FORMATS = (".wav", ".mp3", ".flac", ".ogg")
_GAIN_DB = 9.0  # the font is soft: a piano piece peaks near 0.25 without it
_FONT = "TimGM6mb.sf2"  # a General MIDI font that pretty_midi's wheel carries (GPL-2: used where it lies, never copied)
_TAIL_SECONDS = 6.0  # at most, for the last notes to ring out
TITLE = 120  # characters
_SILENCE = 1e-3  # -60 dB of full scale
_BLACK_KEYS = (1, 3, 6, 8, 10)
_TRACK_COLOURS = ("#3b6fb6", "#d1693c", "#4f9d69", "#a4508b", "#c9a227", "#4aa3a2", "#8a6d5a", "#7a7f87")


def save_piano_roll(score: Score, path: str | os.PathLike, title: str = "") -> None:
    """Writes a piano-roll PNG: seconds and bars across, pitches up, colour by velocity or (several tracks) by track."""
    Path(path).write_bytes(piano_roll_png(score, title))


def piano_roll_png(score: Score, title: str = "", *, width: float = 13.0, height: float = 5.2, dpi: int = 110) -> bytes:
    """The piano-roll of a score as a PNG file, `width` by `height` inches."""
    # Not pyplot: it keeps global state and every figure alive, and picks a screen if there is one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    draw_piano_roll(figure.add_subplot(), score, title)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # What the font lacks, emoji in a title, stands there as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def draw_piano_roll(axes: Axes, score: Score, title: str = "") -> None:
    """Draws the piano-roll of a score into `axes`; drums stand in rows of their own name below the pitches."""
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.patches import Patch, Rectangle

    notes = Notes.of(score)
    # A person may have written it: too long for a line, with dollar signs that are no formula.
    title = title if len(title) <= TITLE else f"{title[:TITLE]} ..."
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=16, parse_math=False)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    if not len(notes):
        axes.text(0.5, 0.5, "no notes", ha="center", va="center", color="#777777", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return

    drums = np.unique(notes.pitch[notes.drum])
    melodic = notes.pitch[~notes.drum]
    low, high = (int(melodic.min()), int(melodic.max())) if len(melodic) else (60, 60)
    spare = max(0, 18 - (high - low))  # a narrow melody must not fill the height with thick bars
    low, high = max(0, low - 1 - spare // 2), min(127, high + 1 + spare // 2)
    drum_row = {pitch: low - 2 - 1.3 * index for index, pitch in enumerate(drums[::-1].tolist())}
    row = np.array([drum_row[p] if d else p for p, d in zip(notes.pitch.tolist(), notes.drum.tolist(), strict=True)])
    bottom = (min(drum_row.values()) if drum_row else low) - 0.6
    end = float(notes.offset.max())

    for pitch in range(low, high + 1):
        if pitch % 12 in _BLACK_KEYS:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color="#f3f4f6", linewidth=0, zorder=0)
        if pitch % 12 == 0:
            axes.axhline(pitch - 0.5, color="#c9ced6", linewidth=0.8, zorder=1)
    lines = seconds_at(score, bars(score))
    lines = lines[lines <= end + 1e-6]
    axes.vlines(lines, bottom, high + 0.6, color="#d5d9e0", linewidth=0.7, zorder=1)

    length = np.maximum(notes.offset - notes.onset, end / 600)  # a very short note still shows
    boxes = [
        Rectangle((x, y - 0.46), w, 0.92)
        for x, y, w in zip(notes.onset.tolist(), row.tolist(), length.tolist(), strict=True)
    ]
    used = np.unique(notes.track)
    if len(used) > 1:
        colour_of = {int(track): _TRACK_COLOURS[i % len(_TRACK_COLOURS)] for i, track in enumerate(used)}
        colours = [colour_of[track] for track in notes.track.tolist()]
        axes.add_collection(
            PatchCollection(boxes, facecolor=colours, edgecolor="white", linewidth=0.3, alpha=0.92, zorder=3)
        )
        legend = [Patch(color=colour_of[int(track)], label=_track_name(score, int(track))) for track in used[:10]]
        axes.legend(
            handles=legend, loc="lower right", bbox_to_anchor=(1, 1.03), ncols=min(5, len(legend)),
            frameon=False, fontsize=8, handlelength=1, columnspacing=1.2, borderaxespad=0.2,
        )  # fmt: skip
    else:
        shades = LinearSegmentedColormap.from_list("velocity", ["#a8cdec", "#3f7fc1", "#4b3a8f", "#8e1f5f"])
        collection = PatchCollection(
            boxes, cmap=shades, norm=Normalize(20, 110), edgecolor="white", linewidth=0.3, zorder=3
        )
        collection.set_array(notes.velocity)
        axes.add_collection(collection)
        bar = axes.figure.colorbar(collection, ax=axes, pad=0.008, aspect=36, extend="both")
        bar.outline.set_visible(False)
        bar.set_label("velocity (soft to loud)", fontsize=8)
        bar.ax.tick_params(labelsize=7, length=2)

    named = (0, 4, 7) if high - low <= 40 else (0, 7) if high - low <= 60 else (0,)
    ticks = [pitch for pitch in range(low, high + 1) if pitch % 12 in named]
    drum_ticks = [(y, _DRUM_NAMES.get(pitch, str(pitch))) for pitch, y in drum_row.items()]
    names = [pitch_name(pitch) for pitch in ticks] + [name for _, name in drum_ticks]
    axes.set_yticks(ticks + [y for y, _ in drum_ticks], names)
    axes.tick_params(labelsize=8, length=0, colors="#444444")
    for label in axes.get_yticklabels()[len(ticks) :]:
        label.set_fontsize(6.5)
    axes.set_xlim(-0.004 * end, end * 1.004)
    axes.set_ylim(bottom, high + 0.6)
    axes.set_xlabel("seconds", fontsize=8, color="#444444", loc="right", labelpad=1)
    step = 1 << max(0, (len(lines) - 1) // 24).bit_length()  # at most 24 bars get their number
    for index in range(0, len(lines), step):
        label = f"{index + 1}" if index else "bar 1"
        spot = (lines[index], high + 0.6)
        axes.annotate(label, spot, (1, 2), textcoords="offset points", fontsize=6.5, color="#8a919b")


def pitch_name(pitch: int) -> str:
    """The name of a MIDI pitch, 60 being C4."""
    return f"{PITCH_CLASSES[pitch % 12]}{pitch // 12 - 1}"


def to_audio(score: Score) -> np.ndarray:
    """Renders a score with a General MIDI font. Returns [samples, 2] float32 at SAMPLE_RATE, |x| <= 1.

    Notes, programs and drums are heard; pedals, bends and other controllers are not. The last notes ring out.
    Raises UserError if the extra `audio` is not installed.
    """
    synth, font = _synth()
    notes = Notes.of(score)
    for channel, track in enumerate(score.tracks):
        # One channel a track, past 15 too: the synthesizer has as many as it is asked for.
        synth.program_select(channel, font, 0, track.program, track.is_drum)
    start = np.round(notes.onset * SAMPLE_RATE).astype(np.int64)
    stop = np.maximum(np.round(notes.offset * SAMPLE_RATE).astype(np.int64), start + SAMPLE_RATE // 50)
    # (sample, 0 = off before 1 = on, channel, pitch, velocity)
    offs = np.stack([stop, np.zeros_like(stop), notes.track, notes.pitch, notes.velocity], axis=1)
    ons = np.stack([start, np.ones_like(start), notes.track, notes.pitch, notes.velocity], axis=1)
    events = np.concatenate([offs, ons])
    events = events[np.lexsort((events[:, 1], events[:, 0]))]
    length = int(stop.max()) if len(notes) else 0
    audio = np.zeros((length + int(_TAIL_SECONDS * SAMPLE_RATE), 2), np.float32)
    view = memoryview(audio).cast("B")
    frame = 8  # bytes: two channels of float32
    now = 0
    for sample, is_on, channel, pitch, velocity in events.tolist():
        if sample > now:
            synth.generate_simple(sample - now, view[now * frame : sample * frame])
            now = sample
        if is_on:
            synth.noteon(channel, pitch, velocity)
        else:
            synth.noteoff(channel, pitch)
    if len(notes):
        synth.generate_simple(len(audio) - now, view[now * frame :])
    for channel in range(len(score.tracks)):
        synth.sounds_off(channel)
    synth.generate_simple(SAMPLE_RATE // 10)  # what was cut off fades here, not into the next score
    loud = np.flatnonzero(np.abs(audio).max(axis=1) > _SILENCE)
    audio = audio[: max(length, int(loud[-1]) + 1 if len(loud) else 0)]
    fade = min(len(audio), SAMPLE_RATE // 20)
    audio[len(audio) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)[:, None]
    peak = float(np.abs(audio).max()) if len(audio) else 0.0
    return audio / np.float32(peak) if peak > 1 else audio


def save_audio(score: Score, path: str | os.PathLike) -> None:
    """Renders a score to a .wav, .mp3, .flac or .ogg file; raises UserError for another suffix."""
    path = Path(path)
    if path.suffix.lower() not in AUDIO_FORMATS:
        raise UserError(f"cannot write audio as {path.suffix or path.name!r}; use one of {', '.join(AUDIO_FORMATS)}")
    soundfile = _import("soundfile", "pip install 'amt_jax[audio]'")
    audio = to_audio(score)
    # A millisecond of silence rather than an empty file, which not every player opens.
    audio = audio if len(audio) else np.zeros((SAMPLE_RATE // 1000, 2), np.float32)
    try:
        soundfile.write(path, audio, SAMPLE_RATE)
    except soundfile.LibsndfileError as error:
        raise UserError(f"cannot write {path}: {error}") from None


@functools.cache
def _synth():
    """The synthesizer and its font's id, loaded once a process."""
    synth = _import("tinysoundfont", "pip install --no-deps tinysoundfont").Synth(samplerate=SAMPLE_RATE)
    # find_spec, for importing pretty_midi takes a second and drags in what is not needed here.
    package = importlib.util.find_spec("pretty_midi")
    font = Path(package.origin).parent / _FONT if package and package.origin else None
    if font is None or not font.exists():
        raise UserError("audio needs pretty_midi's sound font: pip install 'amt_jax[audio]'")
    return synth, synth.sfload(str(font), gain=_GAIN_DB)


def _import(name: str, remedy: str):
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: soundfile without its shared library
        raise UserError(f"audio needs {name}: {remedy}") from None


def _track_name(score: Score, index: int) -> str:
    track = score.tracks[index]
    return track.name.strip() or ("drums" if track.is_drum else f"program {track.program}")


# General MIDI percussion key map (MIDI 1.0, General MIDI level 1), the ones that occur most.
_DRUM_NAMES = {
    35: "kick 2", 36: "kick", 37: "side stick", 38: "snare", 39: "clap", 40: "snare 2", 41: "low tom 2",
    42: "closed hat", 43: "low tom", 44: "pedal hat", 45: "mid tom 2", 46: "open hat", 47: "mid tom",
    48: "high tom 2", 49: "crash", 50: "high tom", 51: "ride", 53: "ride bell", 54: "tambourine", 56: "cowbell",
    57: "crash 2", 69: "cabasa", 70: "maracas",
}  # fmt: skip
