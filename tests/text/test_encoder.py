import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from amt_jax.errors import UserError
from amt_jax.pretrained.bert import load_tokenizer
from amt_jax.text.bert import BertEncoder
from amt_jax.text.cleaning import clean
from amt_jax.text.encoder import load_encoder
from amt_jax.text.tfidf import MAX_TERMS, TfidfEncoder
from data_prep.words.templates import _CLASSES, _WAYS

ROOT = Path(__file__).parents[2]
BERT = ROOT / "tests" / "pretrained" / "goldens" / "bert"
CAPTIONS = (
    "A sad jazz ballad in C# minor",
    "A happy folk tune with violin",
    "Slow waltz, 3/4, with piano",
    "a sad jazz waltz with violin",
)
HARD = ("", " \n\u200b", "word " * 10_000, "🎹🎷👨‍👩‍👧", "日本の音楽", "a\ud800b", "A SAD\tjazz\u200b ballad")


@pytest.fixture(scope="module")
def bert():
    return BertEncoder(str(BERT))


@pytest.fixture(scope="module")
def tfidf():
    return TfidfEncoder.fit(CAPTIONS)


@pytest.fixture(params=["bert", "tfidf"])
def encoder(request):
    return request.getfixturevalue(request.param)


def test_any_text_gets_states_and_an_empty_one_none(encoder):
    states = encoder.encode(HARD)
    assert states.values.shape == (len(HARD), encoder.length, encoder.width)
    assert states.values.dtype == np.float32
    assert np.isfinite(states.values).all()
    assert not states.values[~states.mask].any()
    assert not states.mask[:2].any()
    pooled = encoder.pooled(HARD)
    assert pooled.shape == (len(HARD), encoder.width)
    assert not pooled[:2].any()
    assert pooled[-1].any()
    np.testing.assert_allclose(pooled[-1], encoder.pooled(["a sad jazz ballad"])[0], atol=1e-5)


def test_how_many_words_of_a_text_are_read(bert, tfidf):
    assert tfidf.words_read("word " * 10_000) == 10_000
    assert bert.words_read("") == bert.words_read(" \u200b") == 0
    length = len(bert.tokenize(["jazz"])[0]) - 2  # without the two specials
    assert bert.words_read("jazz " * 10_000) == (bert.length - 2) // length
    read = bert.words_read("Jazz " * 500 + "flute")
    assert bert.tokenize(["jazz " * read])[0] == bert.tokenize(["jazz " * (read + 1)])[0]
    assert len(bert.tokenize(["jazz " * (read - 1)])[0]) < bert.length
    assert bert.words_read("jazz " * read) == read


def test_a_text_has_the_same_states_in_any_company(encoder):
    alone = [encoder.encode([text]) for text in CAPTIONS]
    together = encoder.encode(CAPTIONS * 20 + HARD)
    for row, one in enumerate(alone * 20):
        np.testing.assert_array_equal(together.mask[row], one.mask[0])
        np.testing.assert_allclose(together.values[row], one.values[0], atol=1e-5)


def test_an_encoder_is_equal_after_loading(encoder, tmp_path):
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    for field in ("kind", "name", "width", "length", "pooling", "digest"):
        assert getattr(loaded, field) == getattr(encoder, field), field
    np.testing.assert_array_equal(loaded.encode(CAPTIONS).values, encoder.encode(CAPTIONS).values)
    data = json.loads((tmp_path / "encoder.json").read_text())
    for change, reason in (({"schema": 2}, "update amt_jax"), ({"digest": "0" * 64}, "digest")):
        (tmp_path / "encoder.json").write_text(json.dumps(data | change))
        with pytest.raises(UserError, match=reason):
            load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_encoder(tmp_path)
    with pytest.raises(UserError, match=r"no encoder\.json"):
        load_encoder(tmp_path / "nowhere")


def test_tfidf_knows_words_keys_and_nothing_of_sentences(tfidf):
    assert {"jazz", "c#", "3", "violin"} <= set(tfidf.terms)
    assert not {"a", "with", "in"} & set(tfidf.terms)
    rows = tfidf.pooled(["jazz for you", "A JAZZ", "quantum chromodynamics"])
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_allclose(np.linalg.norm(rows[:2], axis=1), 1, rtol=1e-6)
    assert not tfidf.encode(["quantum chromodynamics"]).mask.any()


