"""Training images that stay on the devices, decoded once: the host says which records a step takes, and the step gathers them.

Their order and their bytes are those that the host would have sent.
"""

import dataclasses
import math

import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import progress
from imagegen_jax.data import domains
from imagegen_jax.data import fingerprints
from imagegen_jax.data import pipeline
from imagegen_jax.data import precomputed
from imagegen_jax.training import sharding

_AUTO_BYTES = 2**29  # all of MNIST, Fashion-MNIST or CIFAR-10, and little beside a device's memory
_AT_ONCE = 256  # records that are read together


def kept(config, train_set, steps, mesh):
    """The training images on the devices, as config.data.on_device decides.

    Args:
      config: checked.
      train_set: of domains.open_domains, or what is precomputed of it.
      steps: that are still to be trained.
      mesh: the devices; each has all images.

    Returns:
      (train_set, arrays): arrays as domains.gathered takes them, and a train_set whose readers leave them out. Where nothing
      stays on the devices, the train_set as it was and {}.

    Raises:
      errors.UserError: images that must stay there take more memory than there is, or one cannot be read.
    """
    if not _wanted(config, train_set, steps):
        return train_set, {}
    read = domains.each(lambda _, domain: _read(domain, config.data.workers), train_set)

    def without(_, domain, read):
        return dataclasses.replace(domain, reader=precomputed.Reader(domain.reader, read[1], {}))

    def put(_, domain, read):
        return {name: sharding.put_whole(mesh, array) for name, array in read[0].items()}

    return domains.each(without, train_set, read), domains.each(put, train_set, read)


def _wanted(config, train_set, steps):
    needed = sum(map(_bytes, domains.parts(train_set)))
    if config.data.on_device == "always" and needed > files.memory():
        raise errors.UserError(
            f"config.data.on_device is 'always', and the training images take {needed / 1e9:.0f} GB, more than this machine's "
            "memory: choose auto or never"
        )
    # Less than an epoch is read sooner than everything.
    small = needed <= _AUTO_BYTES and steps * config.batch_size >= domains.records(train_set)
    return {"always": True, "auto": small, "never": False}[config.data.on_device]


def _bytes(domain):
    row = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in domain.reader.rows.values())
    return len(domain.source) * row


def _read(domain, workers):
    """({name: array of all records}, their labels)."""
    records = len(domain.source)
    arrays = {name: np.empty((records, *shape), dtype) for name, (shape, dtype) in domain.reader.rows.items()}
    labels = np.full(records, -1, np.int32)
    together = min(_AT_ONCE, records)
    batches = pipeline.train_batches(
        domain.reader, lambda i: i % records, batch_size=together, first_step=0, workers=workers, prefetch=workers
    )
    with progress.Progress(records, "image", "reading the training images", shown=records >= fingerprints.MANY_FILES) as bar:
        for start in range(0, records, together):
            batch = next(batches)  # the last one begins again with the first records
            for name, array in arrays.items():
                array[batch["index"]] = batch[name]
            labels[batch["index"]] = batch["condition"].get("label", -1)
            bar.update(min(together, records - start))
    return arrays, labels
