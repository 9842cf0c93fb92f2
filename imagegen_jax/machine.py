"""The machine that figures come from."""

import os
import platform

import jax


def cpu_count():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def facts():
    """What results depend on and a config does not say, as JSON."""
    return dict(
        platform=jax.default_backend(),
        system=platform.platform(),
        device_kind=jax.devices()[0].device_kind,
        device_count=jax.device_count(),
        process_count=jax.process_count(),
        cpu_count=cpu_count(),
        load_average=os.getloadavg()[0],  # of the last minute: above 0 others were at work, and a time is too long
        jax_version=jax.__version__,
        python_version=platform.python_version(),
    )
