import os
import unicodedata

import pytest

from amt_jax.errors import MidiError, UserError
from data_prep import files


def test_finds_midi_files_only_whatever_their_names(tmp_path):
    names = ["b.mid", "A.MIDI", "deep/er/ü name.Mid", "x.txt", "cover.JPG"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "deep/up").symlink_to(tmp_path)
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mid")
    try:
        open(odd, "w").close()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = files.find(str(tmp_path))
    relative = sorted(files.printable(os.path.relpath(path, tmp_path)) for path in found.paths)
    assert relative == ["A.MIDI", "b.mid", "caf\\xe9.mid", unicodedata.normalize("NFC", "deep/er/ü name.Mid")]
    assert found.others == {".txt": 1, ".jpg": 1}
    sources = [files.identify(path, str(tmp_path)) for path in found.paths]
    assert all(source.sha256 for source in sources)
    for source in sources:
        source.name.encode()


def test_composed_and_decomposed_names_are_one(tmp_path):
    assert files.printable("Dvor\u030ca\u0301k/x.mid") == files.printable("Dvo\u0159\u00e1k/x.mid")


def test_says_what_a_folder_holds_instead(tmp_path):
    with pytest.raises(UserError, match="holds no files"):
        files.find(str(tmp_path))
    for index in range(3):
        (tmp_path / f"{index}.jpeg").touch()
    with pytest.raises(UserError, match=r"3 \.jpeg"):
        files.find(str(tmp_path))
    with pytest.raises(UserError, match="no folder"):
        files.find(str(tmp_path / "nowhere"))


def test_a_pipe_or_a_dead_link_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mid")
    (tmp_path / "dead.mid").symlink_to(tmp_path / "nowhere.mid")
    for name in ("pipe.mid", "dead.mid"):
        with pytest.raises(MidiError, match="unreadable"):
            files.read(str(tmp_path / name))
        assert files.identify(str(tmp_path / name), str(tmp_path)).reason == "unreadable"
