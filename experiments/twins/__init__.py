"""The PyTorch twins that a recipe is timed against: networks of equal parameter count, trained the same way.

Each twin is a module with `check(config, algorithm, mesh)`, which refuses a recipe that has no such twin, and
`compare(config, algorithm, mesh, training, batch, repeats)`, which times both. They import PyTorch where they use it: it is not
among the package's own requirements.
"""
