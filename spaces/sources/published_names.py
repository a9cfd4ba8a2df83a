"""The names of classes that torchvision publishes with its weights."""

from __future__ import annotations

from torchvision.models import get_model_weights

from spaces.tasks.task import ClassNames

UNUSED = ("N/A", "__background__")
"""What torchvision calls numbers that no detection has; COCO has gaps in its ids."""
BACKGROUND = "background"
COCO_NETWORK = "ssdlite320_mobilenet_v3_large"


def published_names(name: str) -> ClassNames:
    """Return the names of the classes of torchvision's newest weights of a network.

    Number 0 of a segmentation is the background, and that of a detector is not used.
    """
    weights = get_model_weights(name).DEFAULT
    names = [str(category) for category in weights.meta["categories"]]
    unused = BACKGROUND if ".segmentation." in type(weights).__module__ else ""
    return tuple(unused if entry in UNUSED else entry for entry in names)


def coco_names() -> ClassNames:
    """Return the names of the categories of COCO by their ids, which are 1 to 90 with gaps."""
    return published_names(COCO_NETWORK)
