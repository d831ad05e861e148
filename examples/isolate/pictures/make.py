"""Draws the pictures of this directory anew: `python3 make.py DIRECTORY`. Needs numpy and Pillow."""
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

OUT = Path(sys.argv[1])


def save(image, name, **options):
    image.save(OUT / name, **options)
    print(name, image.mode, image.size, (OUT / name).stat().st_size)


def sunset():
    """sunset.png: RGB, smooth gradients with a low sun"""
    h, w = 180, 320
    y, x = np.mgrid[0:h, 0:w].astype(float)
    t = y / h
    sky = np.stack([40 + 215 * t**0.7, 30 + 120 * t**1.6, 90 + 30 * np.sin(np.pi * t)], -1)
    d = np.hypot(x - 215, y - 128)
    sun = np.clip(1 - (d - 24) / 2, 0, 1)[..., None]
    glow = np.exp(-d / 40)[..., None] * 0.6
    image = sky * (1 - glow) + np.array([255, 214, 120.0]) * glow
    image = image * (1 - sun) + np.array([255, 240, 200.0]) * sun
    sea = (y > 135)[..., None]
    water = np.stack([70 + 90 * np.exp(-np.abs(x - 215) / 30), 45 + 60 * np.exp(-np.abs(x - 215) / 25), 80 + 0 * x], -1)
    water *= (0.75 + 0.25 * np.sin(np.maximum(y - 135, 0) ** 1.3 / 2 + x / 25))[..., None]
    image = np.where(sea, water, image)
    return Image.fromarray(np.clip(image // 3 * 3, 0, 255).astype(np.uint8), "RGB")


def rings():
    """rings.png: RGBA, overlapping translucent discs"""
    size = 192
    y, x = np.mgrid[0:size, 0:size].astype(float)
    rgba = np.zeros((size, size, 4))
    for k, colour in enumerate([(230, 57, 70), (29, 130, 190), (244, 180, 26)]):
        a = 2 * np.pi * k / 3 - np.pi / 2
        d = np.hypot(x - size / 2 - 36 * np.cos(a), y - size / 2 - 36 * np.sin(a))
        alpha = np.clip(56 - d, 0, 1) * 0.66
        old = rgba[..., 3]
        out = alpha + old * (1 - alpha)
        for c in range(3):
            mixed = colour[c] * alpha + rgba[..., c] * old * (1 - alpha)
            rgba[..., c] = np.where(out > 0, mixed / np.maximum(out, 1e-9), 0)
        rgba[..., 3] = out
    rgba[..., 3] *= 255
    return Image.fromarray(rgba.round().astype(np.uint8), "RGBA")


def escape_times(z, c, limit):
    """How soon each z leaves the disc of radius 8 under z*z + c (smooth; 0 where it never does)."""
    times = np.zeros(z.shape)
    inside = np.ones(z.shape, bool)
    for i in range(limit):
        z[inside] = z[inside] ** 2 + c[inside]
        gone = inside & (np.abs(z) > 8)
        times[gone] = i + 1 - np.log2(np.log2(np.abs(z[gone])))
        inside &= ~gone
    return times, inside


def plane(w, h, centre, span):
    y, x = np.mgrid[0:h, 0:w]
    return centre + ((x - w / 2) + 1j * (y - h / 2)) * span / w


def mandelbrot():
    """mandelbrot.png: palette of 32 colours"""
    c = plane(280, 200, -0.65, 3.1)
    n, inside = escape_times(np.zeros_like(c), c, 90)
    index = (1 + np.clip(np.sqrt(np.maximum(n, 0)) * 3.4, 0, 30)).astype(np.uint8)
    index[inside] = 0
    image = Image.fromarray(index, "P")
    palette = [0, 0, 0]
    for i in range(1, 32):
        t = i / 31
        palette += [int(255 * min(1, 1.6 * t * t)), int(255 * t**0.9 * (1 - 0.35 * t)), int(70 + 160 * t * (1 - t) * 2)]
    image.putpalette(palette)
    return image


def terrain16():
    """terrain16.png: greyscale, 16 bits a sample"""
    rng = np.random.default_rng(7)
    size = 96
    out = np.zeros((size, size))
    for octave in range(3):
        k = 3 * 2**octave
        grid = rng.random((k + 1, k + 1))
        t = np.linspace(0, k, size, endpoint=False)
        i = t.astype(int)
        f = (t - i) ** 2 * (3 - 2 * (t - i))
        row = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
        out += (row[:, i] * (1 - f) + row[:, i + 1] * f) / 2.2**octave
    out = (out - out.min()) / (out.max() - out.min())
    return Image.fromarray((out * 65535).astype(np.uint16))


def julia():
    """julia.jpg: RGB"""
    z = plane(280, 200, 0, 3.1)
    n, _ = escape_times(z, np.full_like(z, -0.8 + 0.156j), 120)
    t = np.sqrt(np.clip(n, 0, 120) / 120)
    rgb = np.stack([255 * t**0.6, 255 * t**1.4, 60 + 140 * (1 - t) * t * 2], -1)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8), "RGB")


def plot():
    """plot.jpg: greyscale"""
    w, h, k = 300, 180, 3
    image = Image.new("L", (w * k, h * k), 250)
    draw = ImageDraw.Draw(image)
    for i in range(7):
        draw.line([(20 * k, (20 + 23 * i) * k), ((w - 12) * k, (20 + 23 * i) * k)], fill=222, width=k)
    xs = np.linspace(0, 1, 600)
    for phase, shade in [(0.0, 40), (1.4, 120), (2.8, 175)]:
        ys = np.exp(-2.2 * xs) * np.sin(22 * xs + phase)
        curve = [((20 + x * (w - 32)) * k, (89 - y * 62) * k) for x, y in zip(xs, ys)]
        draw.line(curve, fill=shade, width=2 * k, joint="curve")
    draw.line([(20 * k, 12 * k), (20 * k, 166 * k), ((w - 12) * k, 166 * k)], fill=20, width=k * 3 // 2)
    return image.resize((w, h), Image.LANCZOS)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    """A PNG whose header claims 60000 x 60000 pixels; one row of them is there."""
    side = 60_000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    row = zlib.compress(bytes(1 + 3 * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


save(sunset(), "sunset.png", optimize=True)
save(rings(), "rings.png", optimize=True)
save(mandelbrot(), "mandelbrot.png", optimize=True)
save(terrain16(), "terrain16.png", optimize=True)
save(julia(), "julia.jpg", quality=80, optimize=True)
save(plot(), "plot.jpg", quality=80, optimize=True)
whole = (OUT / "julia.jpg").read_bytes()
(OUT / "damaged-truncated.jpg").write_bytes(whole[:300])
(OUT / "damaged-bomb.png").write_bytes(bomb())
