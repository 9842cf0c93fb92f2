"""The bundled data set: 8,000 training and 2,000 test images of Fashion-MNIST, as a TFDS builder that needs no TensorFlow."""

import pathlib

import tensorflow_datasets as tfds

from imagegen_jax.data import idx
from imagegen_jax.data import pictures

FILES = pathlib.Path(__file__).parent / "fashion_mnist_10k_files"
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class FashionMnist10k(tfds.core.GeneratorBasedBuilder):
    """800 and 200 images of each of the ten classes, 28x28 grey (Xiao et al. 2017)."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(names=CLASSES)}
            ),
            supervised_keys=("image", "label"),
            description="A stratified tenth of Fashion-MNIST that ships with imagegen_jax.",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        images = idx.read(idx.find(FILES, split, "images"))
        labels = idx.read(idx.find(FILES, split, "labels"))
        for i, (image, label) in enumerate(zip(images, labels)):
            yield i, {"image": pictures.png(image[..., None]), "label": int(label)}
