"""What the server's OpenAPI document says about requests and answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Detection(BaseModel):
    """One object that was found."""

    name: str
    label: int
    score: float
    box_xyxy: tuple[float, float, float, float] = Field(description="pixels of the upright picture")


class PictureDetections(BaseModel):
    """One picture of a request, as in `detections.json`."""

    source: str = Field(description="the file's name in the form; empty for a body that is the picture")
    width: int = Field(0, description="pixels of the upright picture")
    height: int = 0
    detections: list[Detection] = []
    error: str = Field("", description="why this one of several pictures can't be read, instead of its detections")


class ModelFacts(BaseModel):
    """The model, and the bounds of requests."""

    detector: str
    names: list[str] = Field(description="of the classes, by label")
    colours: list[str] = Field(description="of the classes, as drawn pictures have them: #rrggbb")
    lowest_score_threshold: float
    usual_score_threshold: float
    largest_request_bytes: int
    largest_picture_pixels: int
    pictures_of_a_request: int
    version: str


class Failure(BaseModel):
    """Why there are no detections."""

    error: str


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"pictures": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
}

DETECT_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One picture (JPEG, PNG, WebP, BMP, TIFF, GIF), or several in a form, in fields of any name.",
        "content": {"image/*": _BINARY, "application/octet-stream": _BINARY, "multipart/form-data": _FORM},
    }
}
DETECT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": _BINARY}, "description": "An entry a picture, or the one picture drawn."},
    **{
        status: {"model": Failure, "description": text}
        for status, text in {
            400: "no picture, or a form that can't be read",
            401: "no token, or a wrong one",
            408: "the body came too slowly",
            413: "too many bytes, pixels or pictures",
            422: "no picture that can be read, or a wrong value",
            503: "too much to do; Retry-After says when to come again",
        }.items()
    },
}
