import errno
import importlib
import sys

import pytest

from amt_jax.errors import FEW, Parser, UserError, near, run_command


@pytest.mark.parametrize("error", [UserError("mend it"), OSError(errno.ENOSPC, "No space left on device", "a/b.mid")])
def test_what_a_person_can_put_right_is_one_line_and_code_2(capsys, error):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("Bahc", ["Bach", "Weill", "Zelenka"], "'Bahc' (did you mean 'Bach'?)"),
        ("zzz", ["Bach", "Weill"], "'zzz' (there are Bach, Weill)"),
        ("zzz", [f"Bach {n}" for n in range(FEW + 1)], "'zzz' (see the list)"),
        ("Bahc", ["Bach"] * (FEW + 1), "'Bahc' (did you mean 'Bach', 'Bach', 'Bach'?)"),
    ],
)
def test_only_near_names_are_taken_for_what_was_meant(name, known, expected):
    assert near(name, known, "see the list") == expected


def test_where_there_is_nothing_to_suggest_nothing_is():
    assert near("zzz", []) == near("zzz", [f"Bach {n}" for n in range(FEW + 1)]) == "'zzz'"


def test_a_wrong_flag_is_one_line_and_code_2(capsys, monkeypatch):
    def main():
        parser = Parser(prog="compose")
        parser.add_argument("--count", type=int, required=True)
        parser.parse_args()

    for flags, expected in (
        ([], "the following arguments are required: --count"),
        (["--count=many"], "argument --count: invalid int value: 'many'"),
        (["--count=1", "--notes=3"], "unrecognized arguments: --notes=3"),
    ):
        monkeypatch.setattr(sys, "argv", ["compose", *flags])
        with pytest.raises(SystemExit) as stop:
            run_command(main)
        assert stop.value.code == 2
        assert capsys.readouterr().err == f"error: {expected}; see --help\n"


@pytest.mark.parametrize("module", ["amt_jax.generate", "amt_jax.train", "data_prep.midi", "launch.sweep"])
def test_commands_say_in_one_line_which_flags_they_need(module, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module])
    with pytest.raises(SystemExit) as stop:
        run_command(importlib.import_module(module).main)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the following arguments are required: ")
    assert error.count("\n") == 1
