"""The errors a person can act on, and how every command shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches


class UserError(Exception):
    """Something the person can put right: says what was wrong, where, and the way out.

    Commands print its message on one line and exit with code 2; anything else is a bug and
    keeps its traceback.
    """


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


def near(name: str, known: list[str]) -> str:
    """Returns `name` followed by its nearest spellings among `known`, for an error message."""
    matches = get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:8]
    return f"{name!r} (did you mean {', '.join(map(repr, matches))}?)" if matches else repr(name)


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command's `main`, turning `UserError` and `OSError` into one line and exit code 2, Ctrl-C into 130."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (`| head`) went away: that is its right.
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        # A full disk, a folder that may not be written: the message names the file.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
