"""Where the arrays of a computation lie, where it is traced for a mesh of devices (jax.set_mesh); elsewhere nothing changes.

What is not said here the compiler finds out from what goes into a step and what comes out of it. It is told two things, since
left to itself it divides activations as the state is divided, along channels and along places: that costs more than it saves,
and of convolutions of maps that are divided along their sides it makes a multiple of the gradient (jaxlib 0.10.1, on 4 devices
or more).
"""

import jax
from jax.sharding import PartitionSpec


def whole(tree):
    """The pytree with each array whole on every device."""
    return jax.tree.map(lambda x: _placed(x, PartitionSpec()), tree)


def divided(tree):
    """The pytree with each array divided over all devices along its first axis, as a batch is."""
    return jax.tree.map(lambda x: _placed(x, PartitionSpec(jax.sharding.get_abstract_mesh().axis_names)), tree)


def _placed(x, spec):
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty or mesh.size == 1 else jax.lax.with_sharding_constraint(x, spec)
