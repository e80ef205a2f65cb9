"""The errors a person can act on, and how every command shows them."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn

FEW = 12  # choices that fit into a message


class UserError(Exception):
    """Something the person can put right: says what was wrong, where, and the way out.

    Commands print its message on one line and exit with code 2; anything else is a bug and
    keeps its traceback.
    """


class SharedError(UserError):
    """A problem that all processes of a run raise together, so that none has to tell the others."""


class MidiError(UserError):
    """The file is not usable music.

    Attributes:
      reason: one of a fixed set of short phrases, for counting; the message is `reason: details`.
    """

    def __init__(self, reason: str, details: str = ""):
        super().__init__(f"{reason}: {details}" if details else reason)
        self.reason = reason
        self.details = details

    def __reduce__(self):
        # Exceptions pickle by their message alone otherwise, and these cross process pools.
        return type(self), (self.reason, self.details)


class Parser(argparse.ArgumentParser):
    """A parser of flags whose errors are one line, as all errors are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def near(name: str, known: list[str], see: str = "") -> str:
    """Returns `name` for an error message, followed by those of `known` that are spelt like it.

    Where none is, all of them follow if they are few, else `see`: where they are to be found.
    """
    if matches := get_close_matches(name, known, n=3):
        return f"{name!r} (did you mean {', '.join(map(repr, matches))}?)"
    there = f"there are {', '.join(known)}" if 0 < len(known) <= FEW else see
    return f"{name!r} ({there})" if there else repr(name)


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command's `main` and exits, with what `report` makes of an error."""
    try:
        sys.exit(main() or 0)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(report(error))


def report(error: BaseException) -> int:
    """Shows an error to the person and returns the exit code for it.

    `UserError` and `OSError` (a full disk: the message names the file) are one line and code 2, Ctrl-C is 130, output
    that nobody reads any more (`| head`) 141, anything else is a bug: its traceback and 1.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):
        sys.stderr.close()
        return 141
    if isinstance(error, UserError | OSError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1
