"""The formats of labelled images that are read: one reader a file, and the table of them."""

from collections.abc import Callable
from typing import NamedTuple

from onestage.data.folder import DataFolder
from onestage.data.formats.coco import find_coco
from onestage.data.formats.createml import find_createml
from onestage.data.formats.csv_tables import find_csv
from onestage.data.formats.cvat import find_cvat
from onestage.data.formats.kitti import find_kitti
from onestage.data.formats.label_studio import find_label_studio
from onestage.data.formats.labelme import find_labelme
from onestage.data.formats.open_images import find_open_images
from onestage.data.formats.supervisely import find_supervisely
from onestage.data.formats.via import find_via
from onestage.data.formats.voc import find_voc
from onestage.data.formats.yolo import find_yolo
from onestage.data.reading import Source


class Format(NamedTuple):
    """A format of data sets."""

    find: Callable[[DataFolder], Source | None]  # what there is of this format in a folder
    expected: str  # what such a folder holds, for messages


FORMATS: dict[str, Format] = {  # a new format needs a line here; of several that fit, the first counts
    "yolo": Format(find_yolo, "data.yaml or text files of labels"),
    "voc": Format(find_voc, "an XML file an image"),
    "coco": Format(find_coco, "a JSON file with images, annotations and categories"),
    "cvat": Format(find_cvat, "an XML file of images with boxes"),
    "supervisely": Format(find_supervisely, "JSON files in a folder called ann"),
    "labelme": Format(find_labelme, "a JSON file of shapes an image"),
    "via": Format(find_via, "a JSON or CSV file of regions"),
    "label-studio": Format(find_label_studio, "a JSON file of tasks"),
    "createml": Format(find_createml, "a JSON list of images with coordinates"),
    "open-images": Format(find_open_images, "SPLIT-annotations-bbox.csv"),
    "csv": Format(find_csv, "a table with filename, class, xmin, ymin, xmax, ymax"),
    "kitti": Format(find_kitti, "text files in label_2"),
}
