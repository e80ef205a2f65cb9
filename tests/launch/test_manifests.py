"""What starts a run on clusters that are not here: linted, checked against schemas, and run with stand-ins."""

import os
import re
import shlex
import signal
import string
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from amt_jax.cli import COMMANDS
from amt_jax.parallel.cluster import Cluster, detect

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SBATCH, TPU_RUN = LAUNCH / "slurm" / "train.sbatch", LAUNCH / "tpu_vm" / "run.sh"
WORKER = ROOT / "tests" / "parallel" / "worker.py"
TOOLS = Path(sys.executable).parent  # where pip puts shellcheck and hadolint

# Starts the tasks of a step as srun does on two nodes that are this host, and ends with the highest exit code.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost,localhost SLURM_STEP_TASKS_PER_NODE='1(x2)'
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=0 "$@" & pids[task]=$!; done
code=0
for pid in "${pids[@]}"; do wait "$pid"; this=$?; [ $this -gt $code ] && code=$this; done
exit $code
"""
CURL = """#!/bin/bash
case "${!#}" in
  */worker-network-endpoints) printf 'unknown:8470:10.0.0.2,unknown:8470:10.0.0.3' ;;
  */agent-worker-number) printf "$FAKE_HOST" ;;
  *) exit 22 ;;
