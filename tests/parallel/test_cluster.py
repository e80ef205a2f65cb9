"""Environments as SLURM, Open MPI, Kubernetes and TPU slices document or show them -> which process this is."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amt_jax.errors import UserError
from amt_jax.parallel.cluster import Cluster, detect, first_host


def environment(text: str) -> dict[str, str]:
    return dict(line.strip().split("=", 1) for line in text.strip().splitlines())


# srun -N1 -n4 env, task 1
SLURM_ONE_NODE = environment("""
    SLURMD_NODENAME=t-cn0117
    SLURM_CPUS_ON_NODE=4
    SLURM_DISTRIBUTION=block
    SLURM_GTIDS=0,1,2,3
    SLURM_JOBID=901593
    SLURM_JOB_CPUS_PER_NODE=4
    SLURM_JOB_ID=901593
    SLURM_JOB_NAME=train.sh
    SLURM_JOB_NODELIST=t-cn0117
    SLURM_JOB_NUM_NODES=1
    SLURM_LAUNCH_NODE_IPADDR=130.239.244.116
    SLURM_LOCALID=1
    SLURM_NNODES=1
    SLURM_NODEID=0
    SLURM_NODELIST=t-cn0117
    SLURM_NPROCS=4
    SLURM_NTASKS=4
    SLURM_PRIO_PROCESS=0
    SLURM_PROCID=1
    SLURM_SRUN_COMM_HOST=130.239.244.116
    SLURM_SRUN_COMM_PORT=33360
    SLURM_STEPID=0
    SLURM_STEP_ID=0
    SLURM_STEP_LAUNCHER_PORT=33360
    SLURM_STEP_NODELIST=t-cn0117
    SLURM_STEP_NUM_NODES=1
    SLURM_STEP_NUM_TASKS=4
    SLURM_STEP_TASKS_PER_NODE=4
    SLURM_TASKS_PER_NODE=4
""")
# srun --ntasks-per-node=1 -N3, the task on the third node
SLURM_TASK_A_NODE = SLURM_ONE_NODE | environment("""
    SLURM_JOB_NODELIST=gpu[008-009,114],login1
    SLURM_STEP_NODELIST=gpu[008-009,114]
    SLURM_STEP_NUM_NODES=3
    SLURM_STEP_NUM_TASKS=3
    SLURM_STEP_TASKS_PER_NODE=1(x3)
    SLURM_NTASKS=4
    SLURM_PROCID=2
    SLURM_LOCALID=0
    CUDA_VISIBLE_DEVICES=0,1,2,3
""")
# The shell that sbatch --ntasks=4 starts: a PROCID, but no step
SLURM_BATCH = environment("""
    SLURM_JOB_ID=901593
    SLURM_JOB_NODELIST=t-cn0117
    SLURM_LOCALID=0
    SLURM_NODEID=0
    SLURM_NTASKS=4
    SLURM_PROCID=0
    SLURM_SUBMIT_HOST=login1
""")
# salloc with LaunchParameters=use_interactive_step
SLURM_INTERACTIVE = SLURM_BATCH | environment("""
    SLURM_STEP_ID=4294967290
    SLURM_STEP_NODELIST=t-cn0117
    SLURM_STEP_NUM_TASKS=1
    SLURM_STEP_TASKS_PER_NODE=1
""")
# mpirun of Open MPI 4
OPEN_MPI_4 = environment("""
    OMPI_MCA_orte_hnp_uri=1531576320.0;tcp://10.96.0.1,10.148.0.1,10.108.0.1:34911
    OMPI_COMM_WORLD_SIZE=8
    OMPI_COMM_WORLD_RANK=5
    OMPI_COMM_WORLD_LOCAL_SIZE=4
    OMPI_COMM_WORLD_LOCAL_RANK=1
    OMPI_COMM_WORLD_NODE_RANK=1
    OMPI_UNIVERSE_SIZE=8
