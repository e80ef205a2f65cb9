import sys

import numpy as np
import pytest

from amt_jax import storage
from amt_jax.data.captions import CaptionTable
from amt_jax.errors import UserError
from amt_jax.text.clusters import Clusters
from amt_jax.text.encoder import load_encoder
from data_prep import cluster, encode
from tests.captioned import caption, write_captioned
from tests.html_page import Checker

KINDS = {
    "jazz": ("saxophone", "trumpet", "brushes", "smoky", "swing"),
    "techno": ("synthesizer", "machine", "pounding", "loop", "club"),
    "baroque": ("harpsichord", "organ", "fugue", "solemn", "ornate"),
    "folk": ("fiddle", "whistle", "reel", "cheerful", "jig"),
}


def made(number: int, seed: int) -> list[str]:
    """Captions of four kinds, the first kind the most frequent."""
    random = np.random.default_rng(seed)
    texts = []
    for kind in random.choice(list(KINDS), number, p=(0.4, 0.3, 0.2, 0.1)):
        texts.append(f"{kind} with {' and '.join(random.choice(KINDS[kind], 2, replace=False))}, no. {len(texts)}")
    return texts


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "dataset"
    train = [[caption(text)] for text in made(300, 0)]
    write_captioned(folder, {"train": train, "test": [[caption(text)] for text in [*made(20, 1), "quux"]]})
    sys.argv = ["encode", f"--dataset={folder}", "--encoder=tfidf"]
    encode.main()
    return folder


def run(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["cluster", *flags])
    cluster.main()


def test_the_known_number_of_clusters_is_found_whatever_the_seed(dataset, monkeypatch):
    found = []
    for seed in range(3):
        run(monkeypatch, f"--dataset={dataset}", f"--seed={seed}")
        clusters, table = Clusters.load(dataset / "text"), CaptionTable.load(dataset / "text")
        assert clusters.k == len(KINDS)
        assert set(clusters.silhouettes) == set(range(2, 11))
        assert clusters.digest == table.card.digest
        found.append(table.semantic.tolist())
        table.verify()
    assert found[0] == found[1] == found[2]
    for number, kind in enumerate(KINDS):  # by size
        rows = [row for row, each in enumerate(table.captions) if each.text.startswith(kind)]
        assert {found[0][row] for row in rows} == {number}
    assert found[0][table.index("quux")] == -1


def test_new_text_goes_where_captions_like_it_are(dataset, monkeypatch):
    run(monkeypatch, f"--dataset={dataset}")
    encoder, clusters = load_encoder(dataset / "text"), Clusters.load(dataset / "text")
    texts = ["smoky swing", "a pounding club loop", "Solemn organ FUGUE", "a cheerful jig", ""]
    np.testing.assert_array_equal(clusters.assign(encoder.pooled(texts)), [0, 1, 2, 3, -1])


def test_captions_outside_train_change_nothing(dataset, monkeypatch, tmp_path):
    run(monkeypatch, f"--dataset={dataset}")
    other = tmp_path / "dataset"
    train = [[caption(text)] for text in made(300, 0)]
    write_captioned(other, {"train": train, "test": [[caption(f"fiddle organ {i}")] for i in range(200)]})
    monkeypatch.setattr(sys, "argv", ["encode", f"--dataset={other}", "--encoder=tfidf"])
    encode.main()
    run(monkeypatch, f"--dataset={other}")
    np.testing.assert_array_equal(Clusters.load(other / "text").centroids, Clusters.load(dataset / "text").centroids)


def test_reports_name_sizes_words_and_captions(dataset, monkeypatch, tmp_path, capsys):
    run(monkeypatch, f"--dataset={dataset}", "--k=4", f"--report={tmp_path / 'new' / 'clusters.html'}")
    assert "more than others about jazz" in capsys.readouterr().out
    page = (tmp_path / "new" / "clusters.html").read_text()
    assert "<td>jazz, " in page
    assert "mean silhouette" in page
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert all(each.startswith("#") for each in checker.references)
    run(monkeypatch, f"--dataset={dataset}", "--k=4", f"--report={tmp_path / 'clusters.png'}")
    assert (tmp_path / "clusters.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        run(monkeypatch, f"--dataset={dataset}", f"--report={tmp_path / 'folder.html'}")
    for flags in (["--report=clusters.pdf"], ["--k=1"], ["--k=5:3"], ["--k=many"], ["--seed=-1"], [f"--seed={2**32}"]):
        with pytest.raises(UserError, match=r"argument --(report|k|seed): "):
            run(monkeypatch, f"--dataset={dataset}", *flags)


def test_a_file_is_no_dataset(dataset, monkeypatch):
    with pytest.raises(UserError, match=r"dataset.json is a file; name the dataset folder"):
        run(monkeypatch, f"--dataset={dataset / 'dataset.json'}")


def test_only_one_process_at_a_time_writes_to_a_dataset(dataset, monkeypatch):
    with storage.lock(dataset, wait=False), pytest.raises(UserError, match="another process is at work on"):
        run(monkeypatch, f"--dataset={dataset}")


def test_too_few_captions_are_refused(tmp_path, monkeypatch):
    write_captioned(tmp_path / "few", {"train": [[caption("jazz")], [caption("Jazz!")]]})
    with pytest.raises(UserError, match="not encoded"):
        run(monkeypatch, f"--dataset={tmp_path / 'few'}")
    monkeypatch.setattr(sys, "argv", ["encode", f"--dataset={tmp_path / 'few'}", "--encoder=tfidf"])
    encode.main()
    with pytest.raises(UserError, match="1 different captions cannot be divided into 2"):
        run(monkeypatch, f"--dataset={tmp_path / 'few'}")
