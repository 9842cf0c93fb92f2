"""What was measured, as text."""

# Load for each core from which the table warns. With one busy process beside it on two cores PyTorch's forward pass took
# 12 ms or 900 ms: OpenMP threads that spin for one another. OMP_WAIT_POLICY=passive steadies that.
_BUSY = 0.3


def table(report: dict) -> str:
    """A report as lines of 'name  value'.

    Args:
      report: {'machine': machine.facts() before the measurement, 'results': of recipe.measure, recipe.measure_steps or
        extraction.measure}, and 'recipe' or 'features', the name of what was measured.
    """
    facts, r = report["machine"], report["results"]
    busy = facts["load_average"] > _BUSY * facts["cpu_count"]
    step, work = ("train step", "training") if "recipe" in report else ("batch", "extraction")
    rows = {
        **{name: report[name] for name in ("recipe", "features") if name in report},
        "machine": f"{facts['device_count']} x {facts['device_kind']} ({facts['platform']}), {facts['cpu_count']} CPU cores, "
        f"JAX {facts['jax_version']}",
        "load before the run": f"{facts['load_average']:.1f}" + ("  (BUSY: others distort these times)" if busy else ""),
        "parameters": f"{r['parameters']:,}",
        "compile time, s": f"{r['compile_seconds']:.1f}",
        f"{step} of {r['step_images']}, ms": _ms(r["step_ms"]),
        f"{work}, images/s": f"{r['images_per_second']:.2f}",
        "a device's GFLOP/s": f"{r['flops_per_second'] / 1e9:.1f}",
        f"temporaries of a {step.split()[-1]}, MB": f"{r['step_temporary_bytes'] / 1e6:.0f}",
        "peak memory, MB": f"{r['peak_memory_bytes'] / 1e6:.0f}  (of the {r['peak_memory_of']})",
    }
    if "fraction_of_peak" in r:
        rows["its matmul peak, GFLOP/s"] = f"{r['matmul_peak_flops_per_second'] / 1e9:.1f}"
        rows["fraction of peak"] = f"{r['fraction_of_peak']:.3f}"
    if "state_bytes" in r:
        rows["state on a device, MB"] = f"{r['state_bytes'] / 1e6:.1f}"
    for key, name in {"pipeline": "input pipeline", "sampling": "sampling", "translation": "translation"}.items():
        if rate := r.get(f"{key}_images_per_second"):
            rows[f"{name}, images/s"] = f"{rate:.2f}"
    if "against" in r:
        rows |= _against(r["against"], step, r["step_images"])
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


def _against(peer, step, images):
    """The rows of a comparison; `step` of so many `images` is what both did."""
    versions = [f"{key.removesuffix('_version')} {peer[key]}" for key in peer if key.endswith("_version")]
    rows = {"against": f"{', '.join(versions)} on {peer['device']}"}
    for key, (name, count) in {"step": (step, images), "forward": ("forward pass", peer.get("forward_images"))}.items():
        if times := peer.get(f"{key}_ms"):
            rows[f"{name} of {count}, ours, ms"] = _ms(times["ours"])
            rows[f"{name} of {count}, theirs, ms"] = _ms(times["theirs"])
            rows[f"{name}, theirs / ours"] = f"{times['ratio']:.2f}"
    if times := peer.get("compiled_step_ms"):
        rows[f"{step}, theirs by torch.compile, ms"] = _ms(times["theirs"])
        rows[f"{step}, theirs by torch.compile / ours"] = f"{times['ratio']:.2f}"
    return rows


def _ms(times):
    return f"{times['median']:.2f}  (quartiles {times['quartile1']:.2f} to {times['quartile3']:.2f})"
