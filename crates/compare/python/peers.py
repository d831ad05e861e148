"""The Python packages that callgate descends from, and what they are made of, under the same workload.

    peers.py prepare DIRECTORY          a virtual environment there, with cross-process-bridge
    peers.py run NAME CALLER CALLEE     measures, as stdin asks: the CPUs are numbers, or `any`

`run` answers each line of stdin with one line of JSON: to `add NANOS` (or `greet`, `echo`) the nanoseconds of every
call that was made in that time, to `verify` an empty list; or an object with an `error`. It ends with stdin.
"""

import ctypes
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Client, Listener

PACKAGE = "cross-process-bridge==1.0.2"
NAME = "a name of thirty-two characters."
BYTES = b"\x07" * 4096


class Counter:
    """The service of the workload."""

    def __init__(self):
        self.total = 0

    def add(self, n):
        self.total += n
        return self.total

    def greet(self, name):
        return name + "!"

    def sum(self, numbers):
        return sum(numbers) % 2**64

    def record(self, record):
        return {**record, "id": record["id"] + 1}

    def echo(self, data):
        return data

    def work(self, nanos):
        end = time.perf_counter_ns() + nanos
        while time.perf_counter_ns() < end:
            pass


class SettledCounter(Counter):
    """A counter that settles in the process where it is made."""

    def __init__(self, cpu):
        super().__init__()
        settle(cpu)


def settle(cpu):
    """Pins this process, and makes it die with its parent."""
    if cpu != "any":
        os.sched_setaffinity(0, {int(cpu)})
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def start_bridge(cpu):
    """As its README says: a class of both, then `start`. Returns the instance and how to stop it."""
    from cross_process_bridge import CrossProcessBridge

    class Bridge(SettledCounter, CrossProcessBridge):
        pass

    bridge = Bridge(cpu)
    bridge.start()
    return bridge, bridge.stop


def start_manager(cpu):
    """As the standard library's documentation says under "Customized managers"."""
    from multiprocessing.managers import SyncManager

    SyncManager.register("Counter", Counter)
    manager = SyncManager()
    manager.start(settle, (cpu,))
    return manager.Counter(), manager.shutdown


KEY = b"a key that both processes have"


def serve_connections(cpu, ready):
    """Answers one call on each connection, after the challenge of the standard library."""
    settle(cpu)
    counter = Counter()
    with Listener(None, "AF_UNIX", backlog=16, authkey=KEY) as listener:
        ready.send(listener.address)
        while True:
            with listener.accept() as connection:
                name, arguments = connection.recv()
                connection.send(getattr(counter, name)(*arguments))


class Connecting:
    """Makes a connection for each call."""

    def __init__(self, address):
        self.address = address

    def __getattr__(self, name):
        def call(*arguments):
            with Client(self.address, authkey=KEY) as connection:
                connection.send((name, arguments))
                return connection.recv()

        return call


def start_connections(cpu):
    """As `xpc` crosses processes: each call connects, and either side challenges the other. Over a Unix socket, which is faster than its TCP."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=serve_connections, args=(cpu, there), daemon=True)
    process.start()
    return Connecting(here.recv()), process.terminate


PEERS = {
    "cross-process-bridge": start_bridge,
    "multiprocessing.Manager": start_manager,
    "multiprocessing.connection": start_connections,
}


class Calls:
    """The measured calls: each returns what one took, and looks at the answer afterwards."""

    def __init__(self, counter):
        self.counter = counter
        self.total = counter.add(0)

    def add(self):
        begin = time.perf_counter_ns()
        total = self.counter.add(1)
        end = time.perf_counter_ns()
        self.total += 1
        check(total == self.total, "add")
        return end - begin

    def greet(self):
        begin = time.perf_counter_ns()
        greeting = self.counter.greet(NAME)
        end = time.perf_counter_ns()
        check(greeting == NAME + "!", "greet")
        return end - begin

    def echo(self):
        begin = time.perf_counter_ns()
        answer = self.counter.echo(BYTES)
        end = time.perf_counter_ns()
        check(answer == BYTES, "echo")
        return end - begin

    def batch(self, call, nanos):
        end = time.perf_counter_ns() + nanos
        times = [call()]
        while time.perf_counter_ns() < end:
            times.append(call())
        return times

    def verify(self):
        counter = self.counter
        total = counter.add(0)
        check(counter.add(2) == total + 2, "add")
        self.total = total + 2
        check(counter.greet(NAME) == NAME + "!", "greet")
        check(counter.greet("") == "!", "greet")
        check(counter.sum([2**64 - 1, 43]) == 42, "sum")
        record = {"id": 41, "parent": None, "name": "a window with a title"}
        check(counter.record(record) == {**record, "id": 42}, "record")
        for length in (0, 1, 1000, 100_000):
            data = bytes(at % 256 for at in range(length))
            check(counter.echo(data) == data, "echo")
        begin = time.perf_counter_ns()
        counter.work(200_000)
        check(time.perf_counter_ns() - begin >= 200_000, "work")
        return []


def check(is_right, call):
    if not is_right:
        raise AssertionError(f"`{call}` was answered wrongly")


def run(name, caller, callee):
    settle(caller)
    counter, stop = PEERS[name](callee)
    try:
        calls = Calls(counter)
        for line in sys.stdin:
            print(json.dumps(obey(calls, line.split())), flush=True)
    finally:
        stop()


def obey(calls, order):
    try:
        if order[0] == "verify":
            return calls.verify()
        return calls.batch(getattr(calls, order[0]), int(order[1]))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def prepare(directory):
    """Makes the environment, unless it is there; one process at a time."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = os.path.join(directory, PACKAGE)
        if os.path.exists(done):
            return
        environment = os.path.join(directory, "venv")
        command("python3 -m venv", [sys.executable, "-m", "venv", "--clear", environment])
        pip = [os.path.join(environment, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "install"]
        command(f"pip install {PACKAGE}", [*pip, "--quiet", "--timeout", "15", "--retries", "1", PACKAGE])
        open(done, "w").close()


def command(name, words):
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"`{name}` failed: {error}")
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        sys.exit(f"`{name}` failed: {lines[-1]}")


if __name__ == "__main__":
    {"prepare": prepare, "run": run}[sys.argv[1]](*sys.argv[2:])
