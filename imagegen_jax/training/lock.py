"""A run's folder belongs to one training at a time."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import progress

_LOCK = "lock"


@contextlib.contextmanager
def owned(workdir):
    """Holds a run's folder, which is made, for this process and those that train with it.

    The kernel gives the lock up when the process ends, however it ends. Other hosts see it as far as their file system passes
    flock on, as NFS 4 does. A folder in which nothing was written is removed again. Where nothing can be written at all there
    is nothing to hold, and a file system without locks, as object storages are, is a note on stderr.

    Raises:
      errors.UserError: another training holds it, or the folder cannot be made.
    """
    if files.is_remote(workdir := files.to_path(workdir)):
        progress.tell(f"note: {workdir} cannot be locked: see that nothing else trains there")
        yield
        return
    workdir = workdir.absolute()
    with contextlib.ExitStack() as held:
        error = None
        if jax.process_index() == 0:
            try:
                held.enter_context(_folder(workdir))
                held.enter_context(_locked(workdir))
            except errors.UserError as raised:
                error = raised
        if jax.process_count() > 1 and not multihost_utils.broadcast_one_to_all(np.array(error is None)):
            error = error or errors.UserError(f"process 0 cannot train in {workdir}")
        if error:
            raise error
        yield


@contextlib.contextmanager
def _folder(workdir):
    missing = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"cannot write to the workdir {workdir}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def _locked(workdir):
    path = workdir / _LOCK
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise errors.UserError(f"cannot write to the workdir {workdir}: {error.strerror or error}") from error
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(file, 500, 0).decode(errors="replace").strip()
            os.close(file)
            raise errors.UserError(
                f"{workdir} is being trained by {owner or 'another process'}: wait for its end, or choose another --workdir"
            ) from error
        except OSError as error:
            print(f"note: {workdir} cannot be locked ({error.strerror}): see that nothing else trains there", file=sys.stderr)
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                break
        os.close(file)  # its owner ended between the two calls, and took the file along
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode(), 0)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)
