"""The one error of :mod:`yuntai.image`."""


class ImageError(Exception):
    """An image cannot be imported or exported; the text names the file, the reason and the way out."""
