"""What a model card says of the data sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataNote:
    """What a card says of a data set: its id on the Hub, its home page, what it is, its licence, and known limits."""

    title: str
    id: str
    home: str
    what: str
    licence: str
    limits: tuple[str, ...]


CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR_LICENCE = (
    "Its authors state no licence; they ask to cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny "
    "Images, 2009. The images were collected from the web, and their rights lie with others. No image is in the "
    "weights file."
)
TINY_IMAGES = (
    "The images are a labelled part of 80 Million Tiny Images, which its authors withdrew in 2020 because it has "
    "offensive images and labels."
)
NOTES = {
    "cifar10": DataNote(
        title="CIFAR-10",
        id="uoft-cs/cifar10",
        home=CIFAR_HOME,
        what="60,000 colour photographs of 32 x 32 pixels in ten classes, 50,000 for training and 10,000 for the test.",
        licence=CIFAR_LICENCE,
        limits=(
            "3.25 % of the test images have near-duplicates in the training set or the test set (arXiv 1902.00423), "
            "and at least 54 of the 10,000 test labels are wrong: those that people did not confirm, of 275 that "
            "looked wrong to a program (arXiv 2103.14749).",
            "On a new test set made in the same way, CIFAR-10.1, models lost 4 to 10 points (arXiv 1806.00451).",
            TINY_IMAGES,
        ),
    ),
    "cifar100": DataNote(
        title="CIFAR-100",
        id="uoft-cs/cifar100",
        home=CIFAR_HOME,
        what="60,000 colour photographs of 32 x 32 pixels in 100 classes, 50,000 for training and 10,000 for the test.",
        licence=CIFAR_LICENCE,
        limits=(
            "10 % of the test images have near-duplicates in the training set or the test set (arXiv 1902.00423), and "
            "about 6 % of the test labels are wrong (arXiv 2103.14749).",
            TINY_IMAGES,
        ),
    ),
    "digits": DataNote(
        title="the digits of scikit-learn",
        id="sklearn-digits",
        home="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        what="1,797 digits of 8 x 8 pixels, the test part of a UCI set, divided here into training and test.",
        licence="CC BY 4.0: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.",
        limits=("The images of training and test may be by the same writers, so that others' digits are harder.",),
    ),
    "folder": DataNote(
        title="a folder of images",
        id="folder",
        home="",
        what="Images of the one who trained the model.",
        licence="Not known here: whoever passes these weights on should say.",
        limits=("Nothing is known here of how the images were chosen.",),
    ),
}