""")
# mpirun of Open MPI 5 (PRRTE)
OPEN_MPI_5 = environment("""
    PRTE_LAUNCHED=1
    PMIX_NAMESPACE=prterun-lrdn-0249-1384567@1
    PMIX_RANK=1
    PMIX_SERVER_URI41=prterun-lrdn-0249-1384567@0.1;tcp4://10.1.2.4:46281
    PMIX_HOSTNAME=lrdn-0250
    OMPI_COMM_WORLD_SIZE=2
    OMPI_WORLD_SIZE=2
    OMPI_MCA_num_procs=2
    OMPI_COMM_WORLD_RANK=1
    OMPI_COMM_WORLD_LOCAL_RANK=0
    OMPI_COMM_WORLD_LOCAL_SIZE=1
    OMPI_COMM_WORLD_NODE_RANK=0
""")
# A pod of launch/kubernetes/jobset.yaml
KUBERNETES = environment("""
    KUBERNETES_SERVICE_HOST=10.96.0.1
    HOSTNAME=amt-train-workers-0-1
    JOB_COMPLETION_INDEX=1
    JAX_COORDINATOR_ADDRESS=amt-train-workers-0-0.amt-train:8476
    JAX_NUM_PROCESSES=2
""")
# A v5e 4x4 slice on GKE
TPU_SLICE = environment("""
    TPU_WORKER_ID=2
    TPU_WORKER_HOSTNAMES=s-0-0.s,s-0-1.s,s-0-2.s,s-0-3.s
    TPU_ACCELERATOR_TYPE=v5litepod-16
    TPU_TOPOLOGY=4x4
""")
TPU_TWO_SLICES = TPU_SLICE | environment("""
    MEGASCALE_COORDINATOR_ADDRESS=s-0-0.s:8080
    MEGASCALE_NUM_SLICES=2
    MEGASCALE_SLICE_ID=1
