"""What a train step would take on many devices, from its operations and from the bytes that the devices exchange.

A device computes its share of a batch in flops / (peak utilisation) seconds. Beside it the devices exchange, with n of them and
parameters of P bytes (each device sends and receives so much in an exchange that uses every link):

  replicate  one all-reduce of the gradients           2 P (n - 1) / n
  fsdp       one all-gather of the parameters and
             one all-reduce of the gradients           3 P (n - 1) / n    (2, where the compiler makes a reduce-scatter of it)

The efficiency is the share of the time in which they compute: with every exchange hidden behind computing, and with none.
Latencies, the input pipeline and the memory's bandwidth are left out: small steps are slower than this.
"""

import dataclasses

from imagegen_jax import tables

UTILISATION = 0.4  # of the peak, in computing: an assumption
_EXCHANGES = {"replicate": 2, "fsdp": 3}


@dataclasses.dataclass(frozen=True)
class Pod:
    """Devices that train together.

    Attributes:
      name: theirs.
      devices: how many.
      peak: FLOP/s of one, in bfloat16, without sparsity.
      bandwidth: bytes a second that one sends, and as many that it receives, when all of them exchange.
      memory: bytes of one.
    """

    name: str
    devices: int
    peak: float
    bandwidth: float
    memory: float


# Google Cloud's page on the v5e: 1,600 Gb/s of links on a two-dimensional torus. NVIDIA's data sheet of the H200, and hosts
# of 8 with a network of 400 Gb/s for each GPU: what a host exchanges with others crosses the network once, in eight parts.
PODS = (
    Pod("TPU v5e", 256, 197e12, 200e9, 16e9),
    Pod("H200", 64, 989e12, 400e9, 141e9),
)


def project(flops: float, batch_size: int, parameter_bytes: int, state_bytes: int) -> dict:
    """The projection for every pod.

    Args:
      flops: of an image in a train step.
      batch_size: images a step over all devices.
      parameter_bytes: of what is learned, as it is exchanged.
      state_bytes: of all that a training keeps.

    Returns:
      {'flops_per_image', 'parameter_bytes', 'state_bytes', 'step_images', 'pods': {name: {...}}}, for each pod 'devices',
      'images', a device's share of a batch, 'compute_ms', and for each way to lie {'exchanged_bytes', 'exchange_ms',
      'efficiency': [nothing hidden, all hidden], 'images_for_90_percent', 'state_bytes' of a device}. The images for 90 % are a
      device's, with nothing hidden.
    """
    facts = dict(
        flops_per_image=flops, parameter_bytes=parameter_bytes, state_bytes=state_bytes, step_images=batch_size, pods={}
    )
    for pod in PODS:
        images = batch_size / pod.devices
        one = flops / (UTILISATION * pod.peak)
        row = dict(devices=pod.devices, images=images, compute_ms=1e3 * images * one, memory_bytes=pod.memory)
        for name, times in _EXCHANGES.items():
            moved = times * parameter_bytes * (pod.devices - 1) / pod.devices
            exchange = moved / pod.bandwidth
            row[name] = dict(
                exchanged_bytes=moved,
                exchange_ms=1e3 * exchange,
                efficiency=[images * one / (images * one + exchange), min(1.0, images * one / exchange)],
                images_for_90_percent=9 * exchange / one,
                state_bytes=state_bytes / (pod.devices if name == "fsdp" else 1),
            )
        facts["pods"][pod.name] = row
    return facts


def table(report: dict) -> str:
    """A report whose 'results' are of `project`, and 'recipe' the name of the recipe, as lines of text."""
    r = report["results"]
    rows = [
        ("", "images a device", "compute, ms", "state, GB", "exchanged, MB", "exchange, ms", "efficiency", "images for 90 %")
    ]
    for name, pod in r["pods"].items():
        for preset in _EXCHANGES:
            row = pod[preset]
            rows.append((
                f"{pod['devices']} {name}, {preset}",
                f"{pod['images']:g}",
                f"{pod['compute_ms']:.2f}",
                f"{row['state_bytes'] / 1e9:.2f} of {pod['memory_bytes'] / 1e9:.0f}",
                f"{row['exchanged_bytes'] / 1e6:.0f}",
                f"{row['exchange_ms']:.2f}",
                "{:.2f} to {:.2f}".format(*row["efficiency"]),
                f"{row['images_for_90_percent']:.1f}",
            ))  # fmt: skip
    head = [
        f"recipe  {report['recipe']}",
        f"a step of {r['step_images']} images: {r['flops_per_image'] / 1e9:.1f} GFLOP an image, parameters "
        f"{r['parameter_bytes'] / 1e6:.0f} MB; computed at {UTILISATION:.0%} of the peak",
    ]
    return "\n".join((*head, tables.aligned(rows)))
