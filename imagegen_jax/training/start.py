"""The state that a training begins with: drawn at random, and in part that of other runs."""

import re
import sys

from flax import traverse_util
import jax

from imagegen_jax import errors
from imagegen_jax import optimisers
from imagegen_jax.training import compiler
from imagegen_jax.training import first_stage
from imagegen_jax.training import loop
from imagegen_jax.training import power_ema
from imagegen_jax.training import run
from imagegen_jax.weights import text_encoders

# What belongs to networks; an image pool, say, belongs to the data of the run that it is of.
_OF_NETWORKS = re.compile(r"(params|ema_params)/|extra/(ema/)?(\w*stats|codebook|singular_vectors|normalisation)(/|$)")
_SHOWN = 3  # names in a line


def begin(config, algorithm, rng, shardings):
    """The state of step 0, with what it takes from the trained run that it stands on, a text encoder, and config.init_from.

    Args:
      config: as first_stage.filled_in returns it.
      algorithm: of that config.
      rng: key of the stream 'init'.
      shardings: pytree of the state's.

    Raises:
      errors.UserError: one of these has nothing that can be read, or config.init_from nothing that fits.
    """
    # Read before anything is compiled, since it may not be there.
    other = _other(config.init_from, config.init_from_regex) if config.init_from else None
    state = loop.initialise(algorithm, rng, shardings)
    if config.needs_first_stage:
        trained = first_stage.trained(config)

        def standing(state, trained):
            return power_ema.begun(algorithm.with_first_stage(state, trained), power_ema.widths(state))

        state = jax.jit(standing, out_shardings=shardings, compiler_options=compiler.quick_options())(state, trained)
    section = getattr(config.method, "text_encoder", None)
    if section and section.pretrained and algorithm.text:
        state = _told_by(text_encoders.load(section.pretrained), state, shardings)
    return _warm(config.init_from, *other, state, shardings) if other else state


def _told_by(encoder, state, shardings):
    """The state with the parameters of a published text encoder in each network that has it, and in their averages."""
    loaded = traverse_util.flatten_dict(encoder, sep="/")
    within = (path.partition(f"/{optimisers.FROZEN}/") for path in _by_path(state))
    return _with({"".join(parts): loaded[parts[2]] for parts in within if parts[1]}, state, shardings)


def _other(source, regex):
    """(the expression that chooses arrays, the run.Run whose they are) of config.init_from and init_from_regex."""
    folder, step = _parse(source)
    remedy = "choose with --config.init_from=WORKDIR:STEP"
    return re.compile(regex), run.restore(folder, step, lambda shapes: {"opt_state": shapes.opt_state}, remedy=remedy)


def _warm(source, chosen, other, state, shardings):
    """The state with the arrays of another run's networks, their averages and statistics, where path and shape agree."""
    theirs, ours = _by_path(other.state), _by_path(state)
    left = {"not chosen": [], "not there": [], "of another shape": []}
    taken = {}
    for path, array in ours.items():
        if not chosen.search(path):
            left["not chosen"].append(path)
        elif path not in theirs:
            left["not there"].append(path)
        elif (theirs[path].shape, theirs[path].dtype) != (array.shape, array.dtype):
            left["of another shape"].append(path)
        else:
            taken[path] = theirs[path]
    lines = [f"{len(paths)} {why} ({_few(paths)})" for why, paths in left.items() if paths]
    if not taken:
        raise errors.UserError(f"config.init_from is {source}, and of this run's arrays none can be taken: {', '.join(lines)}")
    if jax.process_index() == 0:
        where = f"step {other.step} of {other.workdir}"
        print(f"taken from {where}: {len(taken)} of {len(ours)} arrays ({_few(taken)})", file=sys.stderr)
        if lines:
            print(f"newly drawn: {', '.join(lines)}", file=sys.stderr)
    return _with(taken, state, shardings)


def _with(taken, state, shardings):
    """The state with arrays in their places, {path: array} as `_by_path` has it."""
    wanted = _by_path(shardings)
    placed = dict(out_shardings={path: wanted[path] for path in taken}, compiler_options=compiler.quick_options())
    taken = jax.jit(lambda arrays: arrays, **placed)(taken)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: taken.get(_name(path), leaf), state)


def _parse(source):
    """(folder, what run.find_step takes) of 'WORKDIR' or 'WORKDIR:STEP'."""
    folder, colon, step = source.rpartition(":")
    return (folder, step) if colon and (step.isdecimal() or step in ("best", "latest")) else (source, None)


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(state):
    """{'params/unet/conv_in/kernel': leaf} of what belongs to the networks of a state or a pytree like it."""
    named = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    return {name: leaf for name, leaf in named.items() if _OF_NETWORKS.match(name)}


def _few(paths):
    paths = list(paths)
    return ", ".join(paths[:_SHOWN] + ["…"] * (len(paths) > _SHOWN))