""")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        # 901593 % 4096 = 473, 65536 - 4096 = 61440
        (SLURM_ONE_NODE, Cluster("t-cn0117:61913", 4, 1, (1,))),
        (SLURM_ONE_NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, Cluster("t-cn0117:61913", 4, 1, (2, 3))),
        (SLURM_ONE_NODE | {"CUDA_VISIBLE_DEVICES": "3"}, Cluster("t-cn0117:61913", 4, 1, None)),  # --gpus-per-task=1
        (SLURM_ONE_NODE | {"SLURM_STEP_ID": "2"}, Cluster("t-cn0117:62035", 4, 1, (1,))),
        (SLURM_TASK_A_NODE, Cluster("gpu008:61913", 3, 2, None)),
        # four tasks on the first host, two on each of the next two: this is one of those
        (
            SLURM_ONE_NODE
            | {"SLURM_STEP_TASKS_PER_NODE": "4,2(x2)", "SLURM_NODEID": "2", "SLURM_STEP_NUM_TASKS": "8"}
            | {"SLURM_PROCID": "7", "CUDA_VISIBLE_DEVICES": "0,1,2,3"},
            Cluster("t-cn0117:61913", 8, 7, (2, 3)),
        ),
        (SLURM_BATCH, None),
        (SLURM_INTERACTIVE, None),
        # mpirun in a SLURM job starts its own daemons as one step of SLURM
        (SLURM_TASK_A_NODE | OPEN_MPI_4, Cluster("10.96.0.1:62624", 8, 5, (1,))),
        (OPEN_MPI_4, Cluster("10.96.0.1:62624", 8, 5, (1,))),
        (OPEN_MPI_4 | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp6://[fe::1,fe::2]:4"}, Cluster("[fe::1]:61441", 8, 5, (1,))),
        (OPEN_MPI_4 | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (OPEN_MPI_5, Cluster("lrdn-0249:61559", 2, 1, None)),
        (KUBERNETES, Cluster("amt-train-workers-0-0.amt-train:8476", 2, 1, None)),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "JOB_COMPLETION_INDEX": "1"}, None),  # a job of single processes
        (TPU_SLICE, Cluster("s-0-0.s:61440", 4, 2, None)),
        (TPU_TWO_SLICES, Cluster("s-0-0.s:61440", 8, 6, None)),
        (TPU_SLICE | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"HOME": "/home/me"}, None),
        # What is said in so many words wins.
        (SLURM_ONE_NODE | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99"}, Cluster("10.0.0.1:99", 4, 1, (1,))),
        (SLURM_ONE_NODE | {"JAX_LOCAL_DEVICE_IDS": "4,5"}, Cluster("t-cn0117:61913", 4, 1, (4, 5))),
        (KUBERNETES | {"JAX_PROCESS_ID": "0"}, Cluster("amt-train-workers-0-0.amt-train:8476", 2, 0, None)),
    ],
)  # fmt: skip
def test_recorded_environments(environ, expected):
    assert detect(environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "no --coordinator (JAX_COORDINATOR_ADDRESS) and no --process (JAX_PROCESS_ID)"),
        (KUBERNETES | {"JAX_NUM_PROCESSES": ""}, "there is no --processes (JAX_NUM_PROCESSES)"),
        (KUBERNETES | {"JAX_PROCESS_ID": "2"}, "process 2 of 2 cannot be"),
        (KUBERNETES | {"JAX_PROCESS_ID": "-1"}, "--process (JAX_PROCESS_ID) is '-1'; it must be a whole number"),
        (KUBERNETES | {"JAX_COORDINATOR_ADDRESS": "node01"}, "is 'node01'; it must be HOST:PORT"),
        (KUBERNETES | {"JAX_COORDINATOR_ADDRESS": "node01:99999"}, "it must be HOST:PORT"),
        (KUBERNETES | {"JAX_LOCAL_DEVICE_IDS": "all"}, "JAX_LOCAL_DEVICE_IDS is 'all'"),
        ({n: v for n, v in SLURM_ONE_NODE.items() if n != "SLURM_PROCID"}, "SLURM_PROCID is not set; start it"),
        (SLURM_ONE_NODE | {"SLURM_PROCID": "4"}, "process 4 of 4 cannot be"),
        ({n: v for n, v in OPEN_MPI_5.items() if n != "PMIX_NAMESPACE"}, "there is no --coordinator"),
        ({n: v for n, v in TPU_SLICE.items() if n != "TPU_WORKER_ID"}, "TPU_WORKER_ID is ''"),
    ],
)  # fmt: skip
def test_variables_that_are_half_set_or_disagree_are_named(environ, expected):
    with pytest.raises(UserError) as error:
        detect(environ)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node01", "node01"),
        ("node01,node02", "node01"),
        ("node[01-03,7],login", "node01"),
        ("node[7,9-12]", "node7"),
        ("rack[2-3]n[1-4]-ib,other", "rack2n1-ib"),
        ("c5n-st-c5n18xlarge-[1-2]", "c5n-st-c5n18xlarge-1"),
    ],
)
def test_first_host_of_a_node_list(hosts, first):
    assert first_host(hosts) == first


@given(
    prefix=st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True),
    numbers=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=4),
    width=st.integers(1, 4),
)
def test_first_host_of_any_bracket(prefix, numbers, width):
    parts = [f"{a:0{width}}" if a == b else f"{a:0{width}}-{b:0{width}}" for a, b in numbers]
    assert first_host(f"{prefix}[{','.join(parts)}],last") == f"{prefix}{numbers[0][0]:0{width}}"


NAMES = sorted(set(SLURM_TASK_A_NODE | OPEN_MPI_4 | OPEN_MPI_5 | KUBERNETES | TPU_TWO_SLICES))


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=12) | st.integers(0, 9).map(str)))
def test_any_environment_is_a_place_or_nothing_or_one_clear_error(environ):
    with contextlib.suppress(UserError):
        found = detect(environ)
        assert found is None or 0 <= found.process < found.processes
