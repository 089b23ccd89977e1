"""What clients get: over HTTP, from the real server, with a detector that finds red rectangles exactly."""

from __future__ import annotations

import io
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from red_box import CATEGORIES, RedBoxDetector, red_box
from served import ask, form, png, red_png, running

import onestage
from onestage.inference.predictor import Predictor
from onestage.serving import shared_predictor
from onestage.serving.app import PAGE_FILES, ServedModel, create_app
from onestage.serving.limits import Limits
from onestage.structures import Detections

BOX = (20, 30, 80, 90)
RED_BOX_FOUND = {"name": "red", "label": 1, "score": 0.9, "box_xyxy": [20.0, 30.0, 80.0, 90.0]}
TOKEN = {"Authorization": "Bearer correct horse"}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port:
        yield port


@pytest.fixture(scope="module")
def guarded_port() -> Iterator[int]:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu")
    with running(create_app(predictor, token="correct horse", limits=Limits(body_bytes=10_000))) as port:
        yield port


def test_an_image_in_the_body_gives_its_box_in_its_own_pixels(port: int) -> None:
    answer = ask(port, "/v1/detect", red_png(BOX))
    assert answer.status == 200
    assert answer.json == [{"source": "", "width": 100, "height": 100, "detections": [RED_BOX_FOUND]}]


def test_boxes_are_pixels_of_the_image_and_not_of_the_network(port: int) -> None:
    answer = ask(port, "/v1/detect", png(red_box(400, 200, (80, 60, 320, 180))))
    assert (answer.json[0]["width"], answer.json[0]["height"]) == (400, 200)
    assert answer.json[0]["detections"][0]["box_xyxy"] == [80.0, 60.0, 320.0, 180.0]


def test_a_turned_photo_is_answered_in_upright_pixels(port: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    stored = np.ascontiguousarray(np.rot90(red_box(200, 100, (20, 10, 100, 80))))
    answer = ask(port, "/v1/detect", png(stored, exif=exif))
    assert (answer.json[0]["width"], answer.json[0]["height"]) == (200, 100)
    assert answer.json[0]["detections"][0]["box_xyxy"] == [20.0, 10.0, 100.0, 80.0]


@pytest.mark.parametrize("field", ["images", "pictures"])
def test_several_images_of_a_form_come_back_in_order_whatever_their_field_is_called(port: int, field: str) -> None:
    boxes = {f"{side}.png": (10, 10, side, side) for side in (40, 60, 90)}
    answer = ask(port, "/v1/detect", *form({name: red_png(box) for name, box in boxes.items()}, field))
    assert [entry["source"] for entry in answer.json] == list(boxes)
    assert [tuple(entry["detections"][0]["box_xyxy"]) for entry in answer.json] == list(boxes.values())


def test_a_bad_image_among_good_ones_has_its_error_in_its_place(port: int) -> None:
    answer = ask(port, "/v1/detect", *form({"a.png": red_png(BOX), "notes.txt": b"milk, bread", "c.png": red_png(BOX)}))
    assert answer.status == 200
    assert answer.json[1].keys() == {"source", "error"}
    assert answer.json[1]["error"].startswith("notes.txt: not a JPEG, PNG")
    assert [len(answer.json[row]["detections"]) for row in (0, 2)] == [1, 1]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"milk, bread", 422, "not a JPEG"),
        (red_png(BOX)[:200], 422, "cut off"),
        (b"", 400, "no image"),
        (b"<html></html>", 422, "not a JPEG"),
    ],
    ids=["text", "truncated", "empty", "html"],
)
def test_a_body_that_is_no_image_gets_4xx_with_one_sentence(port: int, body: bytes, status: int, words: str) -> None:
    answer = ask(port, "/v1/detect", body)
    assert answer.status == status
    assert words in answer.json["error"]
    assert "\n" not in answer.json["error"]


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=another",
        "multipart/form-data; boundary=" + 500 * "x",
    ],
)
def test_a_form_that_cannot_be_read_gets_400(port: int, content_type: str) -> None:
    body, _ = form({"a.png": red_png(BOX)})
    answer = ask(port, "/v1/detect", body, {"Content-Type": content_type})
    assert answer.status == 400
    assert "error" in answer.json


def test_a_form_that_is_cut_off_gets_400(port: int) -> None:
    body, headers = form({"a.png": red_png(BOX)})
    answer = ask(port, "/v1/detect", body[:-20], headers)
    assert answer.status == 400


