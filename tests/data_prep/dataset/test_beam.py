"""Preparation by Apache Beam makes the bytes that the local runner makes."""

import functools
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="needs the beam extra: make test-heavy")

from amt_jax.data.card import Card
from amt_jax.errors import UserError
from data_prep import files
from data_prep.dataset import beam, piece, shards, similarity
from data_prep.dataset.journal import Journal
from data_prep.dataset.local import Local
from data_prep.dataset.outcome import read
from data_prep.dataset.preparation import prepare
from data_prep.dataset.settings import Settings
from data_prep.dataset.staging import Staging
from tests.captioned import caption
from tests.music_files import tune, write

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
SETTINGS = Settings(valid=0.2, test=0.2, min_count=4)


def by_beam(options: str = "", workers: int = 2, timeout: float = 60.0):
    return functools.partial(beam.Beam, options=beam.parse_options(options, workers), timeout=timeout)


def content(dataset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in dataset.iterdir()}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Groups and shards of a few pieces, so that there are many of them."""
    monkeypatch.setattr(beam, "GROUP_FILES", 5)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 2000)
    # A band then compares neighbours only: their order shows.
    monkeypatch.setattr(similarity, "NEIGHBOURS", 1)


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Works, variants, copies, names that are not ASCII or not UTF-8, wrecks."""
    folder = tmp_path_factory.mktemp("music")
    for index in range(12):
        write(tune(index), folder / f"{('Bach', 'Ödön', 'Zoë')[index % 3]}/{index}.mid")
    for index in range(3):
        write(tune(20 + index), folder / f"Bach/Fugue/{index}.mid")
        for transpose, name in enumerate(("a", "é", "z")):
            write(tune(30 + index, 200, transpose=transpose), folder / f"{name}/{index} by ear.mid")
        write(tune(0, tempo=70.0 + index), folder / f"Zoë/copy {index}.mid")
        write(tune(30 + index, 200, tempo=70.0), folder / f"ß/copy {index}.mid")
        (folder / f"twin {index}.mid").write_bytes((folder / "Bach/0.mid").read_bytes())
    write(tune(40), Path(os.fsdecode(os.fsencode(folder) + b"/\xff.mid")))
    damage = random.Random(0)
    for index in range(12):
        data = bytearray((folder / "Bach/0.mid").read_bytes())
        for _ in range(1 + 8 * index):
            data[damage.randrange(len(data))] = damage.randrange(256)
        (folder / f"wreck {index}.mid").write_bytes(data[: damage.randrange(20, 2000)])
    (folder / "Bach/nothing.mid").touch()
    os.mkfifo(folder / "Bach/pipe.mid")
    return folder


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--direct_num_workers=1 --direct_running_mode=in_memory",
        "--direct_num_workers=3",
    ],
)
def test_beam_makes_the_bytes_of_the_local_runner(music, tmp_path, options):
    expected = prepare(str(music), tmp_path / "local", SETTINGS, licence="CC0")
    found = prepare(str(music), tmp_path / "beam", SETTINGS, licence="CC0", make_runner=by_beam(options))
    assert content(tmp_path / "beam") == content(tmp_path / "local")
    assert (found.outcomes, found.card, found.added) == (expected.outcomes, expected.card, expected.added)
    assert len(found.card.splits["train"].shards) > 2
    assert {"duplicate", "unreadable", "not a MIDI file"} <= found.card.skipped.keys()
    assert not prepare(str(music), tmp_path / "beam", SETTINGS, make_runner=by_beam(options)).changed
    assert content(tmp_path / "beam") == content(tmp_path / "local")


def test_beam_makes_the_same_of_descriptions(music, tmp_path):
    """Also of those that are in the dataset and of those that come later."""
    told = {
        f"{name}/{index}.mid": {
            "text": [caption(f"tune {index}, ♭ by {name}", human=index % 2 == 0)],
            "genre": [("folk", "jazz")[index % 2]],
            "instruments": ["flute", "piano"],
            "tempo": 60.0 + index,
        }
        for index in range(12)
        for name in ("Bach", "Ödön", "Zoë")
    }
    runners = {"local": Local, "beam": by_beam()}
    settings = Settings(tokenizer="remi_multitrack", valid=0.2, test=0.2, min_count=4)
    (tmp_path / "in").mkdir()
    for round_, names in enumerate((("Bach", "z"), ("Ödön", "Zoë"))):
        for name in names:
            (tmp_path / "in" / name).symlink_to(music / name)
        for runner, make_runner in runners.items():
            prepare(str(tmp_path / "in"), tmp_path / runner, settings, descriptions=told, make_runner=make_runner)
        assert content(tmp_path / "beam") == content(tmp_path / "local"), round_
    card = Card.load(tmp_path / "beam")
    assert card.conditions["genre"].values == ("folk", "jazz")
    assert len(card.conditions["tempo"].knots) > 2
    kept = [row for row in read(tmp_path / "beam") if row.kept and row.source in told]
    assert len(kept) > 8
    assert all(dict(row.conditions) == told[row.source] for row in kept)


def survey(folder: Path, dataset: Path, old, make_runner):
    """What a runner reports, in a form that can be compared."""
    staging = Staging(dataset)
    journal = Journal(staging.folder / "journal.sqlite", "")
    staging.recover()
    found = make_runner(staging, journal, "remi").survey(str(folder), files.find(str(folder)).paths, old)
    links = {frozenset(link) for link in found.links}
    journal.close()
    return [(each.name, each.sha256, each.reason) for each in found.sources], found.findings, links


