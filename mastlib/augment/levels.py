"""Augmentations that map each channel value to another, wherever the pixel is: inversion, thresholds, bits, stretching."""

from __future__ import annotations

import torch
from torch import Tensor

from mastlib.augment.kernels import kernel
from mastlib.augment.ops import Op, Range, check_range, uniform
from mastlib.errors import check_int, refuse

LEVELS = 256  # of an 8-bit channel


class Switch(Op):
    """An augmentation without a strength: its one parameter is 1 where applied, else 0."""

    identity = torch.zeros(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones(n, 1, device=generator.device if generator is not None else None)


class AutoContrast(Switch):
    """Each channel stretched to [0, 1]: (x - min) / (max - min), a channel of one value left alone: 1 if applied, else 0.

    Source: AutoAugment (Cubuk et al., CVPR 2019), after PIL's ImageOps.autocontrast without a cut-off.
    """

    name = "autocontrast"

    @staticmethod
    @kernel
    def transform(images: Tensor, params: Tensor) -> Tensor:
        low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
        flat = low == high
        return ((images - low.masked_fill(flat, 0)) / (high - low).masked_fill(flat, 1)).clamp_(0, 1)


class Equalize(Switch):
    """Each channel's values spread evenly by its cumulative histogram of 256 levels: 1 if applied, else 0.

    With H the number of pixels of levels below v, and s = (pixels - pixels of the highest level present) // 255 (integers):
    v becomes min(255, (H + s // 2) // s); a channel with s = 0 keeps its levels. Images are rounded down to 8 bits.
    Source: AutoAugment (Cubuk et al., CVPR 2019), after PIL's ImageOps.equalize.
    """

    name = "equalize"

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        level = (images * (LEVELS - 1e-3)).long().flatten(2)  # (N, 3, H W); 1 becomes 255, as torchvision rounds
        counts = torch.zeros(*level.shape[:2], LEVELS, dtype=torch.long, device=images.device)
        counts.scatter_add_(2, level, torch.ones_like(level))
        step = (level.shape[2] - counts.gather(2, level.amax(dim=2, keepdim=True))) // (LEVELS - 1)
        below = counts.cumsum(dim=2) - counts
        spread = ((below + step // 2) // step.clamp(min=1)).clamp_(max=LEVELS - 1)
        spread = torch.where(step > 0, spread, torch.arange(LEVELS, device=images.device))
        return (spread.gather(2, level).float() / (LEVELS - 1)).view_as(images)


class Invert(Switch):
    """1 - x: 1 if applied, else 0. Source: AutoAugment (Cubuk et al., CVPR 2019)."""

    name = "invert"

    @staticmethod
    @kernel
    def transform(images: Tensor, params: Tensor) -> Tensor:
        return 1 - images


class Posterize(Op):
    """Channels kept to their highest bits: the number of bits, 8 where not applied.

    x becomes min(floor(2^b x), 2^b - 1) / 2^b. Bits are drawn evenly from the integers of `bits` (low, high), within 1 to 8;
    eight leave an 8-bit image as it is, so they stand for the identity. Source: CLSA (Wang and Qi, 2021), code: 4 to 7.
    """

    name = "posterize"
    identity = torch.full((1,), 8.0)

    def __init__(self, bits: tuple[int, int] = (4, 7), p: float = 0.5) -> None:
        super().__init__(p)
        if not isinstance(bits, tuple) or len(bits) != 2 or bits[0] > bits[1]:
            raise refuse("posterize.bits", bits, "a pair (low, high) with low <= high")
        self.bits = check_int("posterize.bits[0]", bits[0], 1, 8), check_int("posterize.bits[1]", bits[1], 1, 8)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        device = generator.device if generator is not None else None
        return torch.randint(self.bits[0], self.bits[1] + 1, (n, 1), generator=generator, device=device).float()

    def ranges(self) -> tuple[Range, ...]:
        return (Range("bits", "a channel", self.bits[0], 8, whole=True),)

    @staticmethod
    @kernel
    def transform(images: Tensor, params: Tensor) -> Tensor:
        levels = torch.exp2(params)[:, :, None, None]
        return torch.minimum((images * levels).floor_(), levels - 1) / levels


class Solarize(Op):
    """Values at or above a threshold inverted, x >= t becomes 1 - x: the threshold t, 1 where not applied.

    t ~ U(threshold), within [0, 1]. At t = 1 nothing changes, white included (AugSelf's identity).
    Source: CLSA (Wang and Qi, 2021), code: 26 to 231 of 256.
    """

    name = "solarize"
    identity = torch.ones(1)

    def __init__(self, threshold: tuple[float, float] = (26 / 256, 231 / 256), p: float = 0.5) -> None:
        super().__init__(p)
        self.threshold = check_range("solarize.threshold", threshold, 0.0, 1.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return uniform((n, 1), *self.threshold, generator)

    def ranges(self) -> tuple[Range, ...]:
        return (Range("threshold", "of 1", *self.threshold),)

    @staticmethod
    @kernel
    def transform(images: Tensor, params: Tensor) -> Tensor:
        return torch.where(images >= params[:, :, None, None], 1 - images, images)


class SolarizeAdd(Op):
    """Values below a half raised, x < .5 becomes min(1, x + a): the addition a, 0 where not applied.

    a ~ U(addition), within [0, 1]. Source: AutoAugment's code (Cubuk et al., CVPR 2019) and InfoMin (Tian et al., NeurIPS
    2020): up to 110 of 256.
    """

    name = "solarize_add"
    identity = torch.zeros(1)

    def __init__(self, addition: tuple[float, float] = (0.0, 110 / 256), p: float = 0.5) -> None:
        super().__init__(p)
        self.addition = check_range("solarize_add.addition", addition, 0.0, 1.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return uniform((n, 1), *self.addition, generator)

    def ranges(self) -> tuple[Range, ...]:
        return (Range("addition", "of 1", *self.addition),)

    @staticmethod
    @kernel
    def transform(images: Tensor, params: Tensor) -> Tensor:
        raised = (images + params[:, :, None, None]).clamp_(max=1)
        return torch.where(images < 0.5, raised, images)
