"""The families by name. A new one is a file of its own here and a row in this table."""

from imagegen_jax.algorithms import autoencoder
from imagegen_jax.algorithms import baseline
from imagegen_jax.algorithms import classifier
from imagegen_jax.algorithms import code_prior
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.algorithms import diffusion
from imagegen_jax.algorithms import gan
from imagegen_jax.algorithms import vae
from imagegen_jax.algorithms import vaegan
from imagegen_jax.algorithms import vqvae

ALGORITHMS = {
    "autoencoder": autoencoder.Autoencoder,
    "baseline": baseline.Baseline,
    "classifier": classifier.Classifier,
    "code_prior": code_prior.CodePrior,
    "cyclegan": cyclegan.CycleGan,
    "diffusion": diffusion.Diffusion,
    "gan": gan.Gan,
    "vae": vae.Vae,
    "vaegan": vaegan.VaeGan,
    "vqvae": vqvae.VqVae,
}
