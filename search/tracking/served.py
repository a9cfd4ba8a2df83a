"""The merged models as MLflow loads and serves them.

One or several frames become every model's answer: of a classifier an array (frames, classes) of
logits; of a detector for each frame `boxes` (corners in its pixels), `scores` and `classes` (from
1), by descending score; of an embedding an array (frames, dimensions); of a segmentation for each
frame an array (height, width) of classes; of a dense network its numbers. A frame is

- uint8 numbers (height, width, 3) in RGB: an array, or nested lists in JSON;
- an encoded image (PNG, JPEG, ...): bytes, or base64 text in JSON.

Frames of one size may be a stack (frames, height, width, 3); encoded images may be of any sizes,
and stand in a list or in the column of a table.

Needs the packages of requirements.txt; `spaces`, which merges, is included as code.
"""

import base64
import binascii
import io

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from PIL import Image, ImageOps, UnidentifiedImageError

import spaces

if getattr(spaces, "__distribution__", "") != "merge-search":
    raise ImportError(
        f"{spaces.__file__} is another package named `spaces`, not that of merge-search: remove "
        "it from the environment that serves this model"
    )


class Merged(mlflow.pyfunc.PythonModel):
    """A bundle behind MLflow's interface."""

    def load_context(self, context):
        self.bundle = spaces.load_bundle(context.artifacts["bundle"])

    def predict(self, context, model_input: np.ndarray, params=None):
        try:
            answers = self.bundle(_frames(model_input))
        except spaces.MergeSearchError as error:
            # MLflow answers with the message of its own errors only.
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        return {
            name: [_arrays(of_frame) for of_frame in answer]
            if isinstance(answer, list)
            else answer.numpy()
            for name, answer in answers.items()
        }


def _arrays(of_frame):
    """Return what a model says of one frame as arrays: its named parts, or one array."""
    if isinstance(of_frame, tuple):
        return {part: tensor.numpy() for part, tensor in of_frame._asdict().items()}
    return of_frame.numpy()


def _frames(given):
    """Return numbers that lost their type on the way, and encoded images, as arrays."""
    if isinstance(given, np.ndarray) and given.dtype != object:
        return given
    items = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(items, list) or _depth(items) in (2, 3):
        items = [items]
    return [_frame(item, number) for number, item in enumerate(items)]


def _depth(item):
    """Return how many lists are around the first number, array or image."""
    return 1 + _depth(item[0]) if isinstance(item, list) and item else 0


def _frame(item, number):
    if isinstance(item, str):
        item = _decoded(item, number)
    if isinstance(item, bytes):
        return _picture(item, number)
    if not isinstance(item, list):
        return item
    try:
        pixels = np.array(item)
    except ValueError as error:
        raise _BadFrame(f"frame {number}: its rows or pixels have different lengths") from error
    whole = pixels.dtype.kind in "iu" and pixels.size and 0 <= pixels.min() <= pixels.max() <= 255
    return pixels.astype(np.uint8) if whole else pixels


def _decoded(text, number):
    """Return the bytes of base64 text, which may be a data URL."""
    try:
        return base64.b64decode(text.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _BadFrame(
            f"frame {number}: a text of {len(text)} characters that is not base64; give the bytes "
            "of an image file as base64"
        ) from error


def _picture(content, number):
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _BadFrame(
            f"frame {number}: {len(content)} bytes that are no complete image; give the bytes of "
            "a PNG or JPEG file"
        ) from error


class _BadFrame(spaces.MergeSearchError):
    """A frame that cannot be decoded."""


mlflow.models.set_model(Merged())
