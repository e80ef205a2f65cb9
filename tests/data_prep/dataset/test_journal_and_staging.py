import numpy as np
import pytest

from amt_jax.errors import UserError
from data_prep.dataset.journal import Journal
from data_prep.dataset.piece import Piece
from data_prep.dataset.staging import Staging


def test_a_journal_keeps_pieces_of_its_configuration(tmp_path):
    file = tmp_path / "journal.sqlite"
    piece = Piece("hash", np.arange(5, dtype=np.uint16), np.arange(3, dtype=np.uint32), 1.5)
    journal = Journal(file, "one")
    journal["a"] = piece
    journal["b"] = Piece(reason="no notes", details="really")
    with pytest.raises(UserError, match="another preparation"):
        Journal(file, "one")
    journal.close()
    journal = Journal(file, "one")
    assert journal["a"].piece == "hash"
    assert journal["a"].ids.tolist() == [0, 1, 2, 3, 4]
    assert journal["a"].signature.tolist() == [0, 1, 2]
    assert journal["b"].reason == "no notes"
    assert "c" not in journal
    with pytest.raises(KeyError):
        journal["c"]
    journal.close()
    journal = Journal(file, "two")
    assert "a" not in journal
    journal.close()
    file.write_bytes(b"not a database at all " * 100)
    journal = Journal(file, "two")
    assert "a" not in journal
    journal.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"thesis\.doc"):
        Staging(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        Staging(tmp_path / "file" / "dataset")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis.doc"]


def test_a_draft_counts_only_once_committed(tmp_path):
    staging = Staging(tmp_path)
    staging.recover()
    (staging.draft / "dataset.json").write_text("{}")
    again = Staging(tmp_path)
    again.recover()
    assert not list(again.draft.iterdir())
    assert not (tmp_path / "dataset.json").exists()
    (again.draft / "dataset.json").write_text("{}")
    again.commit()
    again.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_a_full_disk_is_said_in_one_line(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite", "a")
    journal._connection.execute("PRAGMA max_page_count=8")  # what SQLite then says is what it says of a full disk
    big = Piece("p", np.zeros(100_000, np.uint16), np.zeros(4, np.uint32), 1.0, "", "")
    with pytest.raises(UserError, match=r"cannot write to .*full"):
        journal["one"] = big
    journal.close()
