import importlib.util
import subprocess
import sys

import pytest

from amt_jax import storage
from amt_jax.errors import UserError


def test_a_folder_is_here_or_in_a_known_store(tmp_path):
    assert storage.open_folder(str(tmp_path / "new")) == tmp_path / "new"
    with pytest.raises(UserError, match="ftp:// is not known; name a folder on this machine, gs://… or s3://…"):
        storage.open_folder("ftp://host/run")
    with pytest.raises(UserError, match="is written on this machine"):
        storage.local_path("gs://bucket/music")


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.open_folder("~/run") == storage.local_path("~/run") == tmp_path / "run"


@pytest.mark.parametrize(("scheme", "package", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
def test_a_missing_package_is_named_with_its_extra(scheme, package, extra):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError, match=rf"needs the package {package}; pip install 'amt_jax\[{extra}\]'"):
        storage.open_folder(f"{scheme}://bucket/run")


def test_absolute_names_leave_stores_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    names = [storage.absolute(name) for name in ("set", "~/set", "/set", "gs://bucket/set")]
    assert names == [str(tmp_path / "set"), "/home/me/set", "/set", "gs://bucket/set"]


def test_a_lock_keeps_others_out_as_long_as_its_process_lives(tmp_path):
    hold = (
        "import sys, pathlib; from amt_jax import storage\n"
        "with storage.lock(pathlib.Path(sys.argv[1]), wait=False): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), storage.lock(tmp_path, wait=False):
            pass
        process.kill()
    with storage.lock(tmp_path, wait=True), storage.lock(tmp_path / "..", wait=False):
        pass
