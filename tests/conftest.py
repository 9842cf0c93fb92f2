"""Settings of the whole suite: eight CPU devices, and caches of its own that all its processes share."""

import atexit
import fcntl
import gc
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

# The workers of pytest-xdist inherit the folder from the process that starts them, which outlives them.
_CACHE = os.environ.get("IMAGEGEN_JAX_TESTS_CACHE")
if _CACHE is None:
    _CACHE = os.environ["IMAGEGEN_JAX_TESTS_CACHE"] = tempfile.mkdtemp(prefix="imagegen_jax_tests_")
    atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
# The tests wait for the compiler more than for what it compiles. Flags that are given are kept: --xla_cpu_max_isa=AVX2 makes
# programs for another processor.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an XLA that does not know a flag ends the process
    # Without its fusion emitters, and in one piece, it takes half the time.
    _FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if _FLAGS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"

# A program is compiled once for all workers and for all processes that tests start, however small it is.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(_CACHE, "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Of each that it takes from there jaxlib 0.10.1 says that the processor lacks prefer-no-gather, which is no instruction.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["XDG_CACHE_HOME"] = _CACHE
os.environ["TFDS_DATA_DIR"] = os.path.join(_CACHE, "tensorflow_datasets")
os.environ["PYTHONPATH"] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import sys  # noqa: E402
from unittest import mock  # noqa: E402

from absl import flags  # noqa: E402
from absl.testing import flagsaver  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from configs import ddpm  # noqa: E402
from imagegen_jax import command_line  # noqa: E402, F401  (whose flags belong to no single command)
from imagegen_jax.api import runs  # noqa: E402
from imagegen_jax.data import sources  # noqa: E402
from imagegen_jax.generation import drawing_flags  # noqa: E402
from imagegen_jax.generation import editing_flags  # noqa: E402
from imagegen_jax.training import checkpoint  # noqa: E402
from imagegen_jax.training import compiler  # noqa: E402
from imagegen_jax.training import preservation  # noqa: E402
from imagegen_jax.training import run  # noqa: E402


def pytest_collection_finish():
    """What is imported by now is no more searched for garbage, each time that a program is traced."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _shared_caches():
    """Prepares the bundled data, and tries the compiler, once for all processes: the first worker while the others wait."""
    with open(os.path.join(_CACHE, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources.open_source(sources.Config(), "train")
        compiler.options()


@pytest.fixture(scope="session")
def save_untrained():
    """(folder, config, specs, steps=(3,)) -> None: writes a run as it begins, with checkpoints of these steps."""

    def save(folder, config, specs, steps=(3,)):
        state = jax.jit(run.build_algorithm(config, specs).init)(jax.random.key(0))
        run.save_config(folder, config, specs)
        with checkpoint.Checkpointer(folder / run.CHECKPOINTS, preservation.Policy(latest=len(steps))) as checkpointer:
            for step in steps:
                checkpointer.save(state.replace(step=state.step + step), checkpoint.Position(step, 0.0, 8, ""))

    return save


@pytest.fixture
def tiny_config():
    """A diffusion that compiles in a second or two: the smoke recipe with less of everything."""
    config = ddpm.get_config("smoke")
    config.network.update(channels=8, multipliers=(1,))
    config.sampler.steps = 2
    config.sample.num = 8
    config.sample.batch_size = 8
    config.eval.num = 16
    config.eval.batch_size = 8
    return config


_LOAD, _LOADED = runs.load, {}


def _loaded_once(workdir, checkpoint=None, ema=True, batch_size=None, check=None):
    """What runs.load returns, the same Run of the same files, for which less is traced and compiled."""
    read = ("config.json", "metrics.jsonl", "checkpoints/**/*")
    files = sorted(path for pattern in read for path in pathlib.Path(workdir or "").glob(pattern))
    written = tuple((path, path.stat().st_mtime_ns) for path in files)
    key = written, workdir, checkpoint, ema, batch_size
    if not written or key not in _LOADED:
        _LOADED.clear()  # so that no more than one is kept
        _LOADED[key] = _LOAD(workdir, checkpoint, ema, batch_size, check)
    elif check:
        check(_LOADED[key])
    return _LOADED[key]


@pytest.fixture(scope="module")
def command():
    """Gives, of a name such as 'sample', experiments/sample.py in this process: a function of the words of a command line.

    It is good until another command is asked for, since two may have flags of one name. A run that it was given before is not
    loaded again.
    """
    loaded = {}

    def take_back():
        # Also of commands that a test module has imported, which then serve as libraries.
        for flag in list(flags.FLAGS):
            owner = flags.FLAGS.find_module_defining_flag(flag) or ""
            if owner.startswith("experiments.") or owner in (drawing_flags.__name__, editing_flags.__name__):
                delattr(flags.FLAGS, flag)
        loaded.clear()

    def load(name):
        if name not in loaded:
            take_back()
            module = f"experiments.{name}"
            sys.modules.pop(module, None)  # it defines its flags again
            loaded[name] = importlib.import_module(module)
        module = loaded[name]

        def call(*words):
            # config_flags looks for --config.key=value there.
            argv, once = mock.patch.object(sys, "argv", [name, *words]), mock.patch.object(runs, "load", _loaded_once)
            with flagsaver.flagsaver(), argv, once:
                verb, *others = flags.FLAGS([name, *words])[1:] or [None]
                assert not others
                (module.VERBS[verb][0] if verb else module.main)()

        return call

    yield load
    take_back()
