"""The commands: python -m experiments.NAME."""

import gc
import os
import pathlib
import sys

# Before JAX is imported: up to 0.10.1, jaxlib writes errors of kilobytes for programs that it takes from its own cache.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _start_with_huge_pages():
    """Starts a command again, once, with a malloc that asks for huge pages, where the kernel gives them to those who ask.

    XLA's CPU programs get their temporaries from malloc and give them back at each call, so that each call has its pages from
    the kernel anew, 4 kB a fault. malloc reads this when a process starts.
    """
    if _TUNABLES not in os.environ and _glibc() >= (2, 35) and "[madvise]" in _HUGE_PAGES.read_text():
        os.execve(sys.executable, sys.orig_argv, os.environ | {_TUNABLES: "glibc.malloc.hugetlb=1"})


def _glibc():
    """The version of glibc; (0,) where there is none, or no huge pages to ask for."""
    try:
        _, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        return tuple(map(int, version.split("."))) if _HUGE_PAGES.exists() else (0,)
    except (AttributeError, ValueError):
        return (0,)


if sys.argv[0] == "-m":  # this package is being imported by `python -m`
    _start_with_huge_pages()
    gc.disable()  # a quarter of the time of the imports that follow is the search for garbage; command_line.run goes on with it
