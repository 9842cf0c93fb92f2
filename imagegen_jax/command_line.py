"""What all commands share: parsing of flags, errors of one line, and the JAX settings of a process."""

import contextlib
import functools
import gc
import logging
import math
import os
import pathlib
import re
import sys

from absl import app
from absl import flags
from absl import logging as absl_logging
import jax
from ml_collections import config_flags

from imagegen_jax import averages
from imagegen_jax import errors
from imagegen_jax import files

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other hosts: on TPU pods and Slurm they find each other, elsewhere name --coordinator.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, with --num_processes and --process_id.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, one a host.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_HEARTBEAT = 30  # seconds without a sign of life of a process, after which the others end


class _EmaParser(flags.BooleanParser):
    def parse(self, argument):
        with contextlib.suppress(TypeError, ValueError):
            return super().parse(argument)
        try:
            return float(argument)
        except ValueError:
            raise ValueError(averages.WRITE) from None


class EmaFlag(flags.Flag):
    """--ema, --noema and --ema=false, as of a boolean flag; and --ema=0.05."""

    def __init__(self, verb):
        """`verb` says what is done with the average, such as 'Draw with'."""
        meaning = f"{verb} the moving average of the parameters; a number for the power-function average of that width."
        super().__init__(_EmaParser(), flags.ArgumentSerializer(), "ema", True, meaning, boolean=True)


def run(main, required=(), starts_others=lambda: False):
    """Runs a command and exits: 0 when it is done, 2 after one line on stderr where the person has something to mend.

    Args:
      main: () -> None.
      required: names of the flags that must be given.
      starts_others: () -> whether it is, by its flags, to start other processes and to leave JAX and its devices to them.
    """
    _run(lambda words: (main, required, words), needs_jax=lambda: not starts_others())


def run_others(main, required=()):
    """Runs a command that starts other processes, and leaves JAX and its devices to them; exits as `run` does.

    Args:
      main: (the words behind '--') -> None.
      required: see run.
    """
    _run(lambda words: (functools.partial(main, words), required, []), needs_jax=lambda: False)


def run_verb(verbs):
    """Runs a command of several verbs, such as `python -m experiments.edit translate --input=...`, and exits as `run` does.

    Args:
      verbs: {name: (() -> None, names of the flags that must be given)}.
    """

    def choose(words):
        if not words or words[0] not in verbs:
            wrong = f"there is no verb '{words[0]}'" if words else "the verb is missing"
            raise errors.UserError(f"{wrong}: write one of {', '.join(verbs)} (see --help)")
        return *verbs[words[0]], words[1:]

    flags.FLAGS.set_gnu_getopt(True)  # the verb stands before the flags
    _run(choose)


def _run(choose, needs_jax=lambda: True):
    """`choose` makes (main, required, words left over) of the words that are not flags."""

    def guarded(argv):
        try:
            main, required, words = choose(argv[1:])
            if words:
                raise errors.UserError(f"'{words[0]}' is not a flag: write --name=value (see --help)")
            for name in required:
                if flags.FLAGS[name].value is None:
                    raise errors.UserError(f"--{name} is missing (see --help)")
            if needs_jax():
                _set_up_jax()
            main()
            sys.stdout.flush()
        except BrokenPipeError:
            _end_unheard()
        except errors.UserError as error:
            _fail(error if "config" in flags.FLAGS else error.without_config)

    if not gc.isenabled():  # experiments/__init__.py
        gc.freeze()  # what is imported is no more searched, which programs are traced a tenth faster without
        gc.enable()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names of files need not be text, nor in the terminal's alphabet
    sys.argv[1:] = map(_at_home, sys.argv[1:])  # config_flags looks there too
    app.run(guarded, flags_parser=_parse)


def _at_home(word):
    """--name=~/path, which shells leave as it is, and each ~ in a list of paths or behind 'folder:', with the home folder."""
    return re.sub(r"(?<=[=,:])~[^/,:]*(?=[/,]|$)", lambda match: os.path.expanduser(match[0]), word)


def check_at_least(**least):
    """Raises errors.UserError for the first of these flags, such as num=1, that is given and less."""
    errors.check_at_least({name: flags.FLAGS[name].value for name in least}, **least)


def numbers(name, kind=float):
    """The tuple of finite numbers in a flag that is a list; None where it was not given. Raises errors.UserError."""
    words = flags.FLAGS[name].value
    try:
        found = words and tuple(map(kind, words))
    except ValueError:
        found = (math.nan,)
    if words and not all(map(math.isfinite, found)):
        raise errors.UserError(f"--{name}={','.join(words)}: write numbers, separated by commas")
    return found or None


def tell(lines):
    """Prints lines that a person asked for, unless there are none; of several processes the first does."""
    if lines and jax.process_index() == 0:
        print(lines)


def finish(abandoned):
    """Ends the process with code 0; at once where a thread is still computing something that nobody waits for."""
    sys.stdout.flush()
    sys.stderr.flush()
    if abandoned:
        os._exit(0)


def _parse(argv):
    # config_flags and recipes raise many kinds for what a person mistyped: a path, a key, a value.
    try:
        parsed = flags.FLAGS(argv)
    except SystemExit:  # after --help, which absl counts as a failure
        sys.exit(0)
    except (AttributeError, KeyError) as error:
        _fail(_unknown_key(argv, error))
    except BrokenPipeError:  # of --help
        _end_unheard()
    except (flags.Error, errors.UserError, TypeError, ValueError, OSError) as error:
        _fail(_one_line(str(error)))
    if "config" in flags.FLAGS and flags.FLAGS["config"].present:
        path = config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]
        if not pathlib.Path(path).is_file():  # config_flags would raise only when the config is first looked at
            _fail(f"--config={path}: there is no such file")
    return parsed


def _end_unheard():
    """Exits where whoever read what was printed has seen enough, such as `| head`."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(1)


def _unknown_key(argv, error):
    """config_flags' error, which names a part of the key, with the flag as it was typed."""
    while isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0])
    keys = [argument.split("=")[0] for argument in argv if argument.startswith("--config.")]
    typed = next((key for key in keys if any(f"'{part}'" in text for part in key.split("."))), "such key")
    return f"there is no {typed}: {_one_line(text)}"


def _one_line(text):
    """A message without its line breaks; of a traceback, which some errors carry along, the last line."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if "Traceback" in text else " ".join(lines)


def _fail(error):
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


def _set_up_jax():
    # TFDS and Orbax warn of what a user cannot mend, and Orbax logs each error, with tracebacks, that it also raises.
    absl_logging.set_verbosity(absl_logging.FATAL)
    # When one of Orbax's reads fails, it reports at exit that nobody looked at the others, and when one of its writes does,
    # TensorStore prints that nobody waits for those that go on.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _say_nothing_of_closed_loops
    if not jax.config.jax_compilation_cache_dir:
        _keep_compiled(files.cache_folder())
    if _DISTRIBUTED.value or _COORDINATOR.value:
        jax.distributed.initialize(
            _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, heartbeat_timeout_seconds=_HEARTBEAT
        )
    try:
        jax.devices()
    except RuntimeError as error:
        raise errors.UserError(f"JAX finds no device: {str(error).splitlines()[0]}") from error


def _say_nothing_of_closed_loops(unraisable):
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _keep_compiled(folder):
    try:
        files.check_writable(folder / "jit")
    except errors.UserError as error:
        print(f"{error}; everything is compiled anew each time", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default what compiles within a second is not kept, and a start has dozens of such.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
