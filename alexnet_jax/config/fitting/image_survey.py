"""Numbers about the images, to which a config file fits its settings (§2)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ImageSurvey:
    """The images that a run is trained on, in numbers.

    Attributes:
      per_class: number of training images of each class, in the order of the labels.
      smallest_side: the short side of the smallest image that was looked at, in pixels.
      median_side: the median of the short sides.
      largest_side: the short side of the largest image.
      grey: fraction of the images that have no colours.
    """

    per_class: tuple[int, ...]
    smallest_side: int
    median_side: int
    largest_side: int
    grey: float

    @property
    def images(self) -> int:
        """Number of training images."""
        return sum(self.per_class)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.per_class)


# Images like those of ImageNet, for questions whose answer does not depend on the images.
TYPICAL = ImageSurvey((1000,) * 10, smallest_side=200, median_side=375, largest_side=500, grey=0.0)
