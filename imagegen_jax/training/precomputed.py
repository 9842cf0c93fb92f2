"""What the first stage makes of the training images, computed once and kept in the run's folder.

It is read in place of images, so that a step neither decodes nor encodes any. Where the first stage has a posterior, its mean
and deviation are kept, and training still draws.
"""

import contextlib
import dataclasses
import shutil

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import progress
from imagegen_jax.algorithms import capabilities
from imagegen_jax.data import domains
from imagegen_jax.data import fingerprints
from imagegen_jax.data import pipeline
from imagegen_jax.data import precomputed
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding

FOLDER = "precomputed"  # in the folder of a run


def check(config, algorithm, workdir):
    """Raises errors.UserError where config.first_stage.precompute is not for such a training."""
    if not config.precomputes:
        return
    reasons = {
        "the method does not train on latents or codes": not isinstance(algorithm, capabilities.Precomputes),
        "images are mirrored at random (config.data.flip)": config.data.flip,
        "images are turned at random (config.data.rotate)": config.data.rotate,
        "images are cropped at random (config.data.load_size)": config.data.load_size,
        "images that cannot be read are left out (config.data.on_bad_image)": config.data.on_bad_image == "skip",
        "there are several processes": jax.process_count() > 1,
        f"{workdir} is in object storage": files.is_remote(workdir),
    }
    for reason, present in reasons.items():
        if present:
            raise errors.UserError(f"config.first_stage.precompute is True, and {reason}: change that, or leave it out")


def in_place_of_images(config, algorithm, state, train_set, mesh, workdir):
    """The training images' domains.Domain, or with config.first_stage.precompute one of what is read in their place.

    Args:
      config: as `check` takes it.
      algorithm: of that config.
      state: of the run, with its first stage.
      train_set: a domains.Domain.
      mesh: that the images are encoded on.
      workdir: folder of the run.

    Raises:
      errors.UserError: the folder cannot be written.
    """
    if not config.precomputes:
        return train_set
    first = jax.tree.leaves(jax.device_get(state.extra["first_stage"].params))
    folder = workdir / FOLDER / fingerprints.digest(domains.fingerprint(train_set), train_set.spec.shape, *first)
    if not folder.exists():
        # Of other images or of another first stage, or what a killed process has left.
        shutil.rmtree(folder.parent, ignore_errors=True)
        with files.atomic_folder(folder) as temporary:
            _compute(config.batch_size, algorithm, state, train_set, mesh, temporary)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    reader = precomputed.Reader(train_set.reader, train_set.source.labels, arrays)
    return dataclasses.replace(train_set, reader=reader)


def _compute(batch_size, algorithm, state, train_set, mesh, folder):
    """Writes an array for each thing that is computed of the records, <name>.npy."""
    records = len(train_set.source)
    compute = jax.jit(algorithm.precompute, compiler_options=compiler.options())
    written = {}
    with contextlib.ExitStack() as opened, progress.Progress(records, "image", "computing what is trained on") as bar:
        for batch, mask in pipeline.eval_batches(train_set.reader, np.arange(records), batch_size):
            for name, rows in jax.device_get(compute(state, sharding.put_batch(mesh, batch))).items():
                if name not in written:
                    written[name] = opened.enter_context(open(folder / f"{name}.npy", "wb"))
                    header = {"descr": rows.dtype.str, "fortran_order": False, "shape": (records, *rows.shape[1:])}
                    np.lib.format.write_array_header_1_0(written[name], header)
                written[name].write(rows[mask > 0].tobytes())
            bar.update(int(mask.sum()))
