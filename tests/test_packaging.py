import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def requirements() -> dict[str, str]:
    """Requirement -> its reason, for each line of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pairs = [line.partition("#")[::2] for line in lines if line.strip() and not line.startswith("#")]
    return {requirement.strip(): reason.strip() for requirement, reason in pairs}


def test_requirements_txt_and_pyproject_name_the_same_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    declared = {each for each in [*project["dependencies"], *extras] if not each.startswith("amt_jax[")}
    assert declared == set(requirements())


def test_every_requirement_has_a_range_and_a_reason():
    for requirement, reason in requirements().items():
        assert re.fullmatch(r"[\w\-]+(\[\w+\])?>=[\d.]+,<[\d.]+", requirement), requirement
        assert len(reason) > 10, f"{requirement} has no reason"


AMT = [f"amt_jax.{name}" for name in ("train", "generate", "evaluate", "export", "demo")]
PREP = [
    f"data_prep.{name}"
    for name in ("midi", "pianoroll", "corpus", "collect", "texts", "pair", "describe", "report", "encode", "cluster")
]
COMMANDS = [*AMT, *PREP, "launch.local", "launch.sweep", "launch.compile_check"]


@pytest.mark.parametrize("module", COMMANDS)
def test_help_teaches_without_loading_jax(module):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{module!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as error:\n"
        "    assert not error.code\n"
        "heavy = {'jax', 'miditok', 'matplotlib', 'tensorflow', 'torch', 'grain', 'optuna', 'apache_beam'}\n"
        "heavy |= {'sklearn', 'transformers', 'spacy', 'requests', 'rapidfuzz', 'py3langid'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_amt_lists_its_commands_and_corrects_a_slip():
    amt = [sys.executable, "-c", "from amt_jax.cli import main; main()"]
    listed = subprocess.run(amt, cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0
    assert "generate" in listed.stdout
    slip = subprocess.run([*amt, "genrate"], cwd=ROOT, capture_output=True, text=True)
    assert slip.returncode == 2
    assert "'generate'" in slip.stderr
    passed_on = subprocess.run([*amt, "train", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "--config" in passed_on.stdout


def test_readme_links_to_what_is_there():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]
