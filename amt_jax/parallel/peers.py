"""The processes of one run: how they find one another, and how all stop when one does.

jax.distributed alone leaves a person with a C++ stack trace, and lets a process that fails wait minutes for the others
at its exit. So every process also holds a plain TCP connection to process 0. The operating system closes it when a
process ends in any way, and then all others say who was lost and stop. Heartbeats of jax.distributed are left for hosts
that vanish without closing anything.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from amt_jax.errors import SharedError, UserError, report
from amt_jax.parallel.cluster import FLAGS, Cluster, detect, split_address

HEARTBEAT = 30  # seconds without a sign of life after which jax takes a host for lost
AGAIN = 75  # exit code when nothing has to be put right: start the same command again (EX_TEMPFAIL of sysexits.h)
PATIENCE = 2  # seconds in which the connection to a lost process must have told why a computation failed
LAST_WORDS = 0.5  # seconds after which our line is the last that a process writes
HELP = "start the same command again in every process: a training goes on from its last checkpoint"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Gives a command the flags that `connect` takes."""
    group = parser.add_argument_group(
        "several processes",
        "each is started with the same command; SLURM, Open MPI and launch/ say which is which, else these do",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", default="", help="where process 0 runs, and a free port")
    group.add_argument("--processes", metavar="N", type=int, default=0, help="how many there are")
    group.add_argument("--process", metavar="I", type=int, default=-1, help="which one this is, from 0")
    group.add_argument(
        "--connect-timeout", metavar="S", type=float, default=300, help="seconds to wait for all (default: %(default)g)"
    )


@contextlib.contextmanager
def connect(coordinator: str = "", processes: int = 0, process: int = -1, timeout: float = 300) -> Iterator[None]:
    """Joins the other processes of the run; must be entered before jax is used, and holds the whole run.

    A single process (nothing given, nothing in the environment) runs the block and that is all. Of several, all wait
    for one another at the start and at the end of the block. If one leaves it by an exception, or dies, every process
    prints one line about it as its last and exits at once, without waiting for anybody: with the code of the process
    that failed (2 if a person can put it right), or with `AGAIN` if a process was lost.

    Args:
      coordinator: HOST:PORT of process 0; this and the next two win over the environment (see `detect`).
      processes: how many; 0 is unknown, 1 is a process alone whatever the environment says.
      process: the number of this one; -1 is unknown.
      timeout: seconds to wait for the others at the start.

    Raises UserError if it is not clear which process this is, if process 0 cannot be reached, or if some never come.
    """
    if processes == 1:
        yield
        return
    given = {"coordinator": coordinator, "processes": processes or "", "process": process if process >= 0 else ""}
    cluster = detect(dict(os.environ) | {FLAGS[name]: str(value) for name, value in given.items() if value != ""})
    if cluster is None or cluster.processes == 1:
        yield
        return
    peers = Peers(cluster, timeout)
    try:
        peers.watch()
        _start_jax(cluster, peers.address, timeout)
        yield
        import jax

        jax.distributed.shutdown()  # returns when all have come here
    except BaseException as error:
        peers.fail(error)
    peers.leave()


class Peers:
    """The connections to the other processes: process 0 has one to each, the others have one to process 0.

    Attributes:
      address: HOST:PORT where jax's own service is to run.
    """

    def __init__(self, cluster: Cluster, timeout: float):
        """Waits until all processes are there; UserError in all of them if that takes over `timeout` seconds."""
        self._cluster = cluster
        self._me = f"process {cluster.process} of {cluster.processes} (on {socket.gethostname()})"
        self._connections = {}  # socket -> who is at the other end
        self._lock = threading.Lock()
        self._host, self._port = split_address(cluster.coordinator)
        deadline = time.monotonic() + timeout
        try:
            port = self._receive_all(deadline, timeout) if cluster.process == 0 else self._reach(deadline, timeout)
        except BaseException:
            self._close()
            raise
        self.address = f"{f'[{self._host}]' if ':' in self._host else self._host}:{port}"

    def _receive_all(self, deadline: float, timeout: float) -> int:
        """Process 0: accepts all others, then tells them the port of jax's service."""
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            server = socket.create_server(("", self._port), family=family, dualstack_ipv6=both, backlog=1024)
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen on port {self._port} of {socket.gethostname()} ({os.strerror(error.errno)}); "
                f"--coordinator ({FLAGS['coordinator']}) must name a free port"
            ) from None
        there, problem = {}, ""  # number of a process -> its connection
        with server:
            while len(there) < self._cluster.processes - 1 and not problem:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    missing = [str(i) for i in range(1, self._cluster.processes) if i not in there]
                    names = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
                    problem = (
                        f"{len(missing)} of {self._cluster.processes} processes did not come to {self._host}:"
                        f"{self._port} within {timeout:.0f} s, these: {names}; see whether they run, and were given "
                        f"the same --coordinator ({FLAGS['coordinator']})"
                    )
                    break
                connection.settimeout(10)
                hello = _read(connection)
                if not hello or [type(hello.get(name)) for name in ("process", "processes", "host")] != [int, int, str]:
                    connection.close()  # somebody else, who looked what is on this port
                    continue
                connection.settimeout(None)
                number, name = hello["process"], f"process {hello['process']} (on {hello['host']})"
                if number in there or len(there) == self._cluster.processes - 2:
                    # Those that died while they waited are to be started again.
                    for lost in [each for each in there if _is_closed(there[each])]:
                        del self._connections[there[lost]]
                        there.pop(lost).close()
                self._connections[connection] = name
                if hello["processes"] != self._cluster.processes:
                    problem = f"{name} was told of {hello['processes']} processes, {self._me} of another number"
                elif number == 0 or number in there:
                    first = self._connections[there[number]] if number else self._me
                    problem = f"two processes were given the number {number}: {first} and {name}"
                there[number] = connection
        if problem:
            self._tell({"code": 2, "text": problem})
            raise UserError(problem)
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        self._tell({"port": port})
        return port

    def _reach(self, deadline: float, timeout: float) -> int:
        """The others: connect to process 0, say who they are, and learn the port of jax's service."""
        name = f"process 0 at {self._host}:{self._port}"
        hello = {"process": self._cluster.process, "processes": self._cluster.processes, "host": socket.gethostname()}
        while True:
            try:
                connection = socket.create_connection((self._host, self._port), timeout=10)
                self._connections = {connection: name}
                self._tell(hello)
                # Process 0 gives up first, and says why.
                connection.settimeout(max(deadline - time.monotonic(), 0) + 10)
                answer = _read(connection) or {}
                connection.settimeout(None)
                if "port" in answer:
                    return answer["port"]
                if "text" in answer:
                    raise UserError(answer["text"])
                self._close()
                problem = "it does not answer"
            except OSError as error:
                problem = error.strerror or str(error)
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self._me} could not reach {name} within {timeout:.0f} s ({problem}); "
                    f"check --coordinator ({FLAGS['coordinator']}), and whether process 0 runs there"
                )
            time.sleep(0.2)

    def watch(self) -> None:
        """From now on ends this process when another one is lost or failed."""
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        # jax ends a process by abort() when its service finds another one lost. The callback is kept alive here.
        self._aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._on_abort)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._aborted)

    def _watch(self) -> None:
        selector = selectors.DefaultSelector()
        for connection, name in self._connections.items():
            selector.register(connection, selectors.EVENT_READ, name)
        while selector.get_map():
            for key, _ in selector.select():
                selector.unregister(key.fileobj)
                message = _read(key.fileobj)
                if message is None:
                    message = {"code": AGAIN, "text": f"lost contact with {key.data}; {HELP}"}
                if "text" in message:
                    self._end(message)

    def _on_abort(self, number: int) -> None:
        time.sleep(PATIENCE)
        why = "for the reason in its output, most often because it lost contact with another process"
        self._end({"code": AGAIN, "text": f"{self._me} was ended by jax {why}; {HELP}"})

    def fail(self, error: BaseException) -> None:
        """Prints the error, tells the others, and ends this process."""
        if not isinstance(error, UserError | OSError | KeyboardInterrupt):
            # Perhaps a collective that broke because a process is lost: then its connection ends this one, and says so.
            time.sleep(PATIENCE)
        self._lock.acquire()
        code = report(error)
        text = str(error) if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {error}"
        line = text.partition("\n")[0][:1000]
        self._tell({} if isinstance(error, SharedError) else {"code": code, "text": f"{self._me} stopped: {line}"})
        self._linger()
        _exit(code)

    def leave(self) -> None:
        """Tells the others that this process ends as it should."""
        self._lock.acquire()
        self._tell({})
        self._watcher.join(PATIENCE)  # until the others have said the same
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        self._close()

    def _close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _end(self, message: dict) -> None:
        self._lock.acquire()  # for good: one thread has the last word
        self._tell(message)
        if self._cluster.process:
            time.sleep(LAST_WORDS)
        self._linger()
        # Now, after what jax wrote about the same, and what the main thread was just saying.
        os.write(2, f"\nerror: {message['text']}\n".encode())
        os._exit(message["code"])

    def _linger(self) -> None:
        # With process 0 goes jax's service, of which the jax of all others would write at length.
        if self._cluster.process == 0:
            time.sleep(2 * LAST_WORDS)

    def _tell(self, message: dict) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket) -> dict | None:
    """One message, or None if there comes none or something else."""
    data = b""
    try:
        while not data.endswith(b"\n"):
            received = connection.recv(1)  # not more: the next message is for the next call
            if not received or len(data) > 10_000:
                return None
            data += received
        message = json.loads(data)
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other end is gone; it must not have sent anything."""
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.setblocking(True)


def _start_jax(cluster: Cluster, address: str, timeout: float) -> None:
    import jax

    # The other processes are never behind the proxy to the outside.
    os.environ["no_grpc_proxy"] = split_address(address)[0]  # noqa: SIM112 (gRPC reads this spelling)
    jax.config.update("jax_check_proxy_envs", False)
    # Its SIGTERM handler would take the place of the one that saves.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            cluster.processes,
            cluster.process,
            local_device_ids=cluster.devices,
            cluster_detection_method="deactivate",
            initialization_timeout=max(int(timeout), 1),
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except RuntimeError as error:
        raise UserError(
            f"jax's own service at {address} cannot be reached ({str(error).splitlines()[0][:200]}); "
            f"process 0 needs this port free and open to all hosts, besides that of --coordinator"
        ) from error


def _exit(code: int) -> None:
    """Ends the process now: the usual exit would wait for the other processes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
