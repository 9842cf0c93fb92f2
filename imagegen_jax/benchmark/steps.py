"""What is measured of a compiled step, whatever it computes."""

import collections
from collections.abc import Callable
import dataclasses
import math
import re
import resource
import sys
import time
from typing import Any
from typing import Protocol

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax.benchmark import timing
from imagegen_jax.training import compiler

_COLLECTIVE = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_MATMUL_SIZES = (512, 1024, 2048, 4096, 8192)
_MATMUL_SECONDS = 0.1  # a product that takes so long has the device busy: a larger one would be no faster


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function and its costs.

    Attributes:
      call: the jax.stages.Compiled.
      compile_seconds: what tracing and compiling took.
      flops: of one call on one device, as the compiler counts them; it counts the body of a loop once.
      temporary_bytes: what a call needs on one device beside its arguments, as the compiler plans it.
      collective_bytes: {'all-reduce': bytes of their results on one device, ...} of one call; the body of a loop once.
    """

    call: Any
    compile_seconds: float
    flops: float
    temporary_bytes: int
    collective_bytes: dict[str, int]

    @classmethod
    def compile(cls, compile_fn: Callable[[], Any]):
        """The Program of the jax.stages.Compiled that `compile_fn` makes, anew only without a cache of compiled programs."""
        begin = time.perf_counter()
        call = compile_fn()
        seconds = time.perf_counter() - begin
        costs, memory = call.cost_analysis(), call.memory_analysis()
        return cls(call, seconds, costs["flops"], memory.temp_size_in_bytes, collective_bytes(call.as_text()))


def collective_bytes(program: str) -> dict[str, int]:
    """{'all-reduce': bytes of their results, ...} of a compiled program's text, in HLO."""
    found = collections.Counter()
    for shapes, kind in _COLLECTIVE.findall(program):
        for dtype, sides in _SHAPE.findall(shapes):
            bits = int(re.search(r"\d+", dtype)[0]) if dtype != "pred" else 8
            found[kind] += math.prod(map(int, filter(None, sides.split(",")))) * bits // 8
    return dict(found)


class Step(Protocol):
    """Does the same work at each call, and returns when it is done.

    Attributes:
      program: the Program of one step.
      images: how many a step takes.
      dtype: the name of that which it computes in.
      parameters: how many numbers are learned.
    """

    program: Program
    images: int
    dtype: str
    parameters: int

    def __call__(self) -> None: ...


def measure(step: Step, repeats: int) -> dict:
    """`timed`, and how near it comes to what the device can do: 'matmul_peak_flops_per_second' and the 'fraction_of_peak'."""
    results = timed(step, repeats)
    peak = matmul_peak(step.dtype)
    return results | dict(matmul_peak_flops_per_second=peak, fraction_of_peak=results["flops_per_second"] / peak)


def timed(step: Step, repeats: int) -> dict:
    """What is measured of every compiled step.

    Args:
      step: what is timed.
      repeats: how many calls are timed, each by itself.

    Returns:
      A dict of numbers. FLOP/s are of one device. Peak memory is that of the steps: of the fullest device, or of the process
      where the backend does not count it.
    """
    seconds = timing.timings(step, repeats, timing.WARM_UP)
    memory, memory_of = peak_memory()  # now, before anything else can raise it
    return dict(
        parameters=step.parameters,
        compile_seconds=step.program.compile_seconds,
        step_images=step.images,
        step_ms=timing.spread(seconds),
        images_per_second=step.images / np.median(seconds),
        step_flops=step.program.flops,
        flops_per_second=step.program.flops / np.median(seconds),
        step_temporary_bytes=step.program.temporary_bytes,
        step_collective_bytes=step.program.collective_bytes,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
    )


def peak_memory() -> tuple[int, str]:
    """(bytes, 'device') of the fullest device so far, or (bytes, 'process') where the backend does not count."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(one and "peak_bytes_in_use" in one for one in stats):
        return max(one["peak_bytes_in_use"] for one in stats), "device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"


def matmul_peak(dtype: str) -> float:
    """The most FLOP/s that one device reaches on a product of two square matrices, over sizes that keep it busy."""
    product = jax.jit(jnp.matmul, compiler_options=compiler.options())
    best = 0.0
    for n in _MATMUL_SIZES:
        x = jax.random.normal(jax.random.key(n), (n, n), dtype)  # zeros would cost a GPU less power and so run faster
        seconds = min(timing.timings(lambda x=x: product(x, x).block_until_ready(), 5, 2))
        best = max(best, 2 * n**3 / seconds)
        if seconds > _MATMUL_SECONDS:
            break
    return best
