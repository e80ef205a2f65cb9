import os

# Before jax is imported anywhere: sharding is tested on eight devices made of one CPU, and programs that run once
# are compiled without the costly optimizations (half the time of all tests), as in JAX's own tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import atexit
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from amt_jax.data.card import OTHER, Card, Shard, Split, Vocabulary, content_hash, file_sha256
from amt_jax.data.conditions import Conditions
from amt_jax.data.record import Record
from amt_jax.tokens.spec import TokenSpec

# All that the tests of this process and those that it starts compile is shared, and gone at the end. Not shared with
# other workers: jax warns of an entry that is just being written, and warnings are errors here.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="amt_jax-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every command that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

RANGES = {"PAD": (0, 1), "BOS": (1, 2), "EOS": (2, 3), "Pitch": (3, 40), "PitchDrum": (40, 60), "Velocity": (60, 70)}
SPEC = TokenSpec("test", 1, 80, 0, 1, 2, RANGES | {"Tempo": (70, 80)})


@pytest.fixture(scope="session")
def spec() -> TokenSpec:
    """A small vocabulary of one stream."""
    return SPEC


@pytest.fixture(scope="session")
def make_pieces():
    """A function: lengths -> pieces of random ids of the `spec` fixture."""
    return _make_pieces


@pytest.fixture(scope="session")
def write_dataset():
    """A function that writes a dataset folder."""
    return _write_dataset


@pytest.fixture(scope="session")
def make_run(write_dataset):
    """A function that makes a dataset and a run of a tiny untrained model: folder, pieces, tokenizer, fields -> it."""

    def make(folder: Path, pieces: list[np.ndarray], tokenizer=None, **fields):
        import jax

        from amt_jax.model.params import init_params
        from amt_jax.tokens.symbolic import SymbolicTokenizer
        from amt_jax.training.checkpoint import Checkpoints
        from amt_jax.training.config import TrainConfig, transformer_config
        from amt_jax.training.run_folder import RunFolder
        from amt_jax.training.step import TrainState, Validated
        from configs import demo

        tokenizer = tokenizer or SymbolicTokenizer.create("remi")
        card = write_dataset(folder / "dataset", pieces, spec=tokenizer.spec, values=("A", "B, C", OTHER))
        tokenizer.save(folder / "dataset")
        wanted = demo.get_config().to_dict() | {"dataset": str(folder / "dataset"), "context": 64} | fields
        wanted["model"] |= {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "d_model": 32, "d_ff": 32}
        config, run = TrainConfig.from_json(wanted), RunFolder(folder / "run")
        run.create(config, card)
        params = jax.jit(lambda key: init_params(transformer_config(config, card), key))(jax.random.key(0))
        checkpoints = Checkpoints(run.checkpoints_path, keep=1)
        checkpoints.save(TrainState(params, {"none": np.zeros(1)}, np.int32(7)), 0, Validated(3.0))
        checkpoints.wait()
        checkpoints.close()
        return run

    return make


@pytest.fixture
def compiled():
    """The names of the programs that this process compiles while a test runs, "jit(f)" for a function f."""
    import jax

    names = []

    def note(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="session")
def told():
    """A function: card -> its conditions, each as one vector."""
    return lambda card: Conditions(card.conditions, dict.fromkeys(card.conditions, 1))


def _make_pieces(lengths, seed=0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(3, 80, length) for length in lengths]


def _write_dataset(
    folder: Path, pieces: list[np.ndarray], *, shards: int = 2, spec: TokenSpec = SPEC, values=("A", OTHER)
) -> Card:
    """Writes every piece to every split; piece i is by composer "AB"[i % 2], every fifth by nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split in ("train", "valid", "test"):
        made, all_data = [], []
        for number, indices in enumerate(np.array_split(np.arange(len(pieces)), min(shards, len(pieces)))):
            path = folder / f"{split}-{number:05d}.array_record"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for i in indices:
                conditions = {} if i % 5 == 4 else {"composer": "AB"[i % 2]}
                data = Record(pieces[i].astype(np.uint16), conditions, f"p{i}", f"f{i}", f"{i}.mid").to_bytes()
                all_data.append(data)
                writer.write(data)
            writer.close()
            lengths = np.array([len(pieces[i]) for i in indices], np.int32)
            np.save(folder / f"{split}-{number:05d}.lengths.npy", lengths)
            made.append(Shard(path.name, len(indices), int(lengths.sum()), file_sha256(path)))
        splits[split] = Split(tuple(made), content_hash(all_data))
    (folder / "tokenizer.json").write_text("{}")
    card = Card(spec, splits, {"composer": Vocabulary("categorical", values, (1,) * len(values))})
    card.save(folder)
    return card
