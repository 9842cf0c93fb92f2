"""Labelled images as a data set that TFDS reads, in files of ArrayRecord."""

from collections.abc import Iterable
import contextlib
import io
import itertools

import numpy as np

from imagegen_jax.data import pictures

NAME = "drawn"


def write(folder, images: Iterable[np.ndarray], labels, class_names) -> None:
    """Writes the data set NAME with one split, 'train', to a folder: tfds.builder("drawn", data_dir=folder) reads it.

    Args:
      folder: path of a folder.
      images: (h, w, c) uint8 of one shape, one after the other.
      labels: (n,) int, of the images.
      class_names: of the labels.
    """
    import tensorflow_datasets as tfds  # imported here: it takes a second, and what is written otherwise does not need it

    images = iter(images)
    first = next(images)

    with tfds.core.registered.skip_registration():  # or others would be prepared by this code when they are asked for by name

        class Drawn(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            name = NAME

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=first.shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(class_names)),
                }
                return self.dataset_info_from_configs(
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                    description="Images that a generator has drawn, of the classes that it was asked for.",
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for i, (image, label) in enumerate(zip(itertools.chain([first], images), labels)):
                    yield i, {"image": pictures.png(image), "label": int(label)}

    tfds.disable_progress_bar()  # of the drawing there is one
    with contextlib.redirect_stdout(io.StringIO()):  # which would tell of a download
        Drawn(data_dir=str(folder), file_format="array_record").download_and_prepare()
