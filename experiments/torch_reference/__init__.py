"""The PyTorch reference implementations that recipes and features are timed against: networks of equal parameter count.

A module of a recipe is a benchmark.recipe.Reference, that of the features a benchmark.extraction.Reference. They import PyTorch
where they use it: it is not among the package's own requirements, and this folder is not in installed packages.
"""
