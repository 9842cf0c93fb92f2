"""Files that are there as a whole or not at all."""

import contextlib
import os
import pathlib

from imagegen_jax import errors


@contextlib.contextmanager
def draft(path, complaint=None):
    """A place to write to; what lies there when the block ends without an exception takes the place of `path`.

    with files.draft(path) as aside:
        aside.write_text(text)

    Args:
      path: of the file, whose folder is made.
      complaint: how the error begins; by default 'cannot write <path>'.

    Yields:
      A hidden pathlib.Path in the same folder. It is gone afterwards, whatever happens.

    Raises:
      errors.UserError: the file cannot be written, '<complaint>: <reason>'. Any OSError in the block counts as that.
    """
    path = pathlib.Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.draft")  # two processes that write one file each write a whole one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except OSError as error:
        raise errors.UserError(f"{complaint or f'cannot write {path}'}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
