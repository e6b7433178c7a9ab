"""Scenes: bank objects composited on backgrounds, every latent known, every scene a function of (seed, index) alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mastlib.errors import check_int, refuse

PLAIN, GRADIENT, PHOTO = 0, 1, 2  # background kinds
BACKGROUND_SHARES = (0.7, 0.2, 0.1)  # of scenes, in that order
BLUR_RADIUS = 3  # pixels on each side of the blur kernel
CHUNK = 1024  # bank images resampled at once

# Latents drawn per object and per scene; the position in these tuples is the random stream, so append, never reorder.
OBJECT_LATENTS = ("sprite", "x", "y", "scale", "rotation", "hue_shift", "value")
SCENE_LATENTS = (
    "objects", "light_direction", "light_strength", "light_hue", "light_saturation", "background_kind", "background",
    "background_hue", "background_saturation", "background_value", "background_angle", "blurred", "blur", "exposure",
)  # fmt: skip


@dataclass(frozen=True)
class Ranges:
    """Ranges (low, high) that latents are drawn from, uniformly; a range of no width fixes the latent.

    Positions and scale in fractions of the canvas side (x, y: the object's centre; scale: longer side of its alpha box);
    angles in turns (1 = 360 degrees, counter-clockwise); hues as fractions of the colour circle; exposure in stops; blur:
    sigma as fraction of the side, given to a share `blurred` of the scenes.
    """

    x: tuple[float, float] = (0.42, 0.58)
    y: tuple[float, float] = (0.42, 0.58)
    scale: tuple[float, float] = (0.7, 1.0)
    rotation: tuple[float, float] = (-0.03, 0.03)
    hue_shift: tuple[float, float] = (0.0, 0.0)
    value: tuple[float, float] = (1.0, 1.0)
    objects: tuple[int, int] = (1, 1)
    light_direction: tuple[float, float] = (0.0, 1.0)
    light_strength: tuple[float, float] = (0.0, 0.1)
    light_hue: tuple[float, float] = (0.0, 1.0)
    light_saturation: tuple[float, float] = (0.0, 0.02)
    background_hue: tuple[float, float] = (0.0, 1.0)
    background_saturation: tuple[float, float] = (0.0, 0.1)
    background_value: tuple[float, float] = (0.6, 1.0)
    background_angle: tuple[float, float] = (0.0, 1.0)
    blurred: float = 0.02
    blur: tuple[float, float] = (0.01, 0.03)
    exposure: tuple[float, float] = (-0.05, 0.05)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise refuse(field.name, value, "a range (low, high) with low <= high")
        if self.objects[0] < 1:
            raise refuse("objects", self.objects, "a range of integers from 1")


#: One object, its own colours: pre-training, and the tasks whose labels live in the drawing.
OBJECTS = Ranges()
#: One object, every latent wide open: regression of the latents themselves.
LATENTS = Ranges(
    x=(0.25, 0.75), y=(0.25, 0.75), scale=(0.35, 0.9), rotation=(-0.5, 0.5), hue_shift=(-0.5, 0.5), value=(0.6, 1.0),
    light_saturation=(0.0, 0.35), light_strength=(0.0, 0.8), exposure=(-0.7, 0.7),
    background_saturation=(0.0, 0.5), background_value=(0.4, 1.0), blurred=0.1,
)  # fmt: skip
#: Two to five objects: detection and segmentation.
MULTIPLE = Ranges(x=(0.15, 0.85), y=(0.15, 0.85), scale=(0.25, 0.5), objects=(2, 5))


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes: images `(N, 3, S, S)` uint8; masks `(N, O, S, S)` bool, visible pixels of each object; boxes
    `(N, O, 4)` float (x0, y0, x1, y1) in pixels around the visible mask, zeros where an object is absent or hidden."""

    images: Tensor
    masks: Tensor
    boxes: Tensor


def uniforms(seed: int, index: np.ndarray, streams: int) -> np.ndarray:
    """Uniform numbers in [0, 1), `(N, streams)`, each a function of (seed, index, stream): SplitMix64 of the three.

    Counter-based, so any subset in any order and any batch gives the same scenes. Source: Steele, Lea and Flood 2014.
    """
    with np.errstate(over="ignore"):
        state: Any = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + index.astype(np.uint64)[:, None]
        state = state * np.uint64(0x2545F4914F6CDD1D) + np.arange(1, streams + 1, dtype=np.uint64)
        for _ in range(2):  # twice: neighbouring indices differ in few bits
            state = state + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


def draw(
    seed: int,
    index: np.ndarray,
    ranges: Ranges,
    backgrounds: int,
    weights: np.ndarray | None = None,
    sprite: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Latents of the scenes `index` `(N,)`: per object `(N, O)`, per scene `(N,)`; deterministic in (seed, index).

    Sprites are drawn with probability proportional to `weights` `(rows of the bank,)`, or given as `sprite` `(N, O)`.
    `backgrounds` is the number of background photographs. Absent objects have sprite -1.
    """
    check_int("seed", seed, 0)
    most, n_object = ranges.objects[1], len(OBJECT_LATENTS)
    u = uniforms(seed, np.asarray(index), len(SCENE_LATENTS) + most * n_object)
    scene, objects = u[:, : len(SCENE_LATENTS)], u[:, len(SCENE_LATENTS) :].reshape(len(u), most, n_object)

    def spread(values: np.ndarray, name: str) -> np.ndarray:
        low, high = getattr(ranges, name)
        return np.asarray(low + (high - low) * values, dtype=np.float32)

    latents = {name: spread(objects[..., i], name) for i, name in enumerate(OBJECT_LATENTS) if name != "sprite"}
    by_name = dict(zip(SCENE_LATENTS, scene.T, strict=True))
    latents |= {
        name: spread(by_name[name], name)
        for name in SCENE_LATENTS
        if name not in ("objects", "background_kind", "background", "blurred")
    }
    latents["blur"] = latents["blur"] * (by_name["blurred"] < ranges.blurred)
    latents["background_kind"] = np.searchsorted(np.cumsum(BACKGROUND_SHARES), by_name["background_kind"], side="right")
    latents["background"] = (by_name["background"] * backgrounds).astype(np.int64)
    if sprite is None:
        if weights is None:
            raise refuse("weights", None, "one weight per bank row, where sprites are not given")
        ends = np.cumsum(weights, dtype=np.float64)
        sprite = np.searchsorted(ends / ends[-1], objects[..., 0], side="right").clip(max=len(ends) - 1)
    low, high = ranges.objects
    count = low + (by_name["objects"] * (high - low + 1)).astype(np.int64)
    latents["sprite"] = np.where(np.arange(most) < count[:, None], sprite, -1)
    return latents


class Renderer:
    """Renders scenes from a bank's `images` `(B, 4, 64, 64)` uint8 RGBA and `backgrounds` `(P, 3, 64, 64)` uint8.

    `size` is the canvas side in pixels, 8 to 512. Deterministic; runs where `device` says.
    """

    def __init__(self, images: Tensor, backgrounds: Tensor, size: int, device: torch.device | str = "cpu") -> None:
        self.size = check_int("image_size", size, 8, 512)
        self.device = torch.device(device)
        # Resampled once to about the canvas' resolution: what is left to a scene is one bilinear look-up per pixel.
        side = min(images.shape[-1], max(size, 16))
        self.sprites = torch.cat([prepare_sprites(part.to(self.device), side) for part in images.split(CHUNK)])
        self.photos = torch.cat([_resize(part.to(self.device), size) for part in backgrounds.split(CHUNK)])

    def __call__(self, latents: dict[str, np.ndarray]) -> Scenes:
        """Scenes of `latents` (from `draw`), in the given order; later objects cover earlier ones."""
        t = {name: torch.from_numpy(np.ascontiguousarray(values)).to(self.device) for name, values in latents.items()}
        canvas = self._background(t)
        masks: list[Tensor] = []
        for o in range(t["sprite"].shape[1]):
            colour, alpha = self._object(t, o)
            canvas = canvas * (1 - alpha) + colour
            covered = alpha[:, 0] > 0.5
            masks = [earlier & ~covered for earlier in masks] + [covered]
        light = 1 - t["light_saturation"][:, None] * (1 - _hue_colour(t["light_hue"]))
        canvas = canvas * (light * torch.exp2(t["exposure"])[:, None])[:, :, None, None]
        canvas = self._blur(canvas, t["blur"])
        visible = torch.stack(masks, dim=1)
        return Scenes((canvas.clamp(0, 1) * 255).round().to(torch.uint8), visible, _boxes(visible))

    def _background(self, t: dict[str, Tensor]) -> Tensor:
        """Plain colour, a linear gradient to half that colour, or a photograph, `(N, 3, S, S)`."""
        s = self.size
        base = t["background_value"][:, None] * (
            1 - t["background_saturation"][:, None] * (1 - _hue_colour(t["background_hue"]))
        )
        canvas = base[:, :, None, None].expand(-1, -1, s, s).clone()
        axis = (torch.arange(s, device=self.device) + 0.5) / s - 0.5
        gradient = torch.nonzero(t["background_kind"] == GRADIENT).squeeze(1)
        if len(gradient):
            angle = 2 * torch.pi * t["background_angle"][gradient]
            along = angle.cos()[:, None, None] * axis + angle.sin()[:, None, None] * axis[:, None]
            canvas[gradient] *= (0.75 + 0.35 * along)[:, None]
        photo = torch.nonzero(t["background_kind"] == PHOTO).squeeze(1)
        if len(photo):
            canvas[photo] = self.photos[t["background"][photo]].float() / 255
        return canvas

    def _object(self, t: dict[str, Tensor], o: int) -> tuple[Tensor, Tensor]:
        """Object `o` of every scene: shaded colour times alpha `(N, 3, S, S)`, and alpha `(N, 1, S, S)`."""
        sprite = t["sprite"][:, o]
        layers = self.sprites[sprite.clamp(min=0)].float() / 255
        angle, scale = 2 * torch.pi * t["rotation"][:, o], t["scale"][:, o]
        cos, sin = angle.cos() / scale, angle.sin() / scale
        dx, dy = 2 * t["x"][:, o] - 1, 2 * t["y"][:, o] - 1
        # Canvas to sprite coordinates, both in [-1, 1] with y down; counter-clockwise as seen.
        theta = torch.stack([cos, -sin, sin * dy - cos * dx, sin, cos, -sin * dx - cos * dy], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, [len(theta), 1, self.size, self.size], align_corners=False)
        sampled = F.grid_sample(layers, grid, padding_mode="zeros", align_corners=False)
        alpha = sampled[:, 3:4] * (sprite >= 0)[:, None, None, None]
        colour = _rotate_hue(sampled[:, :3], t["hue_shift"][:, o]).clamp(min=0) * (sprite >= 0)[:, None, None, None]
        return colour * (t["value"][:, o, None, None, None] * self._shade(sampled[:, 4:], t)), alpha

    def _shade(self, height: Tensor, t: dict[str, Tensor]) -> Tensor:
        """Lambert-like shading: 1 + strength * slope of the height towards the light, `(N, 1, S, S)`, at least 0.3."""
        pad = F.pad(height, (1, 1, 1, 1), mode="replicate")
        gx, gy = pad[:, :, 1:-1, 2:] - pad[:, :, 1:-1, :-2], pad[:, :, 2:, 1:-1] - pad[:, :, :-2, 1:-1]
        angle = (2 * torch.pi * t["light_direction"])[:, None, None, None]
        towards = -(gx * angle.cos() - gy * angle.sin()) * self.size / 8
        return (1 + t["light_strength"][:, None, None, None] * towards.clamp(-1.5, 1.5)).clamp(min=0.3)

    def _blur(self, canvas: Tensor, sigma: Tensor) -> Tensor:
        """Separable Gaussian blur of the scenes with sigma > 0 (fraction of the side)."""
        chosen = torch.nonzero(sigma > 0).squeeze(1)
        if not len(chosen):
            return canvas
        offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=self.device)
        kernel = torch.exp(-0.5 * (offsets / (sigma[chosen, None] * self.size)) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
        picked = canvas[chosen].reshape(1, -1, self.size, self.size)
        groups, r = picked.shape[1], BLUR_RADIUS
        picked = F.conv2d(F.pad(picked, (r, r, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=groups)
        picked = F.conv2d(F.pad(picked, (0, 0, r, r), mode="replicate"), kernel[:, None, :, None], groups=groups)
        canvas = canvas.clone()
        canvas[chosen] = picked.view(-1, 3, self.size, self.size)
        return canvas


def _resize(images: Tensor, side: int) -> Tensor:
    """uint8 images `(N, C, S, S)` resampled to `side` px with antialiasing, uint8."""
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def prepare_sprites(images: Tensor, side: int) -> Tensor:
    """RGBA `(N, 4, S, S)` uint8 to premultiplied RGB, alpha and height `(N, 5, side, side)` uint8.

    Premultiplied, because a resampled straight-alpha drawing gets dark rims.
    """
    alpha = images[:, 3:].float() / 255
    layers = F.interpolate(
        torch.cat([images[:, :3].float() / 255 * alpha, alpha], dim=1),
        (side, side), mode="bilinear", antialias=True, align_corners=False,
    )  # fmt: skip
    layers = torch.cat([layers, _height(layers[:, 3:])], dim=1)
    return (layers.clamp(0, 1) * 255).round().to(torch.uint8)


def _height(alpha: Tensor) -> Tensor:
    """A dome over the object from its alpha `(N, 1, s, s)`: the square root of a soft distance to the outline, in [0, 1].

    The distance is the mean of alpha under growing boxes: near 1/2 on a straight outline, 1 deep inside.
    """
    side = alpha.shape[-1]
    radii = [max(1, side // d) for d in (16, 8, 4)]
    soft = torch.zeros_like(alpha)
    for r in radii:  # a box is a column of rows: one after the other, for the largest is a thousand pixels
        columns = F.avg_pool2d(alpha, (2 * r + 1, 1), 1, (r, 0))
        soft += F.avg_pool2d(columns, (1, 2 * r + 1), 1, (0, r)) / len(radii)
    return ((soft - 0.5).clamp(min=0) * 2).sqrt() * alpha


def _hue_colour(hue: Tensor) -> Tensor:
    """Fully saturated RGB of `hue` `(N,)` in turns -> `(N, 3)`: the hexagon's piecewise linear ramps."""
    offsets = torch.tensor([0.0, 4.0, 2.0], device=hue.device)
    ramp = ((hue[:, None] % 1) * 6 + offsets) % 6
    return ((ramp - 3).abs() - 1).clamp(0, 1)


def _rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate colours about the grey axis by `turns` `(N,)` (Rodrigues' formula): linear, so it commutes with alpha."""
    if not turns.any():
        return images
    angle = 2 * torch.pi * turns
    cos, sin = angle.cos(), angle.sin() / 3**0.5
    shift = torch.tensor([[0, -1.0, 1.0], [1.0, 0, -1.0], [-1.0, 1.0, 0]], device=images.device)
    matrix = (
        cos[:, None, None] * torch.eye(3, device=images.device)
        + sin[:, None, None] * shift
        + ((1 - cos) / 3)[:, None, None]
    )
    return torch.einsum("nij,njhw->nihw", matrix, images)


def _boxes(masks: Tensor) -> Tensor:
    """Tight boxes `(N, O, 4)` (x0, y0, x1, y1), x1 and y1 exclusive, of masks `(N, O, S, S)`; zeros where empty."""
    columns, rows = masks.any(dim=2), masks.any(dim=3)

    def ends(hit: Tensor) -> tuple[Tensor, Tensor]:
        hit = hit.to(torch.uint8)
        return hit.argmax(-1), hit.shape[-1] - hit.flip(-1).argmax(-1)

    (x0, x1), (y0, y1) = ends(columns), ends(rows)
    boxes = torch.stack([x0, y0, x1, y1], dim=-1).float()
    return boxes * masks.any(dim=(2, 3))[..., None]
