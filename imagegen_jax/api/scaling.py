"""How the train step of a recipe takes to devices and processes, each way in processes of its own."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

from imagegen_jax import errors
from imagegen_jax import tables
from imagegen_jax.api import launching


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a training lies.

    Attributes:
      processes: how many.
      devices: of each.
      preset: config.sharding.preset.
    """

    processes: int
    devices: int
    preset: str

    def __str__(self):
        return f"processes: {self.processes}, devices of each: {self.devices}, {self.preset}"


LAYOUTS = (
    *(Layout(1, n, "replicate") for n in (1, 2, 4, 8)),
    *(Layout(1, n, preset) for preset in ("zero1", "fsdp") for n in (2, 4, 8)),
    *(Layout(n, 1, "replicate") for n in (2, 4)),
    Layout(4, 1, "fsdp"),
)


def measure(words, layouts=LAYOUTS):
    """The steps of a recipe in each layout, one after the other.

    Args:
      words: the command after 'python' that measures the steps and writes them, such as ['-m', 'experiments.benchmark',
        '--config=…', '--steps_only']; it is told the layout and --out.
      layouts: the first of them is what the others are compared with.

    Returns:
      [{'processes', 'devices', 'preset', **what it wrote under 'results', 'loss_difference', 'gradient_difference'}, ...]: the
      greatest difference of one of the first losses, and of one of the first step's norms of gradients, from that of the first
      layout, relative to it. A layout that the machine has too few devices for has no results.

    Raises:
      errors.UserError: a measurement failed, after it has said why.
    """
    rows = []
    for number, layout in enumerate(layouts, 1):
        print(f"{number} of {len(layouts)}: {layout}", file=sys.stderr)
        rows.append(dataclasses.asdict(layout) | _one(words, layout))
    first = rows[0]
    for row in rows:
        if "losses" in first and "losses" in row:
            row["loss_difference"] = _difference(row["losses"], first["losses"])
            row["gradient_difference"] = _difference(*(one["gradient_norms"].values() for one in (row, first)))
    return rows


def _difference(found, expected):
    """The greatest, relative to what is expected."""
    return max((abs(ours - own) / abs(own) for ours, own in zip(found, expected, strict=True) if own), default=0.0)


def _one(words, layout):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "steps.json"
        words = [*words, f"--config.sharding.preset={layout.preset}", f"--out={out}"]
        code = launching.launch(words, layout.processes, layout.devices, stdout=subprocess.DEVNULL)
        if code:
            raise errors.UserError(f"{layout}: the measurement ended with exit code {code}; its error is above")
        report = json.loads(out.read_text())
    enough = report["machine"]["device_count"] == layout.processes * layout.devices
    return report["results"] if enough else {}


def table(rows):
    """The rows of `measure` as lines of text; memory and what is exchanged are those of a device."""
    sizes = ("state, MB", "temporaries, MB", "exchanged, MB")
    lines = [["processes", "devices", "sharding", "step, ms", *sizes, "losses differ by", "gradients"]]
    for row in rows:
        lines.append([str(row["processes"]), str(row["devices"]), row["preset"]])
        if "step_ms" in row:
            sizes = (row["state_bytes"], row["step_temporary_bytes"], sum(row["step_collective_bytes"].values()))
            lines[-1] += [f"{row['step_ms']['median']:.1f}", *(f"{size / 1e6:.2f}" for size in sizes)]
            lines[-1] += [f"{row[name]:.1e}" for name in ("loss_difference", "gradient_difference")]
        else:
            lines[-1] += ["too few devices here"] + [""] * 5
    return tables.aligned(lines)