esac
"""
GCLOUD = """#!/bin/bash
echo "$@" >&2
for word; do case "$word" in --command=*) command=${word#--command=} ;; esac; done
for host in 0 1; do FAKE_HOST=$host bash -c "$command"; done
"""


@pytest.fixture
def path_with(tmp_path):
    """A function: name -> script, which makes commands of them and returns an environment that has them first."""

    def make(**scripts):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, script in scripts.items():
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        # `make test PYTHON=...` hands PYTHON down to the tests, and train.sbatch would take it for the training's.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        return environment | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    return make


# --- SLURM


def batch(environment, *words, **variables):
    """The shell that runs the script on the first node, started."""
    environment = environment | {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_PROCID": "0"} | variables
    return subprocess.Popen(
        ["bash", str(SBATCH), *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_sbatch_starts_processes_that_find_one_another(path_with):
    check = '[ "$*" = "-m amt_jax.train --run=a b" ]'
    python = f"#!/bin/sh\n{check} && exec {shlex.quote(sys.executable)} {WORKER} nothing 60\n"
    environment = path_with(srun=SRUN, python=python, scontrol="#!/bin/sh\necho REQUEUED\n")
    environment |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    process = batch(environment, "--run=a b")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert out.count("devices 2.0") == 2, out
    assert out.count("done") == 2
    assert "REQUEUED" not in out


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(0, "", False), (1, "", False), (2, "", False), (75, "99", True), (75, "100", False), (137, "", True)],
)  # fmt: skip
def test_sbatch_queues_again_what_can_go_on(path_with, code, restarts, again):
    environment = path_with(srun=SRUN, python=f"#!/bin/sh\nexit {code}\n", scontrol='#!/bin/sh\necho "scontrol $@"\n')
    process = batch(environment, SLURM_RESTART_COUNT=restarts)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert (f"scontrol requeue {os.getpid()}" in out) == again


def test_sbatch_leaves_a_cancelled_job_alone(path_with):
    scontrol = '#!/bin/sh\necho "scontrol $@"\n[ "$1" = requeue ] || echo "   JobState=CANCELLED Reason=None"\n'
    out, _ = batch(path_with(srun=SRUN, python="#!/bin/sh\nexit 75\n", scontrol=scontrol)).communicate(timeout=30)
    assert "requeue" not in out


def test_sbatch_waits_for_training_to_save_when_the_job_is_signalled(path_with, tmp_path):
    python = (
        "#!/bin/bash\n"
        f"trap 'sleep 0.5; touch {tmp_path}/saved.$SLURM_PROCID; exit 75' TERM\n"
        f"echo $$ >{tmp_path}/pid.$SLURM_PROCID\n"
        "while :; do sleep 0.05; done\n"
    )
    process = batch(path_with(srun=SRUN, python=python, scontrol="#!/bin/sh\necho REQUEUED\n"))
    deadline = time.monotonic() + 30
    pids = []
    while len(pids) < 2:
        assert time.monotonic() < deadline
        pids = [int(text) for path in tmp_path.glob("pid.*") if (text := path.read_text().strip())]
        time.sleep(0.02)
    for pid in [process.pid, *pids]:  # SLURM signals every process of the job but srun itself
        os.kill(pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "REQUEUED" in out
    assert len(list(tmp_path.glob("saved.*"))) == 2


# --- TPU VMs


def test_each_host_of_a_tpu_slice_learns_its_place(path_with):
    code = "import os; from amt_jax.parallel.cluster import detect; print(detect(os.environ), os.sys.argv[1:])"
    environment = path_with(gcloud=GCLOUD, curl=CURL)
    words = ["bash", str(TPU_RUN), "pod", "us-west4-a", sys.executable, "-c", code, "--run=gs://a b/$HOME"]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    expected = [f"{Cluster('10.0.0.2:8476', 2, process)} ['--run=gs://a b/$HOME']" for process in range(2)]
    assert done.stdout.splitlines() == expected
    assert done.stderr.startswith("compute tpus tpu-vm ssh pod --zone=us-west4-a --worker=all --command=")


def test_a_host_that_cannot_learn_its_place_starts_nothing(path_with):
    environment = path_with(gcloud=GCLOUD, curl="#!/bin/sh\nexit 22\n")
    done = subprocess.run(
        ["bash", str(TPU_RUN), "p", "z", "echo", "started"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "started" not in done.stdout


# --- Kubernetes

VALUES = {
    "jobset.yaml": {"HOSTS": "3", "GPUS": "8"},
    "jobset-tpu.yaml": {"HOSTS": "4", "CHIPS": "4", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"},
    "job.yaml": {"HOSTS": "3", "GPUS": "8"},
}
# Fields of jobset.x-k8s.io/v1alpha2 as its custom resource definition names them (config/components/crd/bases in
# kubernetes-sigs/jobset). What a replicated job holds is a batch/v1 Job, which has its own schema.
JOBSET_FIELDS = {
    "spec": {"coordinator", "failurePolicy", "managedBy", "network", "replicatedJobs", "startupPolicy", "successPolicy",
             "suspend", "ttlSecondsAfterFinished", "volumeClaimPolicies"},
    "failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "rule": {"action", "name", "onJobFailureMessagePatterns", "onJobFailureReasons", "targetReplicatedJobs"},
    "replicatedJob": {"dependsOn", "groupName", "name", "replicas", "template"},
}  # fmt: skip
RULE_NAME = r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"


def documents(name) -> list[dict]:
    values = {"IMAGE": "registry/amt_jax:1", "CONFIG": "demo", "DATASET": "/data/set", "RUN": "/data/run"} | VALUES[
        name
    ]
    text = (LAUNCH / "kubernetes" / name).read_text()
    return list(yaml.safe_load_all(string.Template(text).substitute(values)))


def jobs(name) -> list[dict]:
    """The Jobs of a manifest, also those that a JobSet makes."""
    found = []
    for document in documents(name):
        if document["kind"] == "JobSet":
            found += [
                {"apiVersion": "batch/v1", "kind": "Job"} | job["template"]
                for job in document["spec"]["replicatedJobs"]
            ]
        elif document["kind"] == "Job":
            found.append(document)
    return found


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_manifests_fit_the_schemas_of_kubernetes(name, version):
    checked = [document for document in documents(name) if document["kind"] != "JobSet"] + jobs(name)
    assert checked
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", ["jobset.yaml", "jobset-tpu.yaml"])
def test_jobsets_have_only_fields_that_there_are(name):
    (document,) = documents(name)
    assert document["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    spec = document["spec"]
    assert set(spec) <= JOBSET_FIELDS["spec"]
    assert set(spec["failurePolicy"]) <= JOBSET_FIELDS["failurePolicy"]
    for rule in spec["failurePolicy"]["rules"]:
        assert set(rule) <= JOBSET_FIELDS["rule"]
        assert re.fullmatch(RULE_NAME, rule["name"])
        assert rule["action"] == "FailJobSet"
    for job in spec["replicatedJobs"]:
        assert set(job) <= JOBSET_FIELDS["replicatedJob"]


@pytest.mark.parametrize("name", VALUES)
def test_pods_find_their_place(name):
    (job,) = jobs(name)
    hosts = int(VALUES[name]["HOSTS"])
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == hosts
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] in COMMANDS
    environ = {each["name"]: each["value"] for each in container.get("env", [])}
    if name == "jobset.yaml":  # a JobSet names its pods SET-JOB-REPLICA-POD.SET
        (document,) = documents(name)
        (replicated,) = document["spec"]["replicatedJobs"]
        coordinator = f"{document['metadata']['name']}-{replicated['name']}-0-0.{document['metadata']['name']}:8476"
    elif name == "job.yaml":  # an indexed Job names them JOB-POD, and its service stands for the domain
        service, _ = documents(name)
        assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
        assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
        assert service["spec"]["clusterIP"] == "None"
        coordinator = f"{job['metadata']['name']}-0.{service['metadata']['name']}:8476"
    else:  # GKE tells
        environ |= {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2"}
        coordinator = "a:61440"
    assert detect(environ | {"JOB_COMPLETION_INDEX": "2"}) == Cluster(coordinator, hosts, 2)


@pytest.mark.parametrize("name", VALUES)
def test_the_command_on_top_sets_every_variable(name):
    text = (LAUNCH / "kubernetes" / name).read_text()
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#   "))
    assert set(re.findall(r"([A-Z]+)=", head)) == set(re.findall(r"\$\{(\w+)\}", text))
    assert f"<launch/kubernetes/{name}" in head


# --- Linters


@pytest.mark.parametrize("script", [SBATCH, TPU_RUN], ids=lambda path: path.name)
def test_shell_scripts_are_clean(script):
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run([TOOLS / "shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_dockerfile_is_clean_and_copies_what_the_wheel_is_made_of():
    path = LAUNCH / "docker" / "Dockerfile"
    done = subprocess.run([TOOLS / "hadolint", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    copied = {word for line in re.findall("^COPY (.*) ", path.read_text(), re.MULTILINE) for word in line.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert copied == packages | {"pyproject.toml", project["project"]["readme"]}
    allowed = path.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in allowed if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