def test_a_form_with_too_many_images_or_fields_gets_413(port: int) -> None:
    many = {f"{index}.png": red_png(BOX) for index in range(33)}
    answer = ask(port, "/v1/detect", *form(many))
    assert (answer.status, answer.json["error"]) == (413, "more than 32 images; send them in several requests")
    fields = b"".join(b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' for _ in range(100_000))
    answer = ask(port, "/v1/detect", fields + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status == 413


def test_too_many_bytes_get_413_announced_or_not(guarded_port: int) -> None:
    answer = ask(guarded_port, "/v1/detect", bytes(10_001), TOKEN)
    assert (answer.status, answer.json["error"]) == (
        413,
        "10,001 bytes: more than the 10,000 bytes that a request may have",
    )
    with socket.create_connection(("127.0.0.1", guarded_port), timeout=10) as client:
        head = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer correct horse\r\n"
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"2711\r\n" + bytes(0x2711) + b"\r\n0\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_too_many_pixels_get_413_before_they_are_decoded(port: int) -> None:
    answer = ask(port, "/v1/detect", png(np.zeros((5001, 5000, 3), dtype=np.uint8)))
    assert answer.status == 413
    assert "5000x5001 pixels, more than the 25,000,000 allowed" in answer.json["error"]


def test_the_drawn_image_comes_as_png(port: int) -> None:
    answer = ask(port, "/v1/detect", red_png(BOX, size=500), {"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(answer.body)))
    assert drawn.shape == (500, 500, 3)
    assert drawn[60, 20].tolist() == [46, 196, 255]  # the second class's colour, on the box's left side
    assert drawn[60, 50].tolist() == [255, 0, 0]  # inside, the image itself


def test_several_images_cannot_be_one_png(port: int) -> None:
    body, headers = form({"a.png": red_png(BOX), "b.png": red_png(BOX)})
    answer = ask(port, "/v1/detect", body, {**headers, "Accept": "image/png"})
    assert answer.status == 400


@pytest.mark.parametrize(("threshold", "found"), [("0.05", 1), ("0.89", 1), ("0.95", 0), ("1", 0)])
def test_a_client_chooses_its_threshold(port: int, threshold: str, found: int) -> None:
    answer = ask(port, f"/v1/detect?score_threshold={threshold}", red_png(BOX))
    assert len(answer.json[0]["detections"]) == found


@pytest.mark.parametrize("threshold", ["0.01", "2", "nan", "inf", "half", ""])
def test_a_threshold_out_of_range_gets_422_that_names_it(port: int, threshold: str) -> None:
    answer = ask(port, f"/v1/detect?score_threshold={threshold}", red_png(BOX))
    assert answer.status == 422
    assert answer.json["error"].startswith("score_threshold: ")


def test_a_parameter_that_there_is_not_gets_422_that_names_those_that_there_are(port: int) -> None:
    answer = ask(port, "/v1/detect?score_treshold=0.9", red_png(BOX))
    assert answer.status == 422
    assert answer.json["error"] == "score_treshold: unknown; the parameters are model, score_threshold"


def test_an_address_in_the_body_is_not_fetched(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.5)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/a.png"
        assert ask(port, "/v1/detect", address.encode()).status == 422
        assert ask(port, f"/v1/detect?url={address}", b"", {"Content-Type": "application/json"}).status == 422
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_the_model_route_gives_classes_and_limits(port: int) -> None:
    facts = ask(port, "/v1/model").json
    assert facts["detector"] == "red-box"
    assert facts["names"] == ["blue", "red"]
    assert facts["colours"] == ["#ff9f1c", "#2ec4ff"]
    assert (facts["lowest_score_threshold"], facts["usual_score_threshold"]) == (0.05, 0.5)
    assert facts["usual_score_thresholds"] == [0.5, 0.5]
    assert facts["models"] == ["first"]
    assert facts["version"] == onestage.__version__


def test_the_threshold_of_clients_that_ask_for_none_can_be_set() -> None:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu")  # its red boxes have a score of 0.9
    predictor.selection = predictor.selection.with_class_thresholds([0.3, 0.95])  # of blue, red
    with running(create_app(predictor)) as port:
        assert ask(port, "/v1/model").json["usual_score_thresholds"] == [0.3, 0.95]
        assert ask(port, "/v1/detect", red_png(BOX)).json[0]["detections"] == []
        assert ask(port, "/v1/detect?score_threshold=0.5", red_png(BOX)).json[0]["detections"] == [RED_BOX_FOUND]


def test_each_class_has_its_own_threshold_where_a_client_asks_for_none() -> None:
    served = ServedModel("mine", Predictor(RedBoxDetector(), CATEGORIES, device="cpu"), [0.25, 0.75])
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(4, 1)
    found = Detections(boxes, torch.tensor([0.8, 0.75, 0.3, 0.25]), torch.tensor([1, 1, 0, 0]))
    assert served.chosen(found, None).scores.tolist() == torch.tensor([0.8, 0.3]).tolist()
    assert served.chosen(found, 0.26).scores.tolist() == torch.tensor([0.8, 0.75, 0.3]).tolist()


class TallDetector(RedBoxDetector):
    """Finds the red rectangle from the image's upper to its lower side."""

    name = "tall"

    def detect(self, predictions, selection, input_hw):
        found = super().detect(predictions, selection, input_hw)
        kept, heights = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 100.0])
        return [replace(one, boxes_xyxy=one.boxes_xyxy * kept + heights) for one in found]


def test_a_second_model_is_asked_by_name_and_has_facts_of_its_own() -> None:
    first, second = (Predictor(one, CATEGORIES, device="cpu") for one in (RedBoxDetector(), TallDetector()))
    second.input_bits = 12
    with running(create_app(first, second=second, titles=("may", "june"))) as port:
        facts = [ask(port, f"/v1/model{which}").json for which in ("", "?model=first", "?model=second")]
        assert [(one["title"], one["detector"]) for one in facts] == [
            ("may", "red-box"),
            ("may", "red-box"),
            ("june", "tall"),
        ]
        assert facts[0]["models"] == ["first", "second"]
        boxes = [
            ask(port, f"/v1/detect?model={which}", red_png(BOX)).json[0]["detections"][0]["box_xyxy"]
            for which in ("first", "second")
        ]
        assert boxes == [[20, 30, 80, 90], [20, 0, 80, 100]]
        drawn = ask(port, "/v1/detect?model=second", red_png(BOX, size=500), {"Accept": "image/png"})
        pixels = np.asarray(Image.open(io.BytesIO(drawn.body)))
        assert pixels[400, 20].tolist() == [46, 196, 255]  # the box goes on below the red
        deep = png(np.full((500, 500), 0xFFF, np.uint16))  # as bright as 12 bits can be
        drawn = ask(port, "/v1/detect?model=second", deep, {"Accept": "image/png"})
        assert np.asarray(Image.open(io.BytesIO(drawn.body))).min() == 255


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/model"])
def test_a_model_that_the_server_lacks_gets_422(port: int, path: str) -> None:
    body = red_png(BOX) if path == "/v1/detect" else None
    answer = ask(port, f"{path}?model=second", body)
    assert (answer.status, answer.json["error"]) == (
        422,
        "model: this server has one model; start it with --compare-with for a second",
    )
    assert ask(port, f"{path}?model=third", body).json["error"] == "model: Input should be 'first' or 'second'"


def test_health_metrics_and_openapi_answer(port: int) -> None:
    assert ask(port, "/healthz").json == {"status": "ok"}
    ask(port, "/v1/detect", red_png(BOX))
    ask(port, "/no/such/path")
    text = ask(port, "/metrics").body.decode()
    assert 'onestage_requests_total{path="/v1/detect",status="200"}' in text
    assert 'onestage_requests_total{path="other",status="404"}' in text
    assert "/no/such/path" not in text
    assert "onestage_waiting_images 0.0" in text
    document = ask(port, "/openapi.json").json
    assert set(document["paths"]) == {"/v1/detect", "/v1/model", "/healthz", "/metrics"}
    assert set(document["paths"]["/v1/detect"]["post"]["responses"]) >= {"200", "413", "422", "503"}
    parameters = {one["name"]: one for one in document["paths"]["/v1/detect"]["post"]["parameters"]}
    assert parameters["model"]["schema"]["enum"] == ["first", "second"]
    assert parameters["model"]["description"] == "which model, where the server compares two"


def test_metrics_count_the_images() -> None:
    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port:
        ask(port, "/v1/detect", *form({"a": red_png(BOX), "b": red_png(BOX), "c": b"no"}))
        text = ask(port, "/metrics").body.decode()
    assert 'onestage_images_total{outcome="read"} 2.0' in text
    assert 'onestage_images_total{outcome="unreadable"} 1.0' in text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/v1/detect", 405)])
def test_an_unknown_path_or_method_gets_one_sentence(port: int, method: str, path: str, status: int) -> None:
    answer = ask(port, path, method=method)
    assert answer.status == status
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "correct horse"}])
@pytest.mark.parametrize("path", ["/v1/detect", "/v1/model", "/metrics"])
def test_nothing_is_answered_without_the_token(guarded_port: int, path: str, headers: dict[str, str]) -> None:
    answer = ask(guarded_port, path, red_png(BOX) if path == "/v1/detect" else None, headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_token_opens_and_the_page_is_open_to_all(guarded_port: int) -> None:
    assert ask(guarded_port, "/v1/detect", red_png(BOX), TOKEN).json[0]["detections"] == [RED_BOX_FOUND]
    assert ask(guarded_port, "/v1/model", headers=TOKEN).status == 200
    for path in ("/", "/page.js", "/page.css", "/healthz"):
        assert ask(guarded_port, path).status == 200


def test_rebinding_the_name_of_the_tokens_scheme_has_no_case_and_the_token_has(guarded_port: int) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert ask(guarded_port, "/v1/model", headers={"Authorization": f"{scheme} correct horse"}).status == 200
    for wrong in ("Bearer CORRECT HORSE", "Basic correct horse", "correct horse", "Bearer", ""):
        assert ask(guarded_port, "/v1/model", headers={"Authorization": wrong}).status == 401


def test_refused_forms_and_odd_tags_leave_no_line_on_stderr(
    port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as where nobody logs: warnings go to stderr
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    tags = b"".join(struct.pack("<HHII", tag, 2, 1 << 30, 8) for tag in range(1, 200))
    for body in (b"--x\r\nno header\r\n\r\n--x--", b"--x\r\n", b"no form", b"--x\r\n: \r\n\r\n--x--"):
        assert ask(port, "/v1/detect", body, headers).status == 400
    assert ask(port, "/v1/detect", b"II*\0" + struct.pack("<IH", 8, 199) + tags + bytes(4)).status == 422
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("where", ["decoding", "network"])
def test_memory_is_not_damage_a_shortage_is_503(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise (
            MemoryError if where == "decoding" else RuntimeError("DefaultCPUAllocator: can't allocate memory: you ...")
        )

    detector = RedBoxDetector()
    with running(create_app(Predictor(detector, CATEGORIES, device="cpu"))) as port:
        with monkeypatch.context() as patch:
            patch.setattr(*((shared_predictor, "decode_image") if where == "decoding" else (detector, "detect")), short)
            answer = ask(port, "/v1/detect", red_png(BOX))
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.json == {"error": "the machine is short of memory; try again in a moment"}
        assert ask(port, "/v1/detect", red_png(BOX)).status == 200


def test_scan_bomb_jpeg_2000_is_not_decoded_by_a_server(port: int) -> None:
    file = io.BytesIO()
    Image.fromarray(red_box(100, 100, BOX)).save(file, format="JPEG2000")
    answer = ask(port, "/v1/detect", file.getvalue())
    assert answer.status == 422
    assert answer.json["error"] == "image: JPEG 2000 takes too long to decode for a server; send JPEG or PNG"


def test_the_page_allows_nothing_from_elsewhere(port: int) -> None:
    answer = ask(port, "/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    scripts = [path for path in PAGE_FILES if path.endswith(".js")]
    assert {"/page.js", "/edit.js", "/images.js", "/voc.js"} <= {*scripts}
    for path in ("/", "/page.css", *scripts):
        content = ask(port, path).body.decode()
        assert "//" not in content.replace("// ", "").replace("//-", "").replace("//\n", ""), path  # no address


class FailingDetector(RedBoxDetector):
    """Breaks down over any image with a box at its left edge, whatever else is in the batch."""

    def detect(self, predictions, selection, input_hw):
        if (predictions.box_deltas[:, 0, 0] == 1).any():
            raise RuntimeError("the engine broke down")
        return super().detect(predictions, selection, input_hw)


def test_an_image_over_which_the_engine_breaks_down_takes_no_other_with_it() -> None:
    with running(create_app(Predictor(FailingDetector(), CATEGORIES, device="cpu"))) as port:
        statuses: dict[int, int] = {}

        def send(left: int) -> None:
            statuses[left] = ask(port, "/v1/detect", red_png((left, 10, 50, 50))).status

        threads = [threading.Thread(target=send, args=(left,)) for left in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == {left: 500 if left == 1 else 200 for left in range(8)}
        assert ask(port, "/v1/detect", red_png(BOX)).status == 200


def test_the_servers_selection_keeps_what_else_was_chosen() -> None:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu")
    predictor.selection = replace(predictor.selection, max_detections=3)
    create_app(predictor)
    assert (predictor.selection.max_detections, predictor.selection.score_threshold) == (3, 0.05)
