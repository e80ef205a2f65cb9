import numpy as np

from amt_jax.data.card import Shard, combine, content_hash, file_sha256
from amt_jax.data.record import Record
from amt_jax.tokens.symbolic import SymbolicTokenizer
from data_prep.dataset import shards
from data_prep.dataset.outcome import KEPT, Outcome
from data_prep.dataset.piece import Piece
from data_prep.dataset.similarity import HASHES


def test_pieces_are_divided_in_order_by_their_tokens(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 10)
    rows = [Outcome(str(index), "", KEPT, tokens=tokens) for index, tokens in enumerate([4, 4, 4, 30, 1, 9, 1])]
    plans = shards.plan(rows, "train", 7)
    assert [plan.file for plan in plans] == [f"train-{number:05}.array_record" for number in (7, 8, 9, 10)]
    assert [[row.source for row in plan.rows] for plan in plans] == [["0", "1", "2"], ["3"], ["4", "5"], ["6"]]
    assert shards.plan([], "test", 0) == []


def test_a_shard_its_lengths_and_its_receipt(tmp_path):
    draft, work = tmp_path / "draft", tmp_path / "work"
    draft.mkdir()
    work.mkdir()
    rows = [Outcome(f"{i}.mid", "", KEPT, piece=f"p{i}", family="f", composer=("", "Bach")[i]) for i in range(2)]
    pieces = [Piece(ids=np.arange(3 + i, dtype=np.uint16), signature=np.ones(HASHES * i, np.uint32)) for i in range(2)]
    (plan,) = shards.plan(rows, "valid", 0)
    for _ in range(2):  # The second time it replaces what is there.
        shards.write(plan, iter(pieces), SymbolicTokenizer.create("remi"), "CC0", draft, work)
    receipt = shards.Receipt.load(plan, work)
    assert receipt.shard == Shard("valid-00000.array_record", 2, 7, file_sha256(draft / plan.file))
    assert sorted(path.name for path in draft.iterdir()) == [receipt.shard.file, receipt.shard.lengths_file]
    assert [path.name for path in work.iterdir()] == [plan.receipt_file]
    assert np.load(draft / receipt.shard.lengths_file).tolist() == receipt.lengths.tolist() == [3, 4]
    assert receipt.signatures.tolist() == [[0] * HASHES, [1] * HASHES]
    stored = list(shards.read(draft, [receipt.shard]))
    assert [Record.from_bytes(data).source for data in stored] == ["0.mid", "1.mid"]
    assert [Record.from_bytes(data).conditions for data in stored] == [{}, {"composer": "Bach"}]
    assert combine(map(bytes, receipt.digests)) == content_hash(stored)
    assert list(map(bytes, receipt.digests)) == list(shards.digests(draft, [receipt.shard]))
