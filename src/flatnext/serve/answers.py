"""What the service says, as its OpenAPI describes it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from flatnext.deploy.prediction import Prediction


class Query(BaseModel):
    """What is asked about each image."""

    model_config = ConfigDict(extra="forbid")

    top: Annotated[int, Field(ge=1, le=1000, description="how many classes to name")] = 5
    coverage: Annotated[
        float | None, Field(gt=0, lt=1, description="coverage of the set (default: that of the service)")
    ] = None
    threshold: Annotated[
        float | None, Field(ge=0, le=1, description="least probability of an answer (default: that of the service)")
    ] = None
    map: Annotated[bool, Field(description="whether to add the class activation map")] = False


class Likely(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class Problem(BaseModel):
    """Why there is no answer: a line for people."""

    detail: str


class ImageProblem(Problem):
    """Why there is no answer about an image, with the status that a request with this image alone would have."""

    status: int


class ImageAnswer(BaseModel):
    """The answer about an image; `error` in place of all other fields where it cannot be read."""

    file: Annotated[str | None, Field(description="the file name that it was sent with")]
    label: Annotated[str | None, Field(description="the most likely class")] = None
    probability: float | None = None
    top: Annotated[list[Likely], Field(description="the most likely classes, in descending order")] = []
    set: Annotated[
        list[str] | None,
        Field(description="classes of which one is the true one with the coverage; empty: none of these"),
    ] = None
    none: Annotated[
        bool, Field(description="none of these: the set is empty, or the probability is below the threshold")
    ] = False
    map: Annotated[
        list[list[float]] | None,
        Field(description="where the model saw the most likely class, from 0 to 1: rows of the square that it saw"),
    ] = None
    error: ImageProblem | None = None

    @classmethod
    def of(cls, file: str | None, prediction: Prediction, activation: np.ndarray | None) -> ImageAnswer:
        """Return the answer of a model, with its activation map (h x w) if that is wanted."""
        return cls(
            file=file,
            label=prediction.label,
            probability=round(prediction.probability, 6),
            top=[Likely(label=label, probability=round(probability, 6)) for label, probability in prediction.top],
            set=None if prediction.set is None else list(prediction.set),
            none=prediction.none,
            map=None if activation is None else activation.astype(float).round(3).tolist(),
        )


class Answers(BaseModel):
    """The answers about the images of a request, in their order."""

    model: str
    coverage: Annotated[float | None, Field(description="that of the sets; null: there are none")]
    threshold: float | None
    images: list[ImageAnswer]


class Health(BaseModel):
    """That the service is up."""

    status: str = "ok"


class Limits(BaseModel):
    """How much a request may have."""

    bytes: int
    pixels: int
    images: int
    seconds: float


class ModelInfo(BaseModel):
    """The model that answers."""

    name: str
    classes: list[str]
    image_size: int
    channels: int
    resize: str
    quantized: bool
    coverage: Annotated[float | None, Field(description="that of the sets, unless another is asked for")]
    calibration_images: int
    samples: Annotated[int, Field(description="images at /samples/0, /samples/1 and so on")]
    limits: Limits
    card: Annotated[str, Field(description="the model card, in Markdown")]
