import errno

import pytest

from amt_jax.errors import UserError, run_command


@pytest.mark.parametrize("error", [UserError("mend it"), OSError(errno.ENOSPC, "No space left on device", "a/b.mid")])
def test_what_a_person_can_put_right_is_one_line_and_code_2(capsys, error):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"
