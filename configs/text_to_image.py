"""Text to image: a diffusion that reads captions, byte by byte (Rombach et al. 2022, section 3.3, with an encoder of its own).

''      garments in ten colours, of captions such as "a red boot" and "dress, in green", on a laptop's CPU, in minutes; 15 of
        the 100 combinations of a colour and a garment are never trained on
smoke   the same in seconds, to see that everything works
emoji   3,539 colour pictures of a font, by their names in Unicode, in two hours on a laptop's CPU; 15 % of the combinations of
        a figure and a skin tone are never trained on
folder  your own images at 64x64, with captions (docs/data.md), for one GPU: --config.data.source=folder:PATH

Draw with experiments.sample --prompt="a red boot" --guidance_scale=2.
"""

from configs import ddpm
from configs import edm
from configs import variants


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _tinted, "smoke": _smoke, "emoji": _emoji, "folder": _folder})


def _told_captions(c, length, prompts):
    c.diffusion.text = True
    c.data.caption_length = length
    c.sample.num = 8 * len(prompts)
    c.sample.prompts = prompts
    return c


def _tinted_of(variant):
    c = ddpm.base(variant)
    c.data.source = "tinted:fashion_mnist_10k"
    c.data.hold_out = 0.15
    c.text_encoder.width = 64
    c.optimizer.name = "muon"
    return c


def _tinted():
    c = _told_captions(
        _tinted_of(""),
        32,
        (
            "a red dress",
            "blue sneaker",
            "bag, in green",
            "violet trousers",
            "an orange pullover",
            "pink sandal",
            "boot",
            "yellow",
        ),
    )
    c.guidance.scale = 2.0
    return c


def _smoke():
    c = _told_captions(_tinted_of("smoke"), 32, ("a red dress", "blue sneaker"))
    c.text_encoder.width = 32
    return c


def _emoji():
    c = _told_captions(
        edm.get_config("emoji"),
        64,
        (
            "thumbs up sign",
            "thumbs up sign, dark skin tone",
            "fairy, medium skin tone, woman",
            "smiling cat face with heart-shaped eyes",
            "red apple",
            "house with garden",
            "fire engine",
            "flag JP",
        ),
    )
    c.data.hold_out = 0.15
    c.duration = "20000 steps"
    c.guidance.scale = 2.0
    return c


def _folder():
    c = _told_captions(ddpm.get_config("fashion"), 256, ("",))
    c.data.source = "folder:"
    c.data.image_size = 64
    c.data.channels = 3
    c.network.multipliers = (1, 2, 2, 2)
    c.network.attention_levels = (2, 3)
    c.text_encoder.width = 512
    c.text_encoder.layers = 8
    c.text_encoder.heads = 8
    return c
