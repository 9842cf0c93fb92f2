"""The network of the Fréchet Inception Distance and its twin, torch-fidelity's."""

import importlib
import importlib.metadata
import importlib.util
import sys
from unittest import mock

from experiments.twins import pytorch
from experiments.twins import timing


def check(mesh):
    """Raises errors.UserError where PyTorch or torch-fidelity is missing, or the twin would see fewer devices than we."""
    pytorch.check("torch", ("torch", "torch_fidelity"), mesh, {})


def compare(extraction, repeats):
    """Features and logits of a batch of uint8 images, ours and the twin's, by turns.

    Args:
      extraction: benchmark.Extraction.
      repeats: how many calls of each are timed.

    Returns:
      A dict; the 'ratio' is theirs / ours of the medians, above 1 where ours is faster.

    Raises:
      errors.UserError: PyTorch does not see the device that JAX computes on.
    """
    device = pytorch.set_up("torch")
    twin = build_twin().to(device)
    parameters = sum(parameter.numel() for name, parameter in twin.named_parameters() if name != "fc.bias")  # not used
    pytorch.check_parameters({"inception": extraction.parameters()}, {"inception": parameters})
    return dict(
        name="torch",
        torch_fidelity_version=importlib.metadata.version("torch-fidelity"),
        **pytorch.facts(device),
        parameters=parameters,
        step_ms=timing.alternate(extraction, twin_features(twin, extraction.images), repeats),
    )


def build_twin():
    """torch-fidelity's InceptionV3 with random weights that keep activations in range.

    Returns:
      A torch.nn.Module, (n, 3, h, w) uint8 -> (features (n, 2048), logits without bias (n, 1008)), float32.
    """
    import torch

    library = _library()
    extractor = library.FeatureExtractorInceptionV3
    # The constructor would download weights.
    with mock.patch.object(library, "load_state_dict_from_url"), mock.patch.object(extractor, "load_state_dict"):
        twin = extractor("inception", ["2048", "logits_unbiased"])
    generator = torch.Generator().manual_seed(0)
    for module in twin.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                values.normal_(0, 0.1, generator=generator)
            for values in (module.running_var, module.weight):
                values.uniform_(0.5, 1.5, generator=generator)
    return twin


def _library():
    """torch-fidelity's module of this network, without its package's __init__, which imports torchvision as others need it."""
    name = "torch_fidelity"
    loaded = name in sys.modules
    if not loaded:
        sys.modules[name] = importlib.util.module_from_spec(importlib.util.find_spec(name))
    try:
        return importlib.import_module(f"{name}.feature_extractor_inceptionv3")
    finally:
        if not loaded:
            del sys.modules[name]  # an empty package is nothing for others


def twin_features(twin, images):
    """() -> None: the twin's features of (n, h, w, 3) uint8 images."""
    import torch

    device = twin.fc.weight.device
    x = pytorch.tensor(images, device)

    def features():
        with torch.inference_mode():
            twin(x)
        pytorch.synchronize(device)

    return features