def ways(places: dict, value: str = "") -> list[str]:
    """All that captions say of a class or a value, each in a caption."""
    words = [each for said in places.values() for each in ([said] if isinstance(said, str) else said)]
    return [f"This is a piece {each.format(value)}." for each in words]


def test_tfidf_tells_all_classes_apart_that_captions_name():
    """Also few notes from many, and the key of A from no key at all."""
    tonics = ("A", "Ab", "A-flat", "B", "C", "C#", "C-sharp", "C♭", "E♭")
    keys = {f"{tonic} {mode}": None for tonic in tonics for mode in ("major", "minor")}
    facts = {fact: {name: ways(places) for name, places in classes.items()} for fact, classes in _CLASSES.items()}
    facts["key"] = {key: ways(_WAYS["key"], key) for key in keys}
    facts["key"] |= {mode: ways(_WAYS["mode"], mode) for mode in ("major", "minor")}
    facts["kept out"] = {"no": ["a waltz without piano", "no piano, not a waltz"], "yes": ["a waltz with piano"]}
    encoder = TfidfEncoder.fit([text for classes in facts.values() for texts in classes.values() for text in texts])
    for fact, classes in facts.items():
        said: dict[bytes, tuple[str, str]] = {}
        for name, texts in classes.items():
            for text, vector in zip(texts, encoder.pooled(texts), strict=True):
                other, before = said.setdefault(vector.tobytes(), (name, text))
                assert other == name, f"{fact}: {text!r} is {before!r}"


def test_tfidf_weighs_rare_words_more(tfidf):
    """idf = ln((1 + captions) / (1 + those that have the word)) + 1, as scikit-learn's smooth_idf defines it."""
    row = dict(zip(tfidf.terms, tfidf.pooled(["jazz ballad"])[0], strict=True))
    np.testing.assert_allclose(row["ballad"] / row["jazz"], (np.log(5 / 2) + 1) / (np.log(5 / 3) + 1), rtol=1e-6)
    assert np.count_nonzero(list(row.values())) == 2


def test_tfidf_depends_on_the_captions_alone_and_has_a_bound(tfidf):
    assert TfidfEncoder.fit(CAPTIONS[::-1] + CAPTIONS).digest == tfidf.digest
    assert TfidfEncoder.fit([*CAPTIONS, "a new word"]).digest != tfidf.digest
    assert TfidfEncoder.fit([f"w{i} w{i // 2}" for i in range(2000)]).width == MAX_TERMS
    with pytest.raises(UserError, match="not a word"):
        TfidfEncoder.fit(["...", "and the"])


def test_bert_encodes_what_torch_does(bert):
    golden = np.load(BERT.parent / "bert.npz")
    states = bert.encode(golden["texts"].tolist())
    np.testing.assert_array_equal(states.mask, golden["mask"].astype(bool))
    assert np.abs(states.values - golden["gelu"])[states.mask].max() < 1e-5


def test_bert_has_the_ids_of_its_own_tokenizer(bert):
    """Which writes "ß" small as it is; str.casefold would make it "ss"."""
    texts = [*CAPTIONS, "Straße ÉCOLE ΣΟΦΟΣ İstanbul", "日本の音楽"]
    assert bert.tokenize(texts) == load_tokenizer(BERT, bert.content()["config"]["vocab_size"])(texts)["input_ids"]


def test_bert_pools_by_mean_or_by_the_first_state(bert):
    states = bert.encode(CAPTIONS)
    mean = [values[mask].mean(0) for values, mask in zip(*states, strict=True)]
    np.testing.assert_allclose(bert.pooled(CAPTIONS), mean, atol=1e-6)
    first = BertEncoder(str(BERT), pooling="cls")
    np.testing.assert_array_equal(first.pooled(CAPTIONS), states.values[:, 0])
    assert first.digest != bert.digest


@pytest.mark.parametrize(("mode", "pooling"), [("cls_token", "cls"), ("mean_tokens", "mean"), ("max_tokens", None)])
def test_the_checkpoint_says_how_to_pool(tmp_path, mode, pooling):
    folder = Path(shutil.copytree(BERT, tmp_path / "bert"))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    if pooling:
        assert BertEncoder(str(folder)).pooling == pooling
    else:
        with pytest.raises(UserError, match="--pooling=mean or"):
            BertEncoder(str(folder))


