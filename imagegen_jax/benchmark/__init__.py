"""How fast a recipe trains, draws and reads its images on this machine, or the network of the FID extracts features.

results = recipe.measure(config, repeats=20)
results = recipe.measure(config, repeats=20, reference=reference)  # beside another implementation, by turns
results = extraction.measure(repeats=20)
"""
