"""The names that servers give to images: URLs, and Label Studio's names for uploaded files."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from urllib.parse import unquote

from onestage.data.folder import UPLOAD_PREFIX, DataFolder, is_image, key_of, stem_of

# before the path of an image: Label Studio's local files and uploads, and any server
_SERVER = re.compile(r"^(.*\?d=|(?!file:)[a-z][a-z0-9+.-]+://[^/]*/|/(?=data/upload/))", re.IGNORECASE)


def without_server(name: str) -> str:
    """The path in a URL, without what follows a question mark; other names as they are.

    Only Label Studio's own are unquoted: a file may have been saved by the quoted name of its URL.
    """
    path = _SERVER.sub("", name.strip())
    if path == name.strip():
        return name
    path = path.partition("?")[0]
    return unquote(path) if re.search(r"\?d=|/data/upload/", name) else path


def image_of_upload(folder: DataFolder, name: str) -> str | None:
    """The image that was uploaded to Label Studio and is called `name` there; None if there is none, or several."""
    last = key_of(re.split(r"[/\\]", name)[-1])
    bare = UPLOAD_PREFIX.sub("", last)
    keys = (bare, stem_of(bare) if is_image(bare) else bare) if bare != last else ()
    found = next((images for key in keys if (images := _images_of_upload(folder).get(key))), [])
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=1)
def _images_of_upload(folder: DataFolder) -> dict[str, list[str]]:
    """Images by the names that uploads have, also without extension: Django's `get_valid_name` of their own."""
    found: dict[str, list[str]] = defaultdict(list)
    for image in folder.images:
        valid = re.sub(r"[^-\w.]", "", key_of(image.rpartition("/")[2]).strip().replace(" ", "_"))
        for key in (valid, stem_of(valid)):
            found[key].append(image)
    return found
