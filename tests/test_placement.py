"""Where arrays lie while a computation is traced for a mesh, and that nothing happens elsewhere."""

import chex
import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import placement
from imagegen_jax.training import sharding


def test_noise_that_is_divided_is_worked_on_in_parts():
    """An eighth of the operations on each of eight devices; its values stay."""
    mesh = sharding.make_mesh(8)
    key = sharding.key(mesh, 0, "train")

    def made(divided, key):
        noise = jax.random.normal(key, (8, 512))
        return (placement.divided(noise) if divided else noise) @ jnp.ones((512, 512))

    with jax.set_mesh(mesh):
        programs = [jax.jit(made, static_argnums=0).lower(divided, key).compile() for divided in (False, True)]
    whole, shared = (program.cost_analysis()["flops"] for program in programs)
    assert shared < whole / 5
    np.testing.assert_allclose(*(program(key) for program in programs), rtol=1e-5)


def test_what_is_whole_is_gathered_before_it_is_used():
    mesh = sharding.make_mesh(8)
    split = {"kernel": jax.device_put(jnp.arange(64.0).reshape(8, 8), jax.NamedSharding(mesh, jax.P(None, "fsdp")))}
    rows = jax.device_put(jnp.ones((16, 8)), sharding.batched(mesh))
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda weights, x: x @ placement.whole(weights)["kernel"]).lower(split, rows).compile()
    text = compiled.as_text()
    assert text.count(" all-gather(") == 1 and "f32[8,8]" in text
    assert compiled(split, rows).sharding.shard_shape((16, 8)) == (2, 8)


def test_without_a_mesh_nothing_changes():
    tree = {"a": np.ones(3), "b": jnp.arange(4)}
    for place in (placement.whole, placement.divided):
        chex.assert_trees_all_equal(place(tree), tree)
        assert "sharding" not in str(jax.make_jaxpr(place)(tree))
    with jax.set_mesh(sharding.make_mesh(1, devices=jax.devices()[:1])):
        assert "sharding" not in str(jax.make_jaxpr(placement.whole)(tree))
