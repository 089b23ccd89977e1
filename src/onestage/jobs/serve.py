"""The `serve` command: a model behind HTTP, until Ctrl-C."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from onestage.errors import UserError
from onestage.inference.predictor import load
from onestage.terminal import Display, command_display
from onestage.texts import counted

SHORTEST_TOKEN = 8  # characters
TOKEN_VARIABLE = "ONESTAGE_TOKEN"


def serve(
    model: str | os.PathLike[str],
    *,
    compare_with: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allowed_hosts: Sequence[str] | None = None,
    batch_size: int = 8,
    device: str | None = None,
    score_threshold: float | Literal["auto"] = "auto",
    nms: Literal["hard", "soft"] | None = None,
    iou_threshold: float | None = None,
    class_agnostic: bool = False,
    max_detections: int | None = None,
    tile: int | str | None = None,
    tile_overlap: int | None = None,
    display: Display | None = None,
) -> None:
    """Answer requests with detections, and show a page to try it at `/`. Returns when it is stopped.

    A signal (Ctrl-C, SIGTERM) stops it; where requests that have begun are not answered in time, or at a second signal,
    the process ends at once, with status 0.

    Args:
        model: a run folder, a model file, an exported file or a hub's name (`hf://USER/NAME[@REVISION]`).
        compare_with: another model, which the page shows beside it.
        host: the address to listen at. Any but this machine's own (loopback) needs a token.
        port: the port to listen at; 0 takes a free one.
        token: secret that every client must send; None: the environment variable ONESTAGE_TOKEN, if it is set.
        allowed_hosts: names by which clients call the server, "*" any. None: at a loopback address this machine's own
            names, else any. Requests under other names, and from pages of other servers, are refused.
        batch_size: most images that go through the network together; they may come from several requests.
        device: where the network runs; None takes a GPU where there is one.
        score_threshold: of clients that ask for none; "auto" takes the thresholds that were found for the model's
            classes, or 0.5 where none were.
        nms, iou_threshold, class_agnostic, max_detections: see `Selection.changed`; None: as the model.
        tile, tile_overlap: see `changed_tiling`; None: as the model.
        display: where to print.

    Raises:
        UserError: no model, a missing package, an address that can't be listened at, or no token where one is needed.
    """
    display = command_display(display)
    token = token or os.environ.get(TOKEN_VARIABLE)
    _check_token(token, host)
    try:
        from onestage.serving.app import create_app
        from onestage.serving.connections import run
        from onestage.serving.hosts import THIS_MACHINE
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'onestage[serve]'") from error
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: give 1 or more")
    models = [one for one in (model, compare_with) if one]
    predictors = [load(one, device=device, tile=tile, tile_overlap=tile_overlap) for one in models]
    for one in predictors:
        one.selection = one.selection_for(score_threshold, nms, iou_threshold, class_agnostic, max_detections)
    hosts = (*THIS_MACHINE, host, *(allowed_hosts or ())) if _is_loopback(host) else allowed_hosts
    app = create_app(
        predictors[0],
        second=predictors[1] if compare_with else None,
        titles=(_title(model), _title(compare_with or "")),
        token=token,
        batch_size=batch_size,
        allowed_hosts=hosts,
    )
    with _listening(host, port) as listening:
        address = _address(host, listening.getsockname()[1], token)
        what = " and ".join(f"{one.detector_name}, {counted(len(one.categories), 'class')}" for one in predictors)
        display.say(f"{what}: {address}  (Ctrl-C stops)")
        run(app, listening)
    display.say("stopped")


def _check_token(token: str | None, host: str) -> None:
    if token is None and not _is_loopback(host):
        raise UserError(
            f"--host {host}: others can reach this address, so give a secret that clients must send: --token SECRET, "
            f"or the environment variable {TOKEN_VARIABLE}"
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(f"the token: give {SHORTEST_TOKEN} or more ASCII characters, as `openssl rand -hex 16` prints")


def _address(host: str, port: int, token: str | None) -> str:
    place = f"[{host}]" if ":" in host else host
    return f"http://{place}:{port}/" + (f"#token={quote(token, safe='')}" if token else "")


def _title(model: str | os.PathLike[str]) -> str:
    """The name of a run, or of a file that has one of its own."""
    path = Path(model).resolve()
    return path.parent.name if path.stem == "model" else path.name


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise UserError(f"--host {host} --port {port}: can't listen there ({reason}); give another address") from error
