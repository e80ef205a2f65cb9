import subprocess
import sys
from pathlib import Path

import pytest

from amt_jax.music import midi
from data_prep import corpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    pytest.importorskip("music21")
    folder = tmp_path_factory.mktemp("corpus")
    for part in corpus.PARTS:
        (folder / part.composer).mkdir()
    return corpus._tasks(folder)


def test_the_slice_has_pieces_enough(tasks):
    names = [Path(output).parent.name for _, output in tasks]
    assert len(set(output for _, output in tasks)) == len(tasks) >= 200
    assert len(set(names)) >= 4
    assert all(names.count(name) >= 20 for name in names)
    assert not any("-sc." in score for score, _ in tasks)


def test_scores_become_clean_midi_and_always_the_same(tasks):
    pytest.importorskip("music21")
    by_composer = {Path(output).parent.name: (score, output) for score, output in tasks}
    for composer in ("Bach", "Fiddle_Tunes"):
        score, output = by_composer[composer]
        assert corpus.convert(score, output) == ""
        first = Path(output).read_bytes()
        music = midi.load(output)
        assert music.ticks_per_quarter == corpus.RESOLUTION
        assert all(len(track.notes) for track in music.tracks)
        times = [signature.time for signature in music.time_signatures]
        assert times == sorted(set(times))
        assert corpus.convert(score, output) == ""
        assert Path(output).read_bytes() == first


def test_says_how_to_install_music21(tmp_path):
    hide = "import sys; sys.modules['music21'] = None; sys.argv = ['corpus', '--output', sys.argv[1]]; "
    code = hide + "from data_prep import corpus; from amt_jax.errors import run_command; run_command(corpus.main)"
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "amt_jax[demo]" in result.stderr
    assert len(result.stderr.splitlines()) == 1
