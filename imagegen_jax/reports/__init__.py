"""Pages about runs: one HTML file each, with everything in it and nothing to fetch or execute."""

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.reports import boards
from imagegen_jax.reports import run_page


def report(workdir, out=None):
    """Writes the page of a run (run_page.of_run).

    Args:
      workdir: the run's folder.
      out: where to, a path ending in .html; by default report.html in the workdir.

    Returns:
      The path.

    Raises:
      errors.UserError: `out` is no such path or cannot be written, or as `history.read` does.
    """
    return _write(out or files.to_path(workdir) / "report.html", lambda: run_page.of_run(workdir))


def leaderboard(names, out=None):
    """Writes the leaderboard of several runs (boards.of_runs).

    Args:
      names: folders of runs, or patterns such as 'runs/*'.
      out: where to, a path ending in .html; by default leaderboard.html in the current folder.

    Returns:
      The path.

    Raises:
      errors.UserError: as `report` does; there is no run among them, or none of them is scored.
    """
    return _write(out or "leaderboard.html", lambda: boards.of_runs(boards.find(names)))


def _write(out, make):
    if files.to_path(out).suffix != ".html" or files.to_path(out).is_dir():
        raise errors.UserError(f"--out={out}: give a file, a path ending in .html")
    page = make()
    with files.atomic_write(out, f"--out={out}: cannot write it") as temporary:
        temporary.write_text(page, "utf-8", errors="replace")  # names of files need not be text
    return out
