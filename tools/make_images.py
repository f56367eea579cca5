#!/usr/bin/env python3
"""Makes a folder of larger JPEG images from one of smaller ones, to measure decoding.

    apt-get install python3-pil
    python3 tools/make_images.py FROM TO [--size 500x375] [--quality 90] [--train 512] [--val 128]

Enlarged images are smooth, and smooth ones are decoded faster than photographs; so each gets noise, which brings its
file to the size of such a photograph in ImageNet (110 kB on average). Every second one is upright.
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageChops


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--train", type=int, default=512)
    parser.add_argument("--val", type=int, default=128)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    random.seed(0)
    noise = Image.frombytes("L", (64 * 16, 64 * 16), random.randbytes(64 * 16 * 64 * 16)).convert("RGB")
    total = count = 0
    for split, wanted in [("train", options.train), ("val", options.val)]:
        classes = sorted(folder for folder in (options.source / split).iterdir() if folder.is_dir())
        files = [sorted(folder.iterdir()) for folder in classes]
        for i in range(wanted):
            folder, file = classes[i % len(classes)], files[i % len(classes)]
            size = (width, height) if i % 2 == 0 else (height, width)
            image = Image.open(file[i // len(classes) % len(file)]).convert("RGB").resize(size, Image.BICUBIC)
            left, top = random.randrange(1024 - size[0] + 1), random.randrange(1024 - size[1] + 1)
            grain = noise.crop((left, top, left + size[0], top + size[1])).point(lambda value: value // 6)
            place = options.target / split / folder.name / f"{i}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            ImageChops.add(image, grain, offset=-21).save(place, quality=options.quality)
            total, count = total + place.stat().st_size, count + 1
    print(f"{count} images of {options.size}, {total / count / 1000:.0f} kB on average")


main()
