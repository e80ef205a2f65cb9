"""Which process of a run this is, as the environment tells it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from amt_jax.errors import UserError

FLAGS = {"coordinator": "JAX_COORDINATOR_ADDRESS", "processes": "JAX_NUM_PROCESSES", "process": "JAX_PROCESS_ID"}
PORTS = 2**12  # coordinator ports are among the last of these below 65536: above what Linux hands out by itself


@dataclasses.dataclass(frozen=True)
class Cluster:
    """This process's place among the processes of a run."""

    coordinator: str  # HOST:PORT of process 0
    processes: int
    process: int
    devices: tuple[int, ...] | None = None  # the local GPUs that are this process's; None: all


def detect(environ: Mapping[str, str]) -> Cluster | None:
    """This process's place in the cluster that an environment describes; None for a process alone.

    Known are, in this order: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (in an indexed Kubernetes
    Job JOB_COMPLETION_INDEX is the process); Open MPI 4 and 5; tasks of SLURM's srun; TPU slices on Kubernetes. A JAX
    variable that is set wins over what the others say. The batch shell of sbatch, steps of one task and TPU VMs of one
    host are processes alone. JAX_LOCAL_DEVICE_IDS names the local devices.

    UserError for variables that are set in part or contradict each other.
    """
    explicit = {name: environ[variable] for name, variable in FLAGS.items() if environ.get(variable)}
    if explicit and "process" not in explicit and environ.get("JOB_COMPLETION_INDEX"):
        explicit["process"] = environ["JOB_COMPLETION_INDEX"]
    found = {}
    if len(explicit) < len(FLAGS):
        found = _open_mpi(environ) or _slurm(environ) or _tpu(environ)
    fields = found | explicit
    if not fields:
        return None
    missing = [f"--{name} ({variable})" for name, variable in FLAGS.items() if not fields.get(name)]
    if missing:
        there = ", ".join(f"--{name} ({FLAGS[name]}) is {value}" for name, value in explicit.items()) or "a cluster"
        raise UserError(f"which process of a run is this? {there}, but there is no {' and no '.join(missing)}")
    processes, process = (_whole(fields[name], f"--{name} ({FLAGS[name]})") for name in ("processes", "process"))
    if not 0 <= process < processes:
        raise UserError(f"process {process} of {processes} cannot be: --process ({FLAGS['process']}) counts from 0")
    split_address(fields["coordinator"])
    devices = fields.get("devices")
    if environ.get("JAX_LOCAL_DEVICE_IDS"):
        ids = environ["JAX_LOCAL_DEVICE_IDS"].split(",")
        devices = tuple(_whole(number, "JAX_LOCAL_DEVICE_IDS") for number in ids)
    return Cluster(fields["coordinator"], processes, process, devices)


def first_host(hosts: str) -> str:
    """The first of a SLURM node list: node[01-03,7] -> node01, rack[2-3]n[1-4],login -> rack2n1."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", hosts).split(",")[0]


def _slurm(environ: Mapping[str, str]) -> dict:
    # Of the job, not of the step, are SLURM_NTASKS and SLURM_NODELIST; the batch shell has no SLURM_STEP_ID.
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID")
    if "SLURM_STEP_ID" not in environ or environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return {}
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise UserError(f"this is task of a SLURM step, but {', '.join(missing)} is not set; start it with srun")
    job, step = (_whole(environ[name], name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return {
        "coordinator": f"{first_host(environ['SLURM_STEP_NODELIST'])}:{_port(job + 61 * step)}",
        "processes": environ["SLURM_STEP_NUM_TASKS"],
        "process": environ["SLURM_PROCID"],
        "devices": _own_gpus(environ, environ.get("SLURM_LOCALID"), _tasks_here(environ)),
    }


def _tasks_here(environ: Mapping[str, str]) -> str | None:
    """Tasks of the step on this host, of a list like 4,2(x3): four on the first host, two on each of the next three."""
    tasks = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        tasks += [count] * int(times or 1)
    node = _whole(environ.get("SLURM_NODEID") or "0", "SLURM_NODEID")
    return tasks[node] if node < len(tasks) else None


def _open_mpi(environ: Mapping[str, str]) -> dict:
    if environ.get("OMPI_COMM_WORLD_SIZE", "1") == "1":
        return {}
    # Both name the host where mpirun runs and process 0 with it: by address in version 4, by name in version 5.
    four = re.match(r"(\d+)\.\d+;(?:tcp://([^,:]+)|tcp6://\[([^],]+))", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    five = re.match(r"prterun-(.+)-(\d+)@", environ.get("PMIX_NAMESPACE", ""))
    coordinator = ""
    if four:
        # Jobs are numbered in steps of 2^12.
        coordinator = f"{four[2] or f'[{four[3]}]'}:{_port(int(four[1]) // 2**12)}"
    elif five:
        coordinator = f"{five[1]}:{_port(int(five[2]))}"
    return {
        "coordinator": coordinator,
        "processes": environ["OMPI_COMM_WORLD_SIZE"],
        "process": environ.get("OMPI_COMM_WORLD_RANK"),
        "devices": _own_gpus(
            environ, environ.get("OMPI_COMM_WORLD_LOCAL_RANK"), environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
        ),
    }


def _tpu(environ: Mapping[str, str]) -> dict:
    hosts = [host for host in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    slices = _whole(environ.get("MEGASCALE_NUM_SLICES") or "1", "MEGASCALE_NUM_SLICES")
    if len(hosts) * slices < 2:
        return {}
    worker = _whole(environ.get("TPU_WORKER_ID", ""), "TPU_WORKER_ID")
    slice_id = _whole(environ.get("MEGASCALE_SLICE_ID") or "0", "MEGASCALE_SLICE_ID")
    first = (environ.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]).split(":")[0]
    return {
        "coordinator": f"{first}:{_port(0)}",
        "processes": str(len(hosts) * slices),
        "process": str(slice_id * len(hosts) + worker),
    }


def _own_gpus(environ: Mapping[str, str], local: str | None, local_processes: str | None) -> tuple[int, ...] | None:
    """The visible GPUs that are process `local`'s among those of its host; None (all) where it is alone there."""
    here = _whole(local_processes or "1", "the number of this host's processes")
    if not local or here == 1:
        return None
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    count = len(visible.split(",")) if visible else here
    if count < here:
        return None  # already divided by who started the processes
    share = count // here
    return tuple(range(int(local) * share, (int(local) + 1) * share))


def _port(number: int) -> int:
    return 65536 - PORTS + number % PORTS


def _whole(text: str, name: str) -> int:
    if not re.fullmatch(r"\d+", str(text)):
        raise UserError(f"{name} is {text!r}; it must be a whole number")
    return int(text)


def split_address(coordinator: str) -> tuple[str, int]:
    """HOST:PORT or [IPV6]:PORT -> the two; UserError if it is neither."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator ({FLAGS['coordinator']}) is {coordinator!r}; it must be HOST:PORT of process 0")
    return host.strip("[]"), int(port)
