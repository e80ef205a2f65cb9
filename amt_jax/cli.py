"""`amt COMMAND ...`: one name for all commands."""

from __future__ import annotations

import runpy
import sys

from amt_jax.errors import near

COMMANDS = {
    "collect": ("data_prep.collect", "a folder of MIDI files -> a table of what each one is"),
    "texts": ("data_prep.texts", "that table -> words about the music, from Wikipedia and tables"),
    "pair": ("data_prep.pair", "both -> which words belong to which file"),
    "describe": ("data_prep.describe", "the table, and pairs if there are any -> captions and labels of each file"),
    "report": ("data_prep.report", "all of these -> a page to look at"),
    "prepare": ("data_prep.midi", "a folder of MIDI files -> a dataset folder"),
    "pianoroll": ("data_prep.pianoroll", "a file of piano-rolls -> a dataset folder"),
    "encode": ("data_prep.encode", "a dataset folder's captions -> what a network hears of them"),
    "cluster": ("data_prep.cluster", "a dataset folder's captions -> semantic tokens"),
    "train": ("amt_jax.train", "a dataset folder -> a run folder"),
    "generate": ("amt_jax.generate", "a run folder and a wish -> music"),
    "evaluate": ("amt_jax.evaluate", "a run folder -> a report"),
    "export": ("amt_jax.export", "a run folder -> a model that plays without amt_jax"),
    "demo": ("amt_jax.demo", "all of these once, on music that comes along or on your own"),
}


def main() -> None:
    """Runs a command as `python -m` would."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: amt COMMAND [--help] ...\n\ncommands:")
        for command, (module, what) in COMMANDS.items():
            print(f"  {command:{width}}  {what}  (python -m {module})")
        return
    if name not in COMMANDS:
        print(f"error: unknown command {near(name, list(COMMANDS), 'see amt --help')}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
