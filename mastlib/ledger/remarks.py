"""What is said of a claim that is not reproduced, or stays undecided: what was tried, and why the outcome may differ."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from mastlib.ledger.verdicts import NOT_REPRODUCED, UNDECIDED


class Remark(NamedTuple):
    """`tried`: the means by which the claim was given its chance; `why`: what may set these runs apart from its paper's."""

    tried: str
    why: str


REMARKS: Mapping[str, Remark] = MappingProxyType(
    {
        "M1": Remark(
            "Every standard task, those of place and size too, on which the papers did not test.",
            "Features that never had to agree on two crops keep where an object is and how large: a task that asks for "
            "it gains by the removal, and the claim is on every task. Of tasks with few test images the interval is "
            "wide as well.",
        ),
        "M2": Remark(
            "Nothing beyond the chapter's seeds and tasks.",
            "At this size the blur changes next to nothing, and jitter and grayscale do much of the same, so that the "
            "four differ less than at full size.",
        ),
        "M3": Remark(
            "A fine-grained task made for it: animals and plants of kinds that are told by colour and small parts, in a "
            "style not fitted on.",
            "Its test images are few, and drawn animals and plants are told by outline and parts, for which the jitter "
            "leaves a network more room, where the flowers and birds of the paper are told by colour.",
        ),
        "M4": Remark(
            "A search over the forms of the masks and their weights on validation images (benchmarks/search.py), all of "
            "it kept in outputs/reference/mast-search.csv; the best form is the default.",
            "MAST's equations are not published: what is measured is this book's reconstruction, which may lack what "
            "makes it true. A network that is trained for less than a minute has learned little that an addition could "
            "improve on.",
        ),
        "M5": Remark(
            "Two sets of augmentations, the larger one with the operations that the paper names.",
            "More augmentations leave less in common between two views; a schedule of a few hundred steps has no time "
            "to make up for it, and neither has a network this small. MAST's equations are not published: what is "
            "measured is this book's reconstruction, which may lack what makes it true.",
        ),
        "M6": Remark(
            "Uncertainty as a likelihood and as a weight, with three pairs of bounds, one seed each (the architecture "
            "notes have the scores); the better of the two forms is used here.",
            "Weights that follow the mismatch take from hard pairs what they give to easy ones. MAST's equations are "
            "not published: what is measured is this book's reconstruction, which may lack what makes it true.",
        ),
        "M7": Remark(
            "A search over the forms of the masks and their weights on validation images (benchmarks/search.py), all of "
            "it kept in outputs/reference/mast-search.csv; the best form is the default.",
            "Masks are soft and start alike, and with fifteen of them a dimension that only one chooses is rare; jitter "
            "and crop both act on every image, so their masks learn from more pairs than that of grayscale, which acts "
            "on few.",
        ),
        "M8": Remark(
            "A search over the forms of the masks and their weights on validation images (benchmarks/search.py), all of "
            "it kept in outputs/reference/mast-search.csv; the best form is the default.",
            "At this size an augmentation that changes few pixels gives its mask little to follow.",
        ),
        "M9": Remark(
            "Each subspace by itself on tasks of every group, with the same probe.",
            "A subspace without what a task does not need is the smaller problem for a probe with few labels.",
        ),
        "M10": Remark(
            "Badges before and after augmentation: inside the scene no network learned to read them, laid over both "
            "views they are learned where they are large.",
            "Here the badge is the same in both views whatever was done to them, so every subspace of MAST may rest on "
            "it as its host does: nothing in the method tells the two cues apart. MAST's equations are not published: "
            "what is measured is this book's reconstruction, which may lack what makes it true.",
        ),
        "M11": Remark(
            "LooC with the same host, backbone, augmentations, epochs and seeds; time and memory in turns, step by "
            "step.",
            "LooC's host is MoCo, with a narrow head for each space; MAST's is VICReg, whose expander is wide by "
            "design, so its parameters count against MAST whatever its time and memory are.",
        ),
        "M12": Remark(
            "Every augmentation by itself at rising strengths, with the network's own uncertainty of its subspace.",
            "Uncertainty is learned as a weight on pairs and not against strength, and of strengths only those that "
            "training drew were ever seen; an augmentation that changes little gives no reason for doubt, and the claim "
            "is on each.",
        ),
        "M13": Remark(
            "Errors of neighbours and of a probe on unseen concepts, and the loss of pairs over training.",
            "Uncertainty is learned from pairs of views, and what makes a pair hard is not what makes a concept hard to "
            "name.",
        ),
        "M14": Remark(
            "Steps of MAST and its host in turns on one machine; memory of a process of its own.",
            "Beside so small a network everything that is added is large.",
        ),
        "A1": Remark(
            "Each target by itself, on one host.",
            "Few tasks live on colour, and flags and species vary much between seeds. A network that is trained for "
            "less than a minute has learned little that an addition could improve on.",
        ),
        "A2": Remark(
            "Each target by itself, on one host.",
            "The test asks for more on tasks of place than on all others. A scene holds one object of any size at any "
            "place, so views that are crops of it share less than crops of a photograph do, and tasks that ask for "
            "place and size are among those counted.",
        ),
        "A3": Remark(
            "Each target by itself and both together, on one host.",
            "Best of four on more than half of the tasks leaves no room for ties within the noise of three seeds.",
        ),
        "A4": Remark(
            "Hosts of every kind that the book has, all with AugSelf's own settings, none chosen for this claim.",
            "The claim is on each host, and one whose interval holds zero keeps it open. A network that is trained for "
            "less than a minute has learned little that an addition could improve on.",
        ),
        "A5": Remark(
            "Episodes of one and of few shots, of concepts and of kinds.",
            "Drawings of one concept by several vendors differ in style, of which views of one drawing say nothing.",
        ),
        "A6": Remark(
            "A ridge probe of the box of what is visible, on rendered scenes.",
            "A scene holds one object of any size at any place, so views that are crops of it share less than crops of "
            "a photograph do, and tasks that ask for place and size are among those counted.",
        ),
        "A7": Remark(
            "Three strengths of the jitter, as in the paper's figure.",
            "The bound is held down by its critics, which are trained on few images. A network that is trained for less "
            "than a minute has learned little that an addition could improve on.",
        ),
        "A8": Remark(
            "Hues and colour histograms of neighbours, for every host.",
            "The claim is that both improve. Hue alone is a coarse label for drawings of several colours.",
        ),
        "A9": Remark(
            "Steps of AugSelf and its host in turns on one machine; memory of a process of its own.",
            "Heads of 512 units are small beside a ResNet-50 and large beside a backbone of a few channels.",
        ),
        "C1": Remark(
            "More seeds, four times the epochs, other descriptors, and a control that is told of another image (chapter "
            "05).",
            "A projector learns in a few hundred steps to embed, and hardly to make use of what it is told.",
        ),
        "C2": Remark(
            "Three ways to tell it wrong.",
            "A network that is trained for less than a minute has learned little that an addition could improve on.",
        ),
        "C3": Remark(
            "Every layer of the backbone, with each augmentation at three strengths.",
            "The claim is on each layer; the first ones see pixels, which no projector changes much in a few hundred "
            "steps.",
        ),
        "C4": Remark(
            "All modes of the paper, on one host.",
            "Modes differ by less than seeds do, so that even as good as cannot be shown with few.",
        ),
        "C5": Remark(
            "Hues and colour histograms of neighbours, for every host.",
            "See C1: what the projector is told of has little time to reach the backbone.",
        ),
        "I1": Remark(
            "Its three sets of augmentations, its measures and whitening, on one host.",
            "Neighbours in the order that are alike at this size cannot be told apart, and each pair must be.",
        ),
        "I2": Remark(
            "Nothing beyond the chapter's seeds and tasks.",
            "Correlation over a handful of models has a wide interval; sets between the two extremes would narrow it.",
        ),
        "I3": Remark(
            "Objects rendered anew from other sides, in other light and focus.",
            "Drawings turn in the plane only, so that a change of viewpoint is milder than for the paper's photographs.",
        ),
        "I4": Remark(
            "Latents of rendered scenes, by ridge and kernel probes.",
            "At this size no network predicts rotation, which leaves two latents of three for pose.",
        ),
        "I5": Remark(
            "Every task of recognition and of pose.",
            "The claim is an order of three, with each neighbour told from the next, on few tasks of pose.",
        ),
        "I6": Remark(
            "A twin of the default model for each that is fused, so that width alone cannot win.",
            "Fusing models adds features that a probe must choose from with the same labels; the claim is on rank above "
            "each.",
        ),
    }
)


def remarks(rows: pd.DataFrame) -> pd.DataFrame:
    """For each of the ledger's `rows` that is not reproduced or undecided: claim, says, verdict, "decided by", tried, why."""
    failed = rows[rows["verdict"].isin((NOT_REPRODUCED, UNDECIDED))].rename(columns={"what": "decided by"})
    said = pd.DataFrame([REMARKS[claim] for claim in failed["claim"]], index=failed.index, columns=["tried", "why"])
    return failed[["claim", "says", "verdict", "decided by"]].join(said).rename(columns={"why": "why it may differ"})
