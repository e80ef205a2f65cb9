"""Preparation in one process: the pool is replaced by a loop; test_midi.py runs the real one."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from amt_jax.data.card import Card, content_hash
from amt_jax.data.record import Record
from amt_jax.errors import UserError
from data_prep import pool
from data_prep.dataset import shards
from data_prep.dataset.journal import Journal
from data_prep.dataset.metadata import Metadata
from data_prep.dataset.outcome import read
from data_prep.dataset.piece import VERSION
from data_prep.dataset.preparation import prepare
from data_prep.dataset.settings import Settings
from tests.music_files import tune, write

SETTINGS = Settings(valid=0.2, test=0.2, min_count=4)


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    """Runs tasks here; `loop.done` are the paths it was given, after `loop.stop` of them comes Ctrl-C."""

    class Loop:
        def __init__(self):
            self.done, self.stop, self.hangs = [], -1, "nothing"

        def __call__(self, function, tasks, *_):
            self.done = []
            for task in tasks:
                if len(self.done) == self.stop:
                    raise KeyboardInterrupt
                self.done.append(task[0])
                yield task, pool.Failure(pool.TIMED_OUT, "") if task[0].endswith(self.hangs) else function(*task)

    loop = Loop()
    monkeypatch.setattr(pool, "run_all", loop)
    return loop


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """6 by Bach, two of them one work; 5 by Ödön; 2 by Cage; 2 without a composer; one copy, one picture, one wreck."""
    folder = tmp_path_factory.mktemp("music")
    for index in range(4):
        write(tune(index), folder / f"Bach/{index}.mid")
    write(tune(10), folder / "Bach/Fugue/a.mid")
    write(tune(11), folder / "Bach/Fugue/b.MIDI")
    for index in range(5):
        write(tune(20 + index), folder / f"Ödön/{index} é.mid")
    for index in range(2):
        write(tune(30 + index), folder / f"Cage/{index}.mid")
        write(tune(40 + index), folder / f"{index}.mid")
    write(tune(0, tempo=77.0), folder / "Ödön/copy.mid")
    (folder / "Cage/cover.jpg").touch()
    (folder / "Cage/wreck.mid").write_bytes(b"MThd but no more")
    return folder


def content(dataset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in dataset.iterdir()}


def records(dataset: Path, split: str) -> list[Record]:
    card = Card.load(dataset)
    return [Record.from_bytes(data) for data in shards.read(dataset, card.splits[split].shards)]


def rows(dataset: Path):
    return {row.source: row for row in read(dataset)}


def test_a_dataset_of_a_folder(music, tmp_path):
    report = prepare(str(music), tmp_path / "ds", SETTINGS, licence="CC0")
    card = Card.load(tmp_path / "ds")
    assert report.card == card
    assert report.changed
    assert report.added == 15
    card.verify(tmp_path / "ds")
    composers = card.conditions["composer"]
    assert composers.values == ("Bach", "Ödön", "OTHER")
    assert composers.counts == (6, 5, 2)
    assert card.spec.vocab_size == 419
    assert card.skipped == {"duplicate": 1, "not a MIDI file": 1}
    table = json.loads((tmp_path / "ds/composer_mapping.json").read_text())
    assert table["composers"]["OTHER"] == {"id": 3, "pieces": 2}
    assert table["unconditional"] == {"id": 0, "pieces": 2}
    assert table["pooled"] == {"Cage": 2}
    everything, by_source = [], rows(tmp_path / "ds")
    for split in ("train", "valid", "test"):
        found = records(tmp_path / "ds", split)
        assert found
        assert card.lengths(tmp_path / "ds", split).tolist() == [len(record.ids) for record in found]
        assert card.splits[split].content == content_hash(record.to_bytes() for record in reversed(found))
        for record in found:
            row = by_source[record.source]
            assert (row.split, row.family, row.piece, row.tokens) == (
                split,
                record.family,
                record.piece,
                len(record.ids),
            )
            assert record.conditions == ({"composer": row.composer} if row.composer else {})
            assert record.licence == "CC0"
        everything += found
    assert len(everything) == 15
    assert by_source["Bach/Fugue/a.mid"].family == by_source["Bach/Fugue/b.MIDI"].family == "Bach/Fugue"
    copy = by_source["Ödön/copy.mid"]
    assert (copy.outcome, copy.original) == ("duplicate", "Bach/0.mid")
    assert not (tmp_path / "ds/.prepare").exists()
    assert str(music) not in (tmp_path / "ds/dataset.json").read_text()


def test_nothing_changed(music, tmp_path, loop):
    prepare(str(music), tmp_path / "ds", SETTINGS)
    before = content(tmp_path / "ds")
    moved = tmp_path / "moved"
    shutil.copytree(music, moved)
    loop.done = None
    report = prepare(str(moved), tmp_path / "ds", SETTINGS)
    assert not report.changed
    assert loop.done is None
    assert content(tmp_path / "ds") == before


def test_interrupted_work_is_continued_and_makes_the_same_bytes(music, tmp_path, loop):
    prepare(str(music), tmp_path / "straight", SETTINGS)
    all_files = set(loop.done)
    loop.stop = 7
    with pytest.raises(pool.Interrupted) as interrupted:
        prepare(str(music), tmp_path / "ds", SETTINGS)
    assert (interrupted.value.done, interrupted.value.total) == (7, 17)
    first = set(loop.done)
    assert not (tmp_path / "ds/dataset.json").exists()
    loop.stop = -1
    prepare(str(music), tmp_path / "ds", SETTINGS)
    assert set(loop.done) == all_files - first
    assert content(tmp_path / "ds") == content(tmp_path / "straight")


@pytest.mark.parametrize("append", [False, True])
def test_killed_at_any_file_of_the_commit(music, tmp_path, monkeypatch, append):
    def start(dataset):
        if append:
            few = tmp_path / "few"
            shutil.copytree(music / "Bach", few / "Bach", dirs_exist_ok=True)
            prepare(str(few), dataset, SETTINGS)

    start(tmp_path / "straight")
    prepare(str(music), tmp_path / "straight", SETTINGS)
    real, step = os.replace, 0
    while True:
        step += 1
        dataset = tmp_path / f"killed {step}"
        start(dataset)
        calls = []

        def replace(source, target, limit=step, calls=calls):
            calls.append(source)
            if len(calls) == limit:
                raise SystemExit  # Unlike a kill this runs `finally`; what it leaves of the staging is the same.
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            prepare(str(music), dataset, SETTINGS)
            break
        except SystemExit:
            pass
        finally:
            monkeypatch.setattr(os, "replace", real)
        if (dataset / "dataset.json").exists():
            Card.load(dataset).verify(dataset)
        prepare(str(music), dataset, SETTINGS)
        assert content(dataset) == content(tmp_path / "straight"), step
    assert step > 8


def test_a_file_that_timed_out_is_tried_again(music, tmp_path, loop):
    loop.hangs = "Cage/0.mid"
    card = prepare(str(music), tmp_path / "ds", SETTINGS).card
    assert card.skipped == {"duplicate": 1, "not a MIDI file": 1, "timed out": 1}
    assert not prepare(str(music), tmp_path / "ds", SETTINGS).changed
    assert len(loop.done) == 1
    loop.hangs = "nothing"
    report = prepare(str(music), tmp_path / "ds", SETTINGS)
    assert report.added == 1
    assert report.card.skipped == {"duplicate": 1, "not a MIDI file": 1}
    assert rows(tmp_path / "ds")["Cage/0.mid"].kept


def test_a_file_that_could_not_be_read_is_tried_again(music, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(music, folder)
    os.mkfifo(folder / "Cage/pipe.mid")
    assert prepare(str(folder), tmp_path / "ds", SETTINGS).card.skipped["unreadable"] == 1
    assert not prepare(str(folder), tmp_path / "ds", SETTINGS).changed
    os.remove(folder / "Cage/pipe.mid")
    write(tune(33), folder / "Cage/pipe.mid")
    assert prepare(str(folder), tmp_path / "ds", SETTINGS).added == 1


def test_new_files_keep_every_split_and_id(music, tmp_path):
    folder, dataset = tmp_path / "in", tmp_path / "ds"
    shutil.copytree(music, folder)
    prepare(str(folder), dataset, SETTINGS)
    before, old_rows, old_card = content(dataset), rows(dataset), Card.load(dataset)
    for index in range(6):
        write(tune(50 + index), folder / f"Alkan/{index}.mid")
    for index in range(2, 5):
        write(tune(30 + index), folder / f"Cage/{index}.mid")
    write(tune(60), folder / "Bach/Fugue/c.mid")
    os.remove(folder / "Bach/3.mid")
    report = prepare(str(folder), dataset, SETTINGS)
    card, new_rows = Card.load(dataset), rows(dataset)
    assert report.added == 10
    assert report.missing == 1
    assert all(new_rows[source] == row for source, row in old_rows.items())
    for name, data in content(dataset).items():
        if name in before and name.endswith((".array_record", ".lengths.npy")):
            assert data == before[name]
    assert card.conditions["composer"].values == (*old_card.conditions["composer"].values, "Alkan", "Cage")
    assert card.conditions["composer"].counts == (7, 5, 0, 6, 5)
    assert new_rows["Bach/Fugue/c.mid"].split == old_rows["Bach/Fugue/a.mid"].split
    card.verify(dataset)
    assert sum(split.records for split in card.splits.values()) == 25
    assert not prepare(str(folder), dataset, SETTINGS).changed


def test_a_changed_file_is_new_music_in_its_old_family(music, tmp_path):
    folder, dataset = tmp_path / "in", tmp_path / "ds"
    shutil.copytree(music, folder)
    prepare(str(folder), dataset, SETTINGS)
    write(tune(70), folder / "Bach/1.mid")
    assert prepare(str(folder), dataset, SETTINGS).added == 1
    both = [row for row in read(dataset) if row.source == "Bach/1.mid"]
    assert len(both) == 2
    assert both[0].split == both[1].split


def test_a_file_that_bridges_two_splits_is_left_out(music, tmp_path):
    folder, dataset = tmp_path / "in", tmp_path / "ds"
    shutil.copytree(music, folder)
    prepare(str(folder), dataset, SETTINGS)
    by_split = {}
    for row in read(dataset):
        if row.kept and row.source.startswith(("Bach/", "Ödön/")) and "Fugue" not in row.source:
            by_split.setdefault(row.split, row)
    train, other = by_split.pop("train"), next(iter(by_split.values()))
    seeds = [int(row.source[5]) + (20 if row.composer == "Ödön" else 0) for row in (train, other)]
    medley, second = tune(seeds[0]), tune(seeds[1])
    end = medley.end() + 480
    for note in second.tracks[0].notes:
        medley.tracks[0].notes.append(type(note)(note.time + end, note.duration, note.pitch, note.velocity))
    write(medley, folder / "medley.mid")
    write(medley, folder / "medley again.mid")
    report = prepare(str(folder), dataset, SETTINGS)
    assert report.added == 0
    assert report.card.skipped["bridges two splits"] == 2
    assert rows(dataset)["medley.mid"].reason == "bridges two splits"
    assert not prepare(str(folder), dataset, SETTINGS).changed


def test_other_settings_are_refused_with_the_difference(music, tmp_path):
    prepare(str(music), tmp_path / "ds", SETTINGS)
    before = content(tmp_path / "ds")
    for change, message in [({"tokenizer": "tsd"}, "'remi', now 'tsd'"), ({"seed": 1}, "seed was 0, now 1")]:
        with pytest.raises(UserError, match=message):
            prepare(str(music), tmp_path / "ds", dataclasses.replace(SETTINGS, **change))
    assert content(tmp_path / "ds") == before


def test_another_preparation_in_the_folder_is_left_alone(music, tmp_path, loop):
    loop.stop = 7
    with pytest.raises(pool.Interrupted):
        prepare(str(music), tmp_path / "ds", SETTINGS)
    journal = Journal(tmp_path / "ds/.prepare/journal.sqlite", json.dumps(["remi", VERSION]))
    loop.stop = -1
    with pytest.raises(UserError, match="another preparation"):
        prepare(str(music), tmp_path / "ds", SETTINGS)
    journal.close()
    prepare(str(music), tmp_path / "ds", SETTINGS)
    assert len(loop.done) == 10


def test_metadata_names_composers_and_works(music, tmp_path):
    table = tmp_path / "t.csv"
    lines = [
        f"{row},{'Anna' if index < 5 else 'Ben'},w{index // 2}"
        for index, row in enumerate(
            f"Bach/{index}.mid" if index < 4 else f"Ödön/{index - 4} é.mid" for index in range(9)
        )
    ]
    table.write_text("\n".join(["path,who,work", *lines]))
    metadata = Metadata.read(str(table), str(music), "path", "who", "work")
    report = prepare(str(music), tmp_path / "ds", SETTINGS, metadata)
    assert report.card.conditions["composer"].values == ("Anna", "Ben", "OTHER")
    assert report.card.conditions["composer"].counts == (5, 4, 0)
    assert report.unlisted == 8
    by_source = rows(tmp_path / "ds")
    assert by_source["Bach/0.mid"].family == by_source["Bach/1.mid"].family
    # The folder holds for files of which the table says nothing, and only for those.
    assert by_source["Bach/Fugue/a.mid"].family == by_source["Bach/Fugue/b.MIDI"].family
    table.write_text("\n".join(["path,work", "Bach/Fugue/a.mid,x", "Bach/Fugue/b.MIDI,y", "Bach/0.mid,x"]))
    metadata = Metadata.read(str(table), str(music), "path", None, "work")
    prepare(str(music), tmp_path / "apart", SETTINGS, metadata)
    by_source = rows(tmp_path / "apart")
    assert by_source["Bach/Fugue/a.mid"].family == by_source["Bach/0.mid"].family
    assert by_source["Bach/Fugue/a.mid"].family != by_source["Bach/Fugue/b.MIDI"].family
    table.write_text("path,who\nelsewhere.mid,Anna\n")
    metadata = Metadata.read(str(table), str(music), "path", "who", None)
    with pytest.raises(UserError, match="no path in the metadata"):
        prepare(str(music), tmp_path / "other", SETTINGS, metadata)
    assert not (tmp_path / "other").exists()


def test_counting_works_pools_a_composer_of_many_performances(tmp_path):
    for index in range(6):
        write(tune(index), tmp_path / f"in/One/Work/{index}.mid")
        write(tune(10 + index), tmp_path / f"in/Many/{index}.mid")
    by_files = prepare(str(tmp_path / "in"), tmp_path / "files", SETTINGS).card
    by_works = prepare(str(tmp_path / "in"), tmp_path / "works", dataclasses.replace(SETTINGS, count="works")).card
    assert by_files.conditions["composer"].values == ("Many", "One", "OTHER")
    assert by_works.conditions["composer"].values == ("Many", "OTHER")


def test_a_flat_folder_is_unconditional(tmp_path):
    for index in range(5):
        write(tune(index), tmp_path / f"in/{index}.mid")
    card = prepare(str(tmp_path / "in"), tmp_path / "ds", SETTINGS).card
    assert card.conditions == {}
    assert sum(split.records for split in card.splits.values()) == 5


def test_bpe_shortens_the_same_music_and_appends_with_the_same_merges(music, tmp_path):
    folder, bpe = tmp_path / "in", dataclasses.replace(SETTINGS, bpe=500)
    shutil.copytree(music, folder)
    plain = prepare(str(folder), tmp_path / "plain", SETTINGS)
    card = prepare(str(folder), tmp_path / "ds", bpe).card
    prepare(str(folder), tmp_path / "again", bpe)
    assert content(tmp_path / "again") == content(tmp_path / "ds")
    assert card.spec.vocab_size == 500
    assert card.spec.base_size == 419
    for split in ("train", "valid", "test"):
        for record, base in zip(records(tmp_path / "ds", split), records(tmp_path / "plain", split), strict=True):
            assert len(record.ids) < len(base.ids)
            assert card.spec.expand(record.ids).tolist() == base.ids.tolist()
    assert sum(row.tokens for row in read(tmp_path / "ds")) < sum(row.tokens for row in plain.outcomes)
    for index in range(6):
        write(tune(80 + index), folder / f"Bach/new {index}.mid")
    more = prepare(str(folder), tmp_path / "ds", bpe).card
    assert more.spec == card.spec
    assert not prepare(str(folder), tmp_path / "ds", bpe).changed


def test_too_little_music_leaves_nothing_behind(tmp_path):
    write(tune(0), tmp_path / "in/0.mid")
    write(tune(0), tmp_path / "in/1.mid")
    (tmp_path / "in/2.mid").write_bytes(b"wreck")
    with pytest.raises(UserError, match=r"1 of 3.*1 duplicate"):
        prepare(str(tmp_path / "in"), tmp_path / "ds", SETTINGS)
    (tmp_path / "in/0.mid").write_bytes(b"wreck")
    (tmp_path / "in/1.mid").write_bytes(b"wreck too")
    with pytest.raises(UserError, match=r"none of 3.*3 not a MIDI file"):
        prepare(str(tmp_path / "in"), tmp_path / "ds", SETTINGS)
    assert not (tmp_path / "ds").exists()