@pytest.mark.parametrize("old", [[], ["Bach", "z", "é"]])
def test_both_runners_report_the_same(music, tmp_path, old):
    dataset, outcomes = tmp_path / "ds", []
    for name in old:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).symlink_to(music / name)
    if old:
        outcomes = list(prepare(str(tmp_path / "in"), dataset, SETTINGS).outcomes)
    expected = survey(music, dataset, outcomes, Local)
    assert len(expected[2]) >= 6
    assert survey(music, dataset, outcomes, by_beam()) == expected


def test_what_one_runner_began_the_other_adds_to(music, tmp_path):
    bpe = Settings(valid=0.2, test=0.2, min_count=4, bpe=450)
    runners = {"local": Local, "beam": by_beam()}
    for first, then in [("local", "local"), ("local", "beam"), ("beam", "local"), ("beam", "beam")]:
        folder, dataset = tmp_path / f"in {first} {then}", tmp_path / f"{first} {then}"
        folder.mkdir()
        for name in ("Bach", "Ödön", "z"):
            (folder / name).symlink_to(music / name)
        prepare(str(folder), dataset, bpe, make_runner=runners[first])
        (folder / "a").symlink_to(music / "a")
        (folder / "more").symlink_to(music)
        assert prepare(str(folder), dataset, bpe, make_runner=runners[then]).added > 5
        Card.load(dataset).verify(dataset)
    assert content(tmp_path / "local beam") == content(tmp_path / "local local")
    assert content(tmp_path / "beam local") == content(tmp_path / "local local")
    assert content(tmp_path / "beam beam") == content(tmp_path / "local local")


def hostile(path, preset):
    if path.endswith("Bach/3.mid"):
        time.sleep(60)
    if path.endswith("Bach/6.mid"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return from_file(path, preset)


from_file = piece.from_file


def test_a_hang_or_a_crash_costs_one_file_only(music, tmp_path, monkeypatch):
    monkeypatch.setattr(piece, "from_file", hostile)
    dataset = tmp_path / "ds"
    card = prepare(str(music), dataset, SETTINGS, make_runner=by_beam(timeout=3.0)).card
    assert card.skipped["timed out"] == card.skipped["crashed"] == 1
    rows = {row.source: row for row in read(dataset)}
    assert (rows["Bach/3.mid"].reason, rows["Bach/6.mid"].reason) == ("timed out", "crashed")
    monkeypatch.undo()
    assert prepare(str(music), dataset, SETTINGS, make_runner=by_beam()).added == 2
    assert card.skipped.items() > Card.load(dataset).skipped.items()


def broken(*_):
    raise OSError(28, "No space left on device")


def test_a_failure_leaves_the_dataset_as_it_was(music, tmp_path, monkeypatch, capsys):
    for index in range(4):
        write(tune(index), tmp_path / f"in/{index}.mid")
    dataset = tmp_path / "ds"
    prepare(str(tmp_path / "in"), dataset, SETTINGS)
    before = content(dataset)
    (tmp_path / "in/more").symlink_to(music)
    for module, name in [(beam, "_prepare"), (beam, "_similar"), (shards, "write")]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            with pytest.raises(UserError, match=r"Beam failed.*No space left") as error:
                prepare(str(tmp_path / "in"), dataset, SETTINGS, make_runner=by_beam())
        assert "\n" not in str(error.value)
        assert "Traceback" not in capsys.readouterr().err
        assert "Traceback" in (dataset / ".prepare/beam.log").read_text()
        after = {path.name: path.read_bytes() for path in dataset.iterdir() if path.is_file()}
        assert after == before
    prepare(str(tmp_path / "in"), dataset, SETTINGS, make_runner=by_beam())
    assert not (dataset / ".prepare").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--direct_num_workers=many", "invalid int value: 'many'"),
        ("--direct_number=2", "no flag --direct_number"),
        ("--runner=FlunkRunner", "FlinkRunner"),
        ("--runner=DataflowRunner", "Missing required option: project"),
        ("--runner='", "No closing quotation"),
    ],
)
def test_flags_that_beam_does_not_take(options, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        beam.parse_options(options, 1)
    assert "\n" not in str(error.value)


def start(*flags):
    command = [sys.executable, "-m", "data_prep.midi", "--runner=beam", "--workers=2", *map(str, flags)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_the_command_says_what_the_local_one_says(music, tmp_path):
    process = start(f"--input={music}", f"--output={tmp_path / 'ds'}", "--valid=0.2", "--test=0.2")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    lines = [line for line in re.split(r"[\r\n]", errors) if line.strip() and "%|" not in line]
    assert lines == []
    flags = [f"--input={music}", f"--output={tmp_path / 'local'}", "--valid=0.2", "--test=0.2"]
    local = subprocess.run([sys.executable, "-m", "data_prep.midi", *flags], cwd=ROOT, capture_output=True, text=True)
    assert out == local.stdout.replace(str(tmp_path / "local"), str(tmp_path / "ds"))
    assert content(tmp_path / "ds") == content(tmp_path / "local")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Enough that there is a middle to be stopped in."""
    folder, long = tmp_path_factory.mktemp("many"), tune(99, 2500)
    for index in range(600):
        long.tracks[0].notes[index].duration += 120
        write(long, folder / f"{index}.mid")
    return folder


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_starts_anew(music, many, tmp_path, sent):
    dataset = tmp_path / "ds"
    with start(f"--input={many}", f"--output={dataset}") as process:
        said = ""
        while "| 0/600" not in said:
            assert process.poll() is None, said
            said += process.stderr.read(1)
        time.sleep(1)
        # As a terminal does it: Ctrl-C goes to the workers too.
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[sent]
    assert "Traceback" not in errors
    if sent == signal.SIGINT:
        assert "interrupted: the dataset is as it was" in errors
    assert not (dataset / "dataset.json").exists()
    with start(f"--input={music}", f"--output={dataset}") as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert not (dataset / ".prepare").exists()
