"""Each recipe whose networks have a reference implementation in PyTorch, beside it, one after the other."""

import json
import pathlib
import subprocess
import sys
import tempfile

from imagegen_jax import errors
from imagegen_jax import tables

# What is compared, and with what: the words behind python -m experiments.benchmark.
COMPARISONS = (
    ("--config=configs/ddpm.py", "--config.optimizer.name=adam", "--against=diffusers"),
    ("--config=configs/gan.py", "--against=torch"),
    ("--config=configs/vae.py:mnist", "--config.data.source=fashion_mnist_10k", "--against=torch"),
    ("--config=configs/cyclegan.py", "--config.network.upsampling=transposed", "--against=torch"),
)


def measure(words, comparisons=COMPARISONS):
    """The report of each comparison, of a process of its own, so that none finds another's memory and threads.

    Args:
      words: the command after 'python', such as ['-m', 'experiments.benchmark', '--repeats=20']; it is told what to compare
        and --out.
      comparisons: as COMPARISONS.

    Returns:
      [what it wrote, ...].

    Raises:
      errors.UserError: one failed, after it has said why.
    """
    reports = []
    for number, comparison in enumerate(comparisons, 1):
        print(f"{number} of {len(comparisons)}: {' '.join(comparison)}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "report.json"
            code = subprocess.run([sys.executable, *words, *comparison, f"--out={out}"], stdout=subprocess.DEVNULL).returncode
            if code:
                raise errors.UserError(
                    f"{' '.join(comparison)}: the comparison ended with exit code {code}; its error is above"
                )
            reports.append(json.loads(out.read_text()))
    return reports


def table(reports):
    """The reports of `measure` as lines of text: medians, and theirs / ours, which is above 1 where ours is faster."""
    lines = [["recipe", "train step", "of peak", "eager", "torch.compile", "forward pass", "load before"]]
    for report in reports:
        results, load = report["results"], report["machine"]["load_average"]
        peer = results["against"]
        compiled = peer.get("compiled_step_ms")
        lines.append(
            [
                report["recipe"],
                f"{peer['step_ms']['ours']['median']:.1f} ms",
                f"{results['fraction_of_peak']:.2f}",
                _beside(peer["step_ms"]),
                _beside(compiled) if compiled else "",
                _beside(peer["forward_ms"]),
                f"{load:.1f}",
            ]
        )
    return tables.aligned(lines)


def _beside(times):
    return f"{times['theirs']['median']:.1f} ms, {times['ratio']:.2f}"
