"""Words to music from end to end: MIDI files and descriptions of them, a model, and the commands that listen to it."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from amt_jax import evaluate, generate, train
from amt_jax.data.card import Card
from amt_jax.errors import run_command
from amt_jax.music import midi
from amt_jax.sampling.generator import Generator
from amt_jax.training.config import TrainConfig
from amt_jax.training.run_folder import RunFolder
from data_prep import cluster, encode
from data_prep import midi as prepare
from tests.captioned import caption
from tests.music_files import tune, write
from tests.untrained import save_run

ROOT = Path(__file__).parents[1]
BERT = ROOT / "tests" / "pretrained" / "goldens" / "bert"
CONFIG = """
from ml_collections import ConfigDict
from configs import demo


def get_config(arg):
    config = demo.get_config()
    config.context, config.batch_size, config.steps = 64, 4, 4
    config.validate_every = config.save_every = 4
    config.model.update(num_layers=1, num_heads=2, num_kv_heads=1, d_model=32, d_ff=32)
    config.conditions = ConfigDict({name: config.conditions[name] for name in arg.split("+")})
    for each in config.conditions.values():
        each.scale = 10.0  # heard after four steps already
    return config
"""
INSTRUMENTS = (("piano", 0), ("guitar", 24), ("violin", 40))
FREE = ["--max_tokens=32", "--temperature=2", "--top_k=0", "--top_p=1", "--audio=none"]  # differences are heard soon
WISH = "a slow jazz piece for guitar at 70 bpm, no drums"


def call(main, *flags):
    """Runs a command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, flags)])
        with pytest.raises(SystemExit) as exit_:
            run_command(main)
    return exit_.value.code


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Music, a dataset, and runs: `words` is told all, `composer` no texts, `semantic` only which token."""
    home = tmp_path_factory.mktemp("home")
    rows = []
    for index in range(18):
        (name, program), slow = INSTRUMENTS[index % 3], index % 2
        path, genre = f"{('Bach', 'Weill')[slow]}/{index}.mid", ("jazz", "folk")[slow]
        write(tune(index, 16, program=program, tempo=60.0 + 5 * index), home / "midi" / path)
        first = caption(f"A {('fast', 'slow')[slow]} {genre} piece for {name}.", human=not index % 4)
        rows.append(
            {
                "path": path,
                "captions": [first, caption(f"{genre} music in A minor with {name}", names_key=True)],
                "genre": [genre],
                "mood": [("happy", "sad")[slow]],
                "instruments": [name],
                "tempo": 60.0 + 5 * index,
                "density": 3.0 + index / 7,
            }
        )
    (home / "descriptions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (home / "tiny.py").write_text(CONFIG)
    flags = ["--tokenizer=remi_multitrack", "--min-count=2", "--valid=0.2", "--test=0.2", "--workers=1"]
    folders = [f"--input={home / 'midi'}", f"--output={home / 'dataset'}"]
    assert call(prepare.main, *folders, f"--descriptions={home / 'descriptions.jsonl'}", *flags) == 0
    assert call(encode.main, f"--dataset={home / 'dataset'}", "--encoder=tfidf") == 0
    assert call(cluster.main, f"--dataset={home / 'dataset'}", "--k=3") == 0
    folders = [f"--config.dataset={home / 'dataset'}", f"--run={home / 'words'}"]
    assert call(train.main, f"--config={home / 'tiny.py'}:text+semantic+genre+tempo+composer", *folders) == 0
    for names in ("composer", "semantic"):
        fields = train.load_config(f"{home / 'tiny.py'}:{names}") | {"dataset": str(home / "dataset")}
        save_run(home / names, TrainConfig.from_json(fields), Card.load(home / "dataset"))
    return home


@pytest.fixture
def compose(home, tmp_path, capsys):
    """A function: flags -> exit code, what was printed, and the music by name."""

    def compose(*flags, run="words", output="out"):
        capsys.readouterr()
        run = home / run
        fixed = [*FREE, "--no-pictures", f"--output={tmp_path / output}"]
        code = call(generate.main, f"--run={run}", *fixed, *flags)
        music = {path.stem: np.load(path).tolist() for path in sorted((tmp_path / output).glob("*.npy"))}
        return code, capsys.readouterr(), music

    return compose


def test_a_wish_by_the_real_command_and_its_replay(home, tmp_path):
    words = [sys.executable, "-m", "amt_jax.generate", f"--run={home / 'words'}", *FREE]
    asked = [f"--text={WISH}", "--negative=folk music", "--guide=text=4,genre=2", "--style_token=2", "--variations=2"]
    made = subprocess.run(
        [*words, *asked, f"--output={tmp_path / 'out'}"], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert made.returncode == 0, made.stderr
    for line in (
        f'text: "{WISH}"',
        "keywords: jazz, guitar, drums",
        "genre: jazz (1.00)",
        "instruments: guitar (1.00), no drums (1.00)",
        "tempo: 70 BPM",
        "told to the model besides the text: genre jazz; tempo 70",
        "kept out: drums",
        'led away from: "folk music" (keywords: folk music)',
    ):
        assert line in made.stdout.splitlines()
    assert made.stdout.count("like the training text (") == 3
    stems = [f"a-slow-jazz-piece-for-guitar-at-70-bpm_no-drums_seed-{seed}" for seed in range(2)]
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("mid", "npy", "png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    chosen = tmp_path / "out" / f"{stems[1]}.mid"
    recipe = json.loads(midi.read_text(chosen))
    assert recipe["conditions"] == {"genre": ["jazz"], "semantic": "2", "tempo": 70.0, "text": WISH}
    assert (recipe["guide"], recipe["negative"]) == ({"text": 4.0, "genre": 2.0}, "folk music")
    flags = [f"--replay={chosen}", f"--output={tmp_path / 'again'}", "--audio=none"]
    assert call(generate.main, f"--run={home / 'words'}", *flags) == 0
    assert (tmp_path / "again" / chosen.name).read_bytes() == chosen.read_bytes()


def test_what_is_asked_is_heard(compose):
    """Every way of asking changes the music of the same seed; asking the same does not."""
    asked = {
        "nothing": [],
        "text": [f"--text={WISH}"],
        "another text": ["--text=fast folk piece for piano"],
        "tempo": ["--tempo=60"],
        "guided": [f"--text={WISH}", "--guidance=9"],
        "led away": [f"--text={WISH}", "--guidance=9", "--negative=fast folk piece for piano"],
        "only led away": ["--negative=fast folk piece for piano", "--guidance=9"],
    }
    music = {}
    for name, each in asked.items():
        code, captured, found = compose(*each, output=name)
        assert code == 0, captured.err
        (music[name],) = found.values()
    same = {(a, b) for a in asked for b in asked if a < b and music[a] == music[b]}
    assert not same
    assert compose(*asked["text"], output="again")[2].popitem()[1] == music["text"]


def test_a_text_file_of_wishes(compose, tmp_path):
    (tmp_path / "wishes.txt").write_text("fast folk piece for piano\n\na slow jazz piece for guitar\n")
    code, captured, music = compose(f"--batch={tmp_path / 'wishes.txt'}", "--variations=2", "--seed=3")
    assert code == 0, captured.err
    stems = [f"{name}_seed-{seed}" for name in ("a-slow-jazz-piece-for-guitar", "fast-folk-piece-for-piano")
             for seed in (3, 4)]  # fmt: skip
    assert list(music) == stems
    assert captured.out.count('text: "') == 2


def test_a_batch_of_one_text_shows_all_that_is_told_with_it(compose, tmp_path):
    lines = [{"text": "jazz", "tempo": tempo, "seed": seed} for tempo in (60, 90) for seed in (0, 1)]
    (tmp_path / "wishes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    code, captured, music = compose(f"--batch={tmp_path / 'wishes.jsonl'}")
    assert code == 0, captured.err
    assert len(music) == 4
    assert re.findall("besides the text: (.*)", captured.out) == ["genre jazz; tempo 60", "genre jazz; tempo 90"]


def test_a_model_of_semantic_tokens_reads_texts_for_theirs(compose, home):
    code, captured, music = compose(f"--text={WISH}", run="semantic")
    assert code == 0, captured.err
    (token,) = (
        line.removeprefix("semantic token: ") for line in captured.out.splitlines() if line.startswith("semantic")
    )
    assert "told to the model besides the text" not in captured.out
    same = compose(f"--style_token={token}", run="semantic", output="same")[2]
    assert list(same.values()) == list(music.values())
    others = set("012") - {token}
    for other in others:
        found = compose(f"--style_token={other}", run="semantic", output=other)[2]
        assert list(found.values()) != list(music.values())
    negative = ["--negative=fast folk piece for piano", "--guidance=4", f"--text={WISH}"]
    code, captured, found = compose(*negative, run="semantic", output="negative")
    assert code == 0, captured.err
    assert list(found.values()) != list(music.values())
    made = [
        compose(f"--text={WISH}", flag, run="semantic", output=flag[2:])
        for flag in ("--guide=text=4", "--guide=semantic=4", "--guidance=4")
    ]
    assert made[0][0] == 0, made[0][1].err
    assert list(made[0][2].values()) == list(made[1][2].values()) == list(made[2][2].values())
    assert list(made[0][2].values()) != list(music.values())


def test_evaluation_says_how_well_texts_are_followed(home, tmp_path, capsys):
    flags = ["--count=2", "--seconds=2", "--follow=2", f"--without_text={home / 'composer'}"]
    assert call(evaluate.main, f"--run={home / 'words'}", f"--output={tmp_path / 'report'}", *flags) == 0
    out = capsys.readouterr().out
    assert "whose text asks for it, so many have the right" in out
    data = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    label = "composer and genre and semantic and tempo and text"
    assert [name.removeprefix(label) for name in data["likelihood"]] == [
        " given",
        " not given",
        " of another piece given",
    ]
    assert len({each["nats_per_token"]["value"] for each in data["likelihood"].values()}) == 3


def test_a_run_whose_text_encoder_lies_elsewhere_now(home, compose, tmp_path):
    dataset = shutil.copytree(home / "dataset", tmp_path / "dataset")
    shutil.copytree(BERT, tmp_path / "bert")
    assert call(encode.main, f"--dataset={dataset}", f"--encoder={tmp_path / 'bert'}") == 0
    fields = train.load_config(f"{home / 'tiny.py'}:text") | {"dataset": str(dataset)}
    save_run(tmp_path / "run", TrainConfig.from_json(fields), Card.load(dataset))
    (tmp_path / "bert").rename(tmp_path / "there")
    flag = f"--encoder={tmp_path / 'there'}"
    code, captured, _ = compose("--text=a waltz", run=tmp_path / "run")
    assert code == 2
    assert "lies elsewhere now, name that with --encoder: no folder" in captured.err
    code, captured, music = compose("--text=a waltz", flag, run=tmp_path / "run")
    assert (code, len(music)) == (0, 1), captured.err
    flags = [f"--run={tmp_path / 'run'}", "--count=1", "--seconds=1", "--follow=1"]
    assert call(evaluate.main, *flags, f"--output={tmp_path / 'report'}", flag) == 0


def test_a_run_that_moved_away_from_its_dataset(home, compose, tmp_path):
    _, _, before = compose(f"--text={WISH}")
    shutil.move(home / "dataset", tmp_path / "away")
    shutil.copytree(home / "words", home / "moved")
    shutil.move(home / "words", tmp_path / "words")
    try:
        code, captured, after = compose(f"--text={WISH}", run="moved", output="after")
        assert code == 0, captured.err
        assert after == before
        assert "like the training text (" in captured.out
        assert call(evaluate.main, f"--run={home / 'moved'}", f"--output={tmp_path / 'report'}") == 2
    finally:
        shutil.move(tmp_path / "away", home / "dataset")
        shutil.move(tmp_path / "words", home / "words")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "note: the text is empty, so it asks for nothing"),
        (" \t ", "note: the text is empty, so it asks for nothing"),
        ("\u200b", "note: the model's text encoder knows none of these words; the music is not led by them"),
        ("🎷🎺 🎻", "instruments: saxophone (0.90), trumpet (0.90), violin (0.90)"),
        ("xyzzy plugh", "note: the model's text encoder knows none of these words; the music is not led by them"),
        (
            "eine langsame traurige Ballade mit Klavier und Saxophon",
            "note: this seems to be in another language (de); only English is understood",
        ),
        (r"price: $5 $\frac{$ % & {\alpha}^_", None),
        ("slow jazz " * 5000, "genre: jazz (1.00)"),
        ("../../etc/passwd\n\n; rm -rf ~", None),
    ],
)
def test_odd_texts_make_music_all_the_same(home, tmp_path, capsys, recwarn, text, note):
    """Also the picture, whose title is the text."""
    flags = [*FREE, f"--output={tmp_path / 'out'}", f"--text={text}"]
    assert call(generate.main, f"--run={home / 'words'}", *flags) == 0
    captured = capsys.readouterr()
    assert len(captured.out) < 3000
    assert note is None or note in captured.out.splitlines()
    (made,) = (tmp_path / "out").glob("*.mid")
    assert made.with_suffix(".png").stat().st_size > 5000
    assert json.loads(midi.read_text(made))["conditions"].get("text", "") == text.strip()
    assert not recwarn.list
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_interactive_asks_what_the_model_knows_and_nothing_else(compose, monkeypatch):
    said = {
        **{"text": "a jazz tune", "genre": "zydeco\njazz", "tempo": "90.5", "instruments": "guitar", "guidance": "3"},
        **{"negative": "folk", "bars": "1", "semantic": "", "composer": "1"},
    }
    always = ("temperature", "top_k", "top_p", "repetition_penalty", "prompt", "bars", "seed")
    for run, flags, expected in (
        ("words", [], {*said, *always}),
        ("words", ["--seconds=9"], {*said, *always, "seconds"}),
        ("composer", [], {"composer", "instruments", "guidance", *always}),
    ):
        asked = [name for name in generate.QUESTIONS if name in expected]
        answers = "".join(f"{said.get(name, '')}\n" for name in asked)
        monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
        code, captured, music = compose("--interactive", *flags, run=run, output=f"{run}{len(flags)}")
        assert code == 0, captured.err
        prompts = re.findall(r"(\w+) \[[^]]*\]: ", captured.out)
        assert list(dict.fromkeys(prompts)) == asked
        assert len(music) == 1
        if run == "words":
            assert "genre: folk, jazz\n" in captured.out
            assert "unknown genre 'zydeco' (there are folk, jazz)" in captured.out
            (told,) = re.findall("told to the model besides the text: (.*)", captured.out)
            assert sorted(told.split("; ")) == ["composer Bach", "genre jazz", "tempo 90.5"]


@pytest.mark.parametrize(
    ("run", "flags", "message"),
    [
        ("words", ["--instruments=guitarr"], "no instrument 'guitarr' (did you mean 'guitar'"),
        ("words", ["--negative=drums"], "negative only matters with guidance"),
        ("words", ["--text=jazz", "--negative=drums"], "negative only matters with guidance"),
        ("words", ["--text=jazz", "--guide=tempo=3"], "guide: what was said asks for no tempo that the model knows"),
        ("words", ["--text=jazz", "--guide=texxt=3"], "nothing is asked of 'texxt' (did you mean 'text'"),
        ("words", ["--guide=text=3"], "what was said asks for no text that the model knows (it asks for nothing)"),
        ("words", ["--style_token=3"], "unknown semantic '3'"),
        ("words", ["--style_token=calm"], "unknown semantic 'calm'"),
        ("words", ["--genre=zydeco"], "unknown genre 'zydeco'"),
        ("words", ["--mood=sad"], "this model was not trained with mood: it knows"),
        ("words", ["--tempo=nan"], "tempo is a number, not nan"),
        ("composer", ["--text=jazz"], "this model was not trained with text: it knows composer"),
        ("composer", ["--style_token=1"], "this model was not trained with semantic: it knows composer"),
        ("composer", ["--negative=jazz", "--guidance=3"], "negative needs a model that was trained with texts"),
    ],
)
def test_refusals_are_one_line(compose, tmp_path, run, flags, message):
    code, captured, music = compose(*flags, run=run)
    assert code == 2
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert message in captured.err.splitlines()[-1]
    assert captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err
    assert music == {}
    assert not (tmp_path / "out").exists()


def test_evaluation_refuses_before_it_works(home, tmp_path, capsys):
    for flags, message in (
        (["--follow=-1"], "--follow is -1"),
        (["--without_text=/nowhere"], "no run in '/nowhere'"),
    ):
        code = call(evaluate.main, f"--run={home / 'words'}", f"--output={tmp_path / 'out'}", *flags)
        assert code == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
        assert not (tmp_path / "out").exists()


def test_a_run_knows_only_what_it_was_trained_with(home):
    generator = Generator(RunFolder(home / "words"))
    assert set(generator.card.conditions) == {"text", "semantic", "genre", "tempo", "composer"}
    assert {"mood", "density", "instruments"} <= set(Card.load(home / "words").conditions)
    wish = generator.reader.read("a sad violin at 90 bpm")
    assert wish.conditions.keys() == {"tempo", "semantic"}