def test_special_tokens_in_a_text_are_text(bert, tmp_path):
    folder = Path(shutil.copytree(BERT, tmp_path / "cased"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    cased = BertEncoder(str(folder))
    assert cased.digest != bert.digest
    assert cased.tokenize(["Waltz"]) != cased.tokenize(["waltz"])
    for encoder in (bert, cased):
        plain, ids = encoder.tokenize(["a", "a [SEP] sad [MASK] waltz [CLS]"])
        assert [ids.count(special) for special in (plain[0], plain[-1])] == [1, 1]


def test_what_comes_after_the_length_is_not_read(bert):
    assert max(map(len, bert.tokenize(list(map(clean, HARD[2:]))))) == bert.length == 32
    texts = ["sad " * 31 + "waltz", "sad " * 10_000]
    np.testing.assert_array_equal(*bert.pooled(texts))


def test_bert_refuses_what_it_cannot_read():
    with pytest.raises(UserError, match=r"max-tokens=41.* reads 3 to 40"):
        BertEncoder(str(BERT), length=41)
    with pytest.raises(UserError, match="no folder '/no/such/folder'"):
        BertEncoder("/no/such/folder")


@pytest.mark.parametrize("package", ["sklearn", "safetensors", "transformers"])
def test_a_missing_extra_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs {package}.*: pip install 'amt_jax\[words\]'"):
        TfidfEncoder.fit(CAPTIONS) if package == "sklearn" else BertEncoder(str(BERT))


def test_a_moved_checkpoint_is_found_by_source_and_another_one_refused(tmp_path):
    here = Path(shutil.copytree(BERT, tmp_path / "here"))
    encoder = BertEncoder(str(here))
    encoder.save(tmp_path)
    here.rename(tmp_path / "there")
    with pytest.raises(
        UserError, match="cannot be loaded; if it lies elsewhere now, name that with --encoder: no folder"
    ):
        load_encoder(tmp_path)
    there = load_encoder(tmp_path, source=str(tmp_path / "there"))
    assert there.digest == encoder.digest
    weights = tmp_path / "there" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x3c")
    with pytest.raises(UserError, match="is another text encoder"):
        load_encoder(tmp_path, source=str(tmp_path / "there"))


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hugging Face hub does, for one model."""

    sha = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head: bool):
        api, files = "/api/models/some/bert", f"/some/bert/resolve/{self.sha}/"
        names = [*(path.name for path in BERT.iterdir()), "big.bin"]
        path = self.path.partition("?")[0]
        if path in (f"{api}/revision/main", f"{api}/revision/{self.sha}"):
            body = {"id": "some/bert", "sha": self.sha, "siblings": [{"rfilename": name} for name in names]}
            self.send(200, json.dumps(body).encode(), head, {"Content-Type": "application/json"})
        elif path == f"{api}/tree/{self.sha}":
            body = [{"type": "file", "oid": "0" * 40, "size": 1, "path": name} for name in names]
            self.send(200, json.dumps(body).encode(), head, {"Content-Type": "application/json"})
        elif self.path.startswith(files) and (BERT / self.path.removeprefix(files)).is_file():
            name = self.path.removeprefix(files)
            self.send(200, (BERT / name).read_bytes(), head, {"ETag": f'"{name}"', "X-Repo-Commit": self.sha})
        else:
            self.send(404, b"", head, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def send(self, status: int, body: bytes, head: bool, headers: dict):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_a_name_on_the_hub_is_downloaded_once(tmp_path):
    code = (
        "import sys\n"
        "from amt_jax.errors import run_command\n"
        "from amt_jax.pretrained.bert import find_checkpoint\n"
        "def main():\n"
        "    for name in sys.argv[1:]:\n"
        "        print(name, sorted(path.name for path in find_checkpoint(name).iterdir()))\n"
        "run_command(main)\n"
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"

    def run(*names: str) -> subprocess.CompletedProcess:
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        env.pop("HF_HUB_OFFLINE", None)
        return subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, env=env)

    done = run("some/bert", f"some/bert@{Hub.sha}", "some/unknown")
    assert done.stdout, done.stderr
    assert done.stdout.splitlines()[0].startswith("some/bert ['config.json', 'model.safetensors'"), done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "big.bin" not in done.stdout
    assert done.returncode == 2
    assert "cannot get 'some/unknown' from the Hugging Face hub" in done.stderr.splitlines()[-1]
    server.shutdown()
    server.server_close()
    offline = run("some/bert", "some/other")
    assert offline.stdout.startswith("some/bert ["), offline.stderr
    assert "copy the checkpoint" in offline.stderr.splitlines()[-1]
