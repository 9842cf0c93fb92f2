"""How arrays lie on the devices: one mesh over all of them, with the axes 'data' and 'fsdp'.

The batch is split over both. A state array is whole on every device ('replicate'), or its largest divisible dimension is split
along 'fsdp' (Rajbhandari et al. 2020, ZeRO), with a copy for each place along 'data'. In a step parameters are whole again
(placement.py), and the compiler inserts the gathers and reductions that follow from that. Devices of a host are neighbours
along 'fsdp', where most is exchanged.
"""

import math
import re

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from imagegen_jax import errors
from imagegen_jax import rng
from imagegen_jax.training import compiler

AXES = ("data", "fsdp")


def make_mesh(batch_size, shape=(1, -1), devices=None):
    """A mesh over devices.

    Args:
      batch_size: of which each device is to have the same share.
      shape: of the mesh, along AXES; -1 for what is left.
      devices: all of all processes, unless they are given.

    Raises:
      errors.UserError: they do not divide the batch, or the shape is not one of so many devices.
    """
    devices = jax.devices() if devices is None else devices
    if batch_size % len(devices):
        raise errors.UserError(
            f"a batch of {batch_size} cannot be divided over {len(devices)} devices: "
            f"set --config.batch_size to a multiple of {len(devices)} in a new run, or use as many devices as divide it"
        )
    given = math.prod(n for n in shape if n > 0)
    if len(devices) % given if -1 in shape else len(devices) != given:
        keys = ", ".join(f"config.mesh.{name}={n}" for name, n in zip(AXES, shape))
        raise errors.UserError(
            f"{keys} cannot be had of {len(devices)} devices: let one of the two be -1, for all that are left"
        )
    return jax.sharding.Mesh(np.array(devices).reshape(shape), AXES)


def divisible(n, mesh):
    """n, rounded up to a multiple of the number of devices."""
    return -(-n // mesh.size) * mesh.size


def replicated(mesh):
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh):
    """Split along the leading dimension."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def _fsdp(mesh, shape):
    divisible = [i for i, n in enumerate(shape) if n % mesh.shape["fsdp"] == 0]
    if not divisible:
        return replicated(mesh)
    dimension = max(divisible, key=lambda i: shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * dimension, "fsdp"))


_RULES = {"replicate": lambda mesh, shape: replicated(mesh), "fsdp": _fsdp}


def state_shardings(mesh, state, rules, min_size):
    """A sharding for each array of a state.

    Args:
      mesh: of make_mesh.
      state: pytree of arrays or of their shapes.
      rules: ((regex, 'replicate' or 'fsdp'), ...); the first regex found in an array's path ('params/unet/conv_in/kernel')
        decides, and an array that none matches is replicated.
      min_size: arrays with fewer elements are replicated.

    Raises:
      errors.UserError: a rule that is not a pair, not a regex or not one of the two.
    """
    try:
        compiled = [(re.compile(pattern), _RULES[rule]) for pattern, rule in rules]
    except (KeyError, ValueError, TypeError, re.error) as error:
        raise errors.UserError(
            f"config.sharding.rules is {rules!r} ({error}): write pairs such as (('.*', 'fsdp'),), each 'replicate' or 'fsdp'"
        ) from error

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = next((rule for pattern, rule in compiled if pattern.search(name)), _RULES["replicate"])
        return rule(mesh, leaf.shape) if leaf.size >= min_size else replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def key(mesh, seed, name):
    """rng.stream(seed, name) on every device."""
    return jax.jit(
        rng.stream, static_argnums=(0, 1), out_shardings=replicated(mesh), compiler_options=compiler.quick_options()
    )(seed, name)


def put_rows(mesh, rows):
    """An array that every process has whole, split over the mesh along its leading axis."""
    return jax.make_array_from_callback(rows.shape, batched(mesh), lambda at: rows[at])


def put_whole(mesh, array):
    """An array that every process has whole, whole on every device."""
    return jax.make_array_from_callback(array.shape, replicated(mesh), lambda at: array[at])


def put_filled(mesh, rows, n):
    """The same of 1 to n rows, filled up with the first of them, so that what is compiled for n rows serves fewer."""
    return put_rows(mesh, np.concatenate([rows, np.repeat(rows[:1], n - len(rows), 0)]))


def put_batch(mesh, batch):
    """A process's own rows of a batch as arrays over the whole mesh: process i holds the i-th contiguous share of the rows."""
    return _put_own(batched(mesh), batch)


def put_batches(mesh, batches, n):
    """(the same of 1 to n batches with a new leading axis of n, how many they are); the rest of that axis is filled up."""
    filled = [*batches, *batches[-1:] * (n - len(batches))]
    rows = _put_own(_stacked(batched(mesh)), jax.tree.map(lambda *rows: np.stack(rows), *filled))
    with jax.transfer_guard("allow"):
        return rows, put_whole(mesh, np.array(len(batches), np.int32))


def stacked_shapes(batch, n):
    """The jax.ShapeDtypeStructs of what `put_batches` makes, of those of what `put_batch` does."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype, sharding=_stacked(x.sharding)), batch)


def _stacked(sharding):
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def _put_own(sharding, batch):
    with jax.transfer_guard("allow"):  # the one transfer that a step is meant to make
        return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
