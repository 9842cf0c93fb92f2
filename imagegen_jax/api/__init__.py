"""Every verb of the commands as a function of Python values: what a notebook needs, and what experiments/ calls.

training   train a config in a folder
sweeping   train it with each combination of some values
launching  train it in several processes on this machine
sampling   draw images
editing    reconstruct, interpolate, blend, invert, traverse, attribute, translate
restoring  inpaint, outpaint, superres, colorize, deblur, denoise, vary
scoring    score a run or a set of images

imagegen_jax.load gives a runs.Run, whose methods are these.
"""
