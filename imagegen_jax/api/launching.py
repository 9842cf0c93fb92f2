"""Several processes of one command on this machine, joined by JAX's multi-host runtime as those of several hosts are."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from imagegen_jax import errors

_GRACE = 30.0  # seconds from SIGTERM to SIGKILL, once another process has failed
_POLL = 0.1  # seconds


def launch(words, processes, devices=1, stdout=None):
    """Runs a command in so many processes until all have ended.

    Process 0 writes to the terminal as if it were alone; what another says has its number in front. SIGTERM and SIGINT go to
    all of them, which save and stop together. When one fails, the others are stopped: without it they would wait for ever.

    Args:
      words: the command after 'python', such as ['-m', 'experiments.main', '--config=…'].
      processes: how many.
      devices: of each; on CPUs they are made, of the machine's GPUs, or those in CUDA_VISIBLE_DEVICES, process i gets the i-th
        so many.
      stdout: what takes its place for process 0, as of subprocess.Popen.

    Returns:
      0, or the exit code of the process that failed first; 1 where a signal ended it.

    Raises:
      errors.UserError: a process cannot be started, or there are too few GPUs.
    """
    gpus = _gpus(processes * devices)
    with contextlib.ExitStack() as stack:
        address = f"localhost:{_free_port()}"
        children = []
        for i in range(processes):
            flags = [f"--coordinator={address}", f"--num_processes={processes}", f"--process_id={i}"]
            try:
                child = subprocess.Popen(
                    [sys.executable, *words, *flags],
                    env=os.environ | _environment(devices, gpus[i * devices :][:devices]),
                    start_new_session=True,  # a terminal's Ctrl-C comes from here, once
                    **(dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) if i else dict(stdout=stdout)),
                )
            except OSError as error:
                raise errors.UserError(f"process {i} cannot be started: {error.strerror or error}") from error
            stack.callback(_end, child)
            children.append(child)
        readers = [threading.Thread(target=_pass_on, args=(i, child)) for i, child in enumerate(children) if i]
        for reader in readers:
            reader.start()
        stack.enter_context(_forwarded(children))
        failed = _wait(children)
        if failed is not None:
            code = children[failed].returncode
            print(f"process {failed} {_ended(code)}: stopping the others", file=sys.stderr)
            _stop(children)
        for reader in readers:
            reader.join()
    return 0 if failed is None else max(code, 1)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _gpus(num):
    """Names of so many GPUs: of those that CUDA_VISIBLE_DEVICES has, or else the first. Raises errors.UserError."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else list(map(str, range(num)))
    if len(names) < num:
        raise errors.UserError(
            f"{num} devices are asked for, and CUDA_VISIBLE_DEVICES={given} names {len(names)}: ask for fewer"
        )
    return names


def _environment(devices, gpus):
    """What a process with so many devices, or these GPUs, finds in its environment."""
    others = re.sub(r"--xla_force_host_platform_device_count=\S*", "", os.environ.get("XLA_FLAGS", ""))
    return {
        "XLA_FLAGS": f"{others} --xla_force_host_platform_device_count={devices}".strip(),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }


def _pass_on(i, child):
    for line in child.stdout:
        sys.stderr.write(f"[{i}] {line.decode(errors='backslashreplace')}")
        sys.stderr.flush()


@contextlib.contextmanager
def _forwarded(children):
    """While it is entered, SIGTERM and SIGINT go to the children."""

    def forward(number, frame):
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(children):
    """The number of the first that fails; None when all have ended well."""
    while any(child.poll() is None for child in children):
        for i, child in enumerate(children):
            if child.poll():
                return i
        time.sleep(_POLL)
    return next((i for i, child in enumerate(children) if child.returncode), None)


def _stop(children):
    for child in children:
        if child.poll() is None:
            child.terminate()
    end = time.monotonic() + _GRACE
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0, end - time.monotonic()))


def _end(child):
    if child.poll() is None:
        child.kill()
        child.wait()


def _ended(code):
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
