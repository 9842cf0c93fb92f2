"""The PyTorch twins that recipes and features are timed against: networks of equal parameter count, used the same way.

A recipe's twin is a module with `check(config, algorithm, mesh)`, which refuses a recipe that has no such twin, and
`compare(config, algorithm, mesh, training, batch, repeats)`, which times both. Features have no config: their twin's are
`check(mesh)` and `compare(extraction, repeats)`. They import PyTorch where they use it: it is not among the package's own
requirements.
"""
