"""Put what the recipes made into the package, as the bundled models `tiny` and `tiny-i2v`.

    python recipes/bundle.py [--assets FOLDER]

The two must have one VAE and one text encoder between them: `tiny-i2v` gets a `shared.json` that names `tiny`.
Configuration is written from the table of variants, so that its defaults are those of the code.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from cogworks.config.variants import TINY, TINY_I2V, Variant
from cogworks.errors import CogworksError, WeightsError
from cogworks.weights.convert import read_content
from cogworks.weights.fingerprint import part_hash
from cogworks.weights.save import write_diffusers
from cogworks.weights.shared import SHARED_FILE
from cogworks.weights.source import ASSETS, resolve
from cogworks.weights.storage import replacing_folder

SHARED = ("vae", "text_encoder", "tokenizer")


def bundle(text_to_video: Path, image_to_video: Path, assets: Path) -> None:
    """Write both models. Raises WeightsError if they do not share VAE and text encoder, or are not what they should."""
    text, image = resolve(text_to_video), resolve(image_to_video)
    for part in ("vae", "text_encoder"):
        if part_hash(text, part) != part_hash(image, part):
            raise WeightsError(f"{text_to_video} and {image_to_video} differ in {part}: train the second on the first")
    write(text_to_video, assets / TINY.name, TINY)
    write(image_to_video, assets / TINY_I2V.name, TINY_I2V)
    for part in SHARED:
        shutil.rmtree(assets / TINY_I2V.name / part)
    shared = json.dumps({"parts_from": f"../{TINY.name}"}, indent=2)
    (assets / TINY_I2V.name / SHARED_FILE).write_text(shared + "\n", encoding="utf-8")


def write(source: Path, target: Path, variant: Variant) -> None:
    """Write the model in `source` to `target`, in place of what is there."""
    content = read_content(resolve(source))
    if (content.variant.transformer, content.variant.vae) != (variant.transformer, variant.vae):
        raise WeightsError(f"{source} is not a {variant.name}: its configuration is another one")
    with replacing_folder(target) as new:
        write_diffusers(new, replace(content, variant=variant))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text-to-video", type=Path, default=Path("runs/tiny-t2v-encoder/model"))
    parser.add_argument("--image-to-video", type=Path, default=Path("runs/tiny-i2v/model"))
    parser.add_argument("--assets", type=Path, default=ASSETS)
    options = parser.parse_args()
    try:
        bundle(options.text_to_video, options.image_to_video, options.assets)
    except CogworksError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
