"""The network of the Fréchet Inception Distance and its reference implementation, torch-fidelity's."""

import importlib
import importlib.metadata
import importlib.util
import sys
from unittest import mock

from experiments.torch_reference import pytorch
from imagegen_jax.benchmark import timing


def check(mesh):
    """Raises errors.UserError where PyTorch or torch-fidelity is missing, or it would see fewer devices than we."""
    pytorch.check("torch", ("torch", "torch_fidelity"), mesh, {})


def compare(extraction, repeats):
    """Features and logits of a batch of uint8 images; see benchmark.extraction.Reference."""
    device = pytorch.set_up("torch")
    model = build().to(device)
    parameters = sum(parameter.numel() for name, parameter in model.named_parameters() if name != "fc.bias")  # not used
    pytorch.check_counts({"inception": extraction.parameters}, {"inception": parameters})
    x = pytorch.tensor(extraction.batch, device)
    return dict(
        name="torch",
        torch_fidelity_version=importlib.metadata.version("torch-fidelity"),
        **pytorch.facts(device),
        parameters=parameters,
        step_ms=timing.alternate(extraction, pytorch.inference(lambda: model(x), device), repeats),
    )


def build():
    """torch-fidelity's InceptionV3 with random weights that keep activations in range.

    Returns:
      A torch.nn.Module, (n, 3, h, w) uint8 -> (features (n, 2048), logits without bias (n, 1008)), float32.
    """
    import torch

    library = _library()
    extractor = library.FeatureExtractorInceptionV3
    # The constructor would download weights.
    with mock.patch.object(library, "load_state_dict_from_url"), mock.patch.object(extractor, "load_state_dict"):
        model = extractor("inception", ["2048", "logits_unbiased"])
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                values.normal_(0, 0.1, generator=generator)
            for values in (module.running_var, module.weight):
                values.uniform_(0.5, 1.5, generator=generator)
    return model


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
