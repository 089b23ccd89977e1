"""Requests and answers as the server's OpenAPI document describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Detection(BaseModel):
    """One detected object."""

    name: str
    label: int
    score: float
    box_xyxy: tuple[float, float, float, float] = Field(description="pixels of the upright image")


class ImageDetections(BaseModel):
    """One image of a request, as in `detections.json`."""

    source: str = Field(description="the file's name in the form; empty where the body is the image")
    width: int = Field(0, description="pixels of the upright image")
    height: int = 0
    detections: list[Detection] = []
    error: str = Field("", description="why this image of several can't be read; it has no detections then")


class ModelFacts(BaseModel):
    """The model, and the bounds on requests."""

    detector: str
    names: list[str] = Field(description="names of the classes, by label")
    colours: list[str] = Field(description="colours of the classes in drawn images: #rrggbb")
    lowest_score_threshold: float
    usual_score_threshold: float
    largest_request_bytes: int
    largest_image_pixels: int
    images_of_a_request: int
    version: str


class Failure(BaseModel):
    """The reason why there are no detections."""

    error: str


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"images": {"type": "array", "items": _BINARY["schema"]}}}}
_FAILURES = {
    400: "no image, or a form that can't be read",
    401: "no token, or a wrong one",
    408: "the body came too slowly",
    413: "too many bytes, pixels or images",
    422: "no image that can be read, or a wrong value",
    503: "the server is busy; Retry-After says when to come again",
}

DETECT_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image (JPEG, PNG, WebP, BMP, TIFF, GIF), or several in a form, in fields of any name.",
        "content": {"image/*": _BINARY, "application/octet-stream": _BINARY, "multipart/form-data": _FORM},
    }
}
DETECT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": _BINARY}, "description": "One entry an image, or the one image drawn."},
    **{status: {"model": Failure, "description": text} for status, text in _FAILURES.items()},
}
