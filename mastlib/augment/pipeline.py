"""Several augmentations in a row, and pairs of views with known parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from mastlib.augment.colour import ColorJitter
from mastlib.augment.geometry import Geometry, RandomResizedCrop, warp
from mastlib.augment.kernels import compiled
from mastlib.augment.moves import Move
from mastlib.augment.ops import Op, check_images, check_params, resident, to_float, uniform
from mastlib.errors import check_choice, check_float, check_int, refuse

PAIRINGS = ("independent", "plain", "composed", "isolate_one", "isolate_each", "mixed", "leave_one_out")

CACHED_FLOATS = 2**21  # of the views in the making: 8 MiB

Params = dict[str, Tensor]  # name -> (N, p)
Applied = dict[str, Tensor]  # name -> (N,) bool


@dataclass  # not frozen: Fabric hands the fields on to its precision plugin by setting them on a copy
class Views:
    """V views of N images and everything that was done to make them; K augmentations, in the pipeline's order.

    `images` (V, N, 3, H, W) float32 in [0, 1]. `params[name]` (V, N, p): see each op for units; the identity where it
    was not applied. The crop is told in the source's frame: as seen in the view, x_c is 1 - x_c where flip = 1.
    `applied[name]` (V, N) bool. `changed` (N,) long: index of the augmentation in which views 0 and 1 differ (the crop
    besides it as `crop_redrawn` says), -1 where several may. `color_diff` (V, N, 3), on request: mean of each channel before
    the colour jitter less that after it, 0 where it was not applied.
    """

    images: Tensor
    params: Params
    applied: Applied
    changed: Tensor
    color_diff: Tensor | None = None


class Pipeline:
    """`ops` in order; sampling and applying are apart, and `apply` is deterministic.

    `exact`: what interpolates has a pass of its own, so the result is that of one op after the other; otherwise
    neighbouring moves (rotation, shears, translations) share one, which blurs less than two do.
    `compiled`: the arithmetic runs as compiled code (torch.compile; needs a C++ compiler where images are on the CPU),
    several times as fast once compiled, which takes up to a minute on a machine's first use; results agree to rounding.
    Raises InputError where there is no op or two have the same name.
    """

    def __init__(self, ops: Sequence[Op], exact: bool = True, compiled: bool = False) -> None:
        self.ops = tuple(ops)
        self.exact, self.compiled = exact, compiled
        self.names = tuple(op.name for op in self.ops)
        if not self.ops:
            raise refuse("ops", [], "at least one augmentation")
        if len(set(self.names)) < len(self.names):
            raise refuse("ops", list(self.names), "augmentations with different names")

    def without(self, name: str) -> Pipeline:
        """The pipeline that lacks the augmentation `name`; InputError if it has none of that name or no other."""
        check_choice("without", name, self.names)
        return Pipeline([op for op in self.ops if op.name != name], self.exact, self.compiled)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Params, Applied]:
        """Parameters name -> (n, p) and whether applied name -> (n,) bool, independent across images and ops."""
        check_int("n", n, 0)
        params, applied = {}, {}
        for op in self.ops:
            params[op.name], applied[op.name] = draw(op, n, generator)
        return params, applied

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """`images` (N, 3, H, W), float in [0, 1] or uint8, under `params` name -> (N, p): float32 in [0, 1].

        Without a crop, the images keep their size. Raises InputError where a shape, a range or a name is wrong.
        """
        check_images(images)
        if not set(self.names) <= set(params):
            raise refuse("params", list(params), f"parameters of every augmentation: {', '.join(self.names)}")
        rows = {op.name: check_params(op, images, params[op.name])[None] for op in self.ops}
        return self._render(images, rows)[0][0]

    @torch.no_grad()
    def _render(
        self, images: Tensor, rows: Params, color_diff: bool = False, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Views (V, N, 3, h, w) of checked `images` under `rows` name -> (V, N, p), and the change of colour (V, N, 3)."""
        versions, n = next(iter(rows.values())).shape[:2]
        sizes = [op.size for op in self.ops if isinstance(op, Geometry) and op.size is not None]
        height, width = sizes[-1] if sizes else images.shape[2:]
        shape = (versions, n, 3, height, width)
        made = images.new_empty(shape, dtype=torch.float32) if out is None else check_out(out, shape, images.device)
        moved = made.new_zeros(versions, n, 3) if color_diff else None
        # On a CPU a few images at a time, so that what one operation writes the next reads from the cache.
        step = max(1, CACHED_FLOATS // (3 * height * width)) if images.device.type == "cpu" else max(1, versions * n)
        with compiled(self.compiled):
            for start in range(0, versions * n, step):
                part = slice(start, min(start + step, versions * n))
                source = torch.arange(part.start, part.stop, device=images.device) % n
                view = to_float(images.index_select(0, source))
                for stage in stages(self.ops, self.exact):
                    params = [rows[op.name].flatten(0, 1)[part] for op in stage]
                    if moved is not None and isinstance(stage[0], ColorJitter):
                        moved.flatten(0, 1)[part] = view.mean(dim=(2, 3))
                    view = run_stage(stage, view, params)
                    if moved is not None and isinstance(stage[0], ColorJitter):
                        moved.flatten(0, 1)[part] -= view.mean(dim=(2, 3))
                torch.clamp(view, 0, 1, out=made.flatten(0, 1)[part])
        return made, moved

    def views(
        self,
        images: Tensor,
        pairing: str = "independent",
        generator: torch.Generator | None = None,
        crop_redrawn: float = 0.5,
        color_diff: bool = False,
        isolated: float = 0.5,
        weights: Mapping[str, float] | None = None,
        out: Tensor | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> Views:
        """Views of each of `images` (N, 3, H, W), float in [0, 1] or uint8; with `color_diff`, that is measured as well.

        `independent`: two views, everything drawn twice, the usual pair of self-supervised learning. `plain` and `composed`:
        the same, for a method that takes a pair as one of every augmentation, or that asks `audit` which it differs
        in. `isolate_one`: view 1 has view 0's parameters except those of one augmentation, which are drawn anew and
        always differ; which one is uniform over the pipeline for each image, or goes by `weights` name -> weight (1
        where not named, 0 for never); in a share `crop_redrawn` of the pairs the crop is drawn anew besides.
        `isolate_each`: K + 1 views, view k + 1 isolated from view 0 in the pipeline's augmentation k; `changed` is
        -1, view and augmentation tell. `mixed`: an image's pair is an isolated one with probability `isolated`, else
        an independent one (`changed` -1). `leave_one_out`: K + 2 views, a query, a view with everything drawn anew,
        and for each of the K augmentations one that keeps the query's parameters of it and draws the rest anew;
        `changed` is -1.
        `out` (V, N, 3, H, W): where the images are written; a loop that keeps one buffer is spared fresh memory each time.
        `part` (r, R): `images` are the r-th, from 0, of R equal parts of a batch; what is drawn is drawn for the whole batch, so
        that R processes with a part each make the views that one process makes of all.
        Raises InputError for another pairing, for bad images or a bad `out`, where a pair is to be isolated in an op that is
        never applied, for `isolated` or `crop_redrawn` outside [0, 1], for `weights` that are negative, all 0, of an
        unknown name or without isolated pairs, for `color_diff` without colour jitter, and for a `part` that is none.
        Source: MAST (Huang et al., ICLR 2023) for one invariance at a time, the pairing itself is our reading of it;
        leave_one_out: LooC (Xiao et al., ICLR 2021), section 3.
        """
        check_choice("pairing", pairing, PAIRINGS)
        isolated = check_float("isolated", isolated, 0.0, 1.0)
        crop_redrawn = check_float("crop_redrawn", crop_redrawn, 0.0, 1.0)
        if color_diff and not any(isinstance(op, ColorJitter) for op in self.ops):
            raise refuse("color_diff", True, f"False, or a pipeline with color, not only {', '.join(self.names)}")
        if weights is not None and pairing not in ("isolate_one", "mixed"):
            raise refuse("weights", dict(weights), f"None with pairing = {pairing!r}")
        shares = self._shares(weights)
        check_images(images)
        place, parts = check_int("part[0]", part[0], 0, check_int("part[1]", part[1], 1) - 1), part[1]
        mine = slice(place * len(images), (place + 1) * len(images))
        n = len(images) * parts
        first = self.sample(n, generator)
        changed = torch.full((n,), -1, device=images.device)
        drawn = [first]
        if pairing == "leave_one_out":
            drawn += [self._sharing(first, kept, n, generator) for kept in (None, *self.names)]
        elif pairing in ("independent", "plain", "composed"):
            drawn.append(self.sample(n, generator))
        elif pairing == "isolate_each":
            for name in self.names:
                only = self._shares({other: float(other == name) for other in self.names})
                drawn.append(self._isolate_one(*first, only, generator, crop_redrawn)[0])
        else:
            second, changed = self._isolate_one(*first, shares, generator, crop_redrawn)
            if pairing == "mixed":
                alone = uniform((n,), 0.0, 1.0, generator) < isolated
                second = self._either(alone, second, self.sample(n, generator))
                changed = torch.where(alone, changed, -1)
            drawn.append(second)
        device = images.device
        params = {k: torch.stack([one[0][k][mine] for one in drawn]).to(device) for k in self.names}
        applied = {k: torch.stack([one[1][k][mine] for one in drawn]).to(device) for k in self.names}
        made, moved = self._render(images, params, color_diff, out)
        return Views(made, params, applied, changed[mine].to(device), moved)

    def _sharing(
        self, first: tuple[Params, Applied], kept: str | None, n: int, generator: torch.Generator | None
    ) -> tuple[Params, Applied]:
        """Everything drawn anew, but for the augmentation `kept`, which is as in `first`."""
        params, applied = self.sample(n, generator)
        if kept is not None:
            params[kept], applied[kept] = first[0][kept], first[1][kept]
        return params, applied

    def _either(
        self, choose: Tensor, yes: tuple[Params, Applied], no: tuple[Params, Applied]
    ) -> tuple[Params, Applied]:
        """The images' parameters from `yes` where `choose` (N,) is true, else from `no`."""
        params = {k: torch.where(choose[:, None], yes[0][k], no[0][k]) for k in self.names}
        return params, {k: torch.where(choose, yes[1][k], no[1][k]) for k in self.names}

    def _shares(self, weights: Mapping[str, float] | None) -> list[float]:
        """The probability of each augmentation to be the isolated one."""
        weights = weights or {}
        for name in weights:
            check_choice("an augmentation's name in weights", name, self.names)
        values = [check_float(f"weights[{name!r}]", weights.get(name, 1.0), 0.0, 1e6) for name in self.names]
        if not any(values):
            raise refuse("weights", dict(weights), "at least one above 0")
        return [value / sum(values) for value in values]

    def _isolate_one(
        self,
        params: Params,
        applied: Applied,
        shares: Sequence[float],
        generator: torch.Generator | None,
        crop_redrawn: float,
    ) -> tuple[tuple[Params, Applied], Tensor]:
        """View 1's (parameters, whether applied), and the index of the augmentation in which it differs (N,)."""
        place = uniform((len(next(iter(params.values()))),), 0.0, 1.0, generator)
        wanted = [k for k, share in enumerate(shares) if share > 0]
        changed = torch.full_like(place, wanted[0], dtype=torch.long)
        for border, k in zip(accumulate(shares[k] for k in wanted), wanted[1:], strict=False):
            changed = torch.where(place >= border, k, changed)
        new_params, new_applied = {}, {}
        for k, op in enumerate(self.ops):
            if op.p == 0 and shares[k] > 0:
                raise refuse(
                    f"{op.name}.p", op.p, "above 0 where pairs differ in one augmentation, or a pipeline without it"
                )
            redraw = changed == k
            if crop_redrawn and isinstance(op, RandomResizedCrop):
                redraw = redraw | (uniform((len(redraw),), 0.0, 1.0, generator) < crop_redrawn)
            other = draw_other(op, params[op.name], applied[op.name], generator)
            new_params[op.name] = torch.where(redraw[:, None], other[0], params[op.name])
            new_applied[op.name] = torch.where(redraw, other[1], applied[op.name])
        return (new_params, new_applied), changed


def draw(op: Op, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """`n` rows of parameters (n, p), the identity where not applied, and whether applied (n,) with probability `p`."""
    params = op.sample(n, generator)
    applied = uniform((n,), 0.0, 1.0, generator) < op.p
    return torch.where(applied[:, None], params, resident(op.identity, params.device)), applied


def draw_other(op: Op, params: Tensor, applied: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """As `draw`, but no row equals its row of `params` (n, p): where chance repeats it, the op goes on or off."""
    always = op.sample(len(params), generator)
    identity = resident(op.identity, params.device)
    on = uniform((len(params),), 0.0, 1.0, generator) < op.p
    repeated = (torch.where(on[:, None], always, identity) == params).all(dim=1)
    on = torch.where(repeated, ~applied, on)
    return torch.where(on[:, None], always, identity), on


def check_out(out: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """`out` if views of `shape` can be written to it, else InputError."""
    if (
        not isinstance(out, Tensor)
        or (out.shape, out.dtype, out.device) != (shape, torch.float32, device)
        or not out.is_contiguous()
    ):
        found = f"{tuple(out.shape)} {out.dtype} on {out.device}" if isinstance(out, Tensor) else out
        raise refuse("out", found, f"a contiguous tensor {shape} torch.float32 on {device}")
    return out


def run_stage(stage: Sequence[Op], images: Tensor, params: Sequence[Tensor]) -> Tensor:
    """`images`, which may be overwritten, after the ops of one stage."""
    if isinstance(stage[0], Geometry):
        return warp(stage, images, params)  # type: ignore[arg-type]
    return stage[0].run(images, params[0])


def stages(ops: Sequence[Op], exact: bool = True) -> list[list[Op]]:
    """`ops` in groups that share one pass: flips and quarter turns, and the crop before them.

    They move whole pixels, so the result is that of one op after the other. A crop reads a box of its own input, and a
    Move interpolates and brings in black from outside its own frame: each begins a pass, but for moves that follow
    moves where `exact` is false.
    """
    groups: list[list[Op]] = []
    for op in ops:
        before = groups[-1][0] if groups else None
        if isinstance(op, Move):
            joins = isinstance(before, Move) and not exact
        else:
            joins = isinstance(op, Geometry) and not isinstance(op, RandomResizedCrop)
            joins = joins and isinstance(before, Geometry) and not isinstance(before, Move)
        if joins:
            groups[-1].append(op)
        else:
            groups.append([op])
    return groups


def audit(views: Views, other: int = 1) -> Tensor:
    """Which augmentations' parameters differ between view 0 and view `other`: (N, K) bool, in the pipeline's order."""
    return torch.stack([(rows[0] != rows[other]).any(dim=1) for rows in views.params.values()], dim=1)
