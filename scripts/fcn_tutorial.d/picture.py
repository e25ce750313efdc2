"""The tutorial's picture: an image goes in, and the classes of its pixels come out in colours."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from igniter_prof import serving, zoo
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.records import Sweep, Tenant

SIDE = 224
LONGEST_SIDE = 2 * SIDE
"""Of a photo: more needs more memory than the smallest container has."""
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGENET_SPREAD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
CLASSES = 21
PALETTE = np.array([2**25 - 1, 2**15 - 1, 2**21 - 1])
TIMEOUT_S = 60


def paint(path: Path, photo: Path | None) -> Path:
    """Write the input image: a user's photo, or a flower before the sky."""
    if photo is not None:
        try:
            with Image.open(photo) as image:
                image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
                image.convert("RGB").save(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadInput(f"is no readable image ({error})", where=str(photo)) from error
        return path
    large = 4 * SIDE  # drawn large and made small: smooth edges
    sky = np.linspace((120, 170, 230), (225, 235, 245), large)
    image = Image.fromarray(np.repeat(sky[:, None], large, axis=1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, int(0.8 * large), large, large), fill=(70, 120, 50))
    middle, reach, petal = (0.5 * large, 0.4 * large), 0.2 * large, 0.1 * large
    draw.line((*middle, 0.52 * large, 0.95 * large), fill=(40, 100, 40), width=large // 30)
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        x, y = middle[0] + reach * np.cos(angle), middle[1] + reach * np.sin(angle)
        draw.ellipse((x - petal, y - petal, x + petal, y + petal), fill=(215, 60, 90))
    heart = 0.12 * large
    box = (middle[0] - heart, middle[1] - heart, middle[0] + heart, middle[1] + heart)
    draw.ellipse(box, fill=(245, 200, 60))
    image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return path


def tensor_of(picture: Path, scale: float = 1.0) -> Any:
    """The image at a scale (cubic) as the network wants it: (1, 3, H, W) float32."""
    with Image.open(picture) as image:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, dtype=np.float32) / 255
    return ((pixels - IMAGENET_MEAN) / IMAGENET_SPREAD).transpose(2, 0, 1)[None]


def segment(sweep: Sweep, picture: Path) -> Any:
    """Start one container, ask it as the tutorial does, and take the class of each pixel.

    Returns:
        (height, width) of uint8, the image's size.
    """
    (model,) = sweep.models
    assert model.http is not None, "the tutorial's sweep"
    options = serving.ServeOptions(runtime=sweep.runtime, http={model.name: model.http})
    device = serving.device_for("cpu", options)
    tenant = Tenant(model=model.name, share_pct=None, cpu_cores=1, memory_mib=2048)
    with Image.open(picture) as image:
        size = [image.height, image.width]
    document = {"tensor": tensor_of(picture).tolist(), "orig_size": size}
    try:
        with serving.deploy(device, [tenant], options=options) as deployment:
            address = deployment.endpoints[0].http_address
            answer = post(f"http://{address}{model.http.path}", document)
        classes = np.asarray(answer["segmentation"], dtype=np.uint8)
    except serving.TenantFailure as failure:
        raise OutsideFailure(f"the server did not start: {failure.detail}") from failure
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutsideFailure(f"no segmentation came back: {error!r}") from error
    if list(classes.shape) != size:
        raise OutsideFailure(f"the answer has the size {classes.shape}, not {size}")
    return classes


def post(url: str, document: Any) -> Any:
    """Send JSON over a connection of its own, past any proxy; the answer's JSON."""
    headers = {"Content-Type": "application/json", "Connection": "close"}
    request = urllib.request.Request(url, json.dumps(document).encode(), headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def colours_of() -> Any:
    """The tutorial's colour of each class: (21, 3) of uint8."""
    return (np.arange(CLASSES)[:, None] * PALETTE % 255).astype(np.uint8)


def show(picture: Path, classes: Any, path: Path) -> list[Path]:
    """Write the palette picture, and one with the image beside it and the names of its classes."""
    colours = colours_of()
    palette = Image.fromarray(classes)
    palette.putpalette(colours.flatten().tolist())
    palette.save(path)
    labels = (zoo.repository_root() / "fcn_resnet50" / "labels.txt").read_text().split()
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    with Image.open(picture) as image:
        left.imshow(image.convert("RGB"))
    left.set_title("image")
    right.imshow(colours[classes])
    trained = zoo.installed("fcn_resnet50") is not None
    right.set_title("segmentation" if trained else "segmentation (random weights: no meaning)")
    for axes in (left, right):
        axes.set_axis_off()
    shares = np.bincount(classes.ravel(), minlength=CLASSES) / classes.size
    for index in np.argsort(-shares)[:6]:
        if shares[index] > 0:
            text = f"{labels[index]} {100 * shares[index]:.0f}%"
            right.scatter([], [], s=90, marker="s", color=colours[index] / 255, label=text)
    right.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    beside = path.with_name(f"{path.stem}_beside.png")
    figure.savefig(beside, dpi=150)
    return [path, beside]
