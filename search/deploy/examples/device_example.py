"""Send camera frames to the server of a split model:

    python example.py http://SERVER:PORT PICTURE ... [--deadline MILLISECONDS]

Needs the package merge-search, which contains `spaces`, and nothing of the server's part. For each
frame the device takes the best split and coding that are expected to meet the deadline, from what
the last frames took.
"""

import argparse
import http.client
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageOps

import spaces

if getattr(spaces, "__distribution__", "") != "merge-search":
    sys.exit(
        f"{spaces.__file__} is another package named `spaces`, not that of merge-search: install "
        "merge-search in an environment of its own (pip install merge-search)"
    )
from spaces.split.controller import RateController
from spaces.split.device import load_device

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("server", help="its address, such as http://192.168.1.5:8765")
parser.add_argument("pictures", nargs="+", type=Path)
parser.add_argument("--deadline", type=float, default=1000.0, help="milliseconds")
arguments = parser.parse_args()

device = load_device(Path(__file__).parent)
controller = RateController(device.points, arguments.deadline)
server = http.client.HTTPConnection(urlsplit(arguments.server).netloc, timeout=10)


def ask(method: str, path: str, body: bytes = b"") -> tuple[dict, float]:
    """Return what the server answers, and the milliseconds that it took."""
    started = time.perf_counter()
    server.request(method, path, body)
    response = server.getresponse()
    content = response.read()
    if response.status != 200:
        sys.exit(f"{arguments.server}: status {response.status}: {content.decode()[:200]}")
    return json.loads(content), 1000 * (time.perf_counter() - started)


try:
    ask("GET", "/v1/info")  # connects
    controller.observe_round_trip(ask("GET", "/v1/info")[1])
except OSError as error:
    sys.exit(f"{arguments.server}: no server answers there ({error})")
for picture in arguments.pictures:
    frame = np.asarray(ImageOps.exif_transpose(Image.open(picture)).convert("RGB"))
    point = controller.choose()
    started = time.perf_counter()
    captured = device.capture(frame, point.split)
    message = device.message(captured, point.coding)
    device_ms = 1000 * (time.perf_counter() - started)
    try:
        answers, rest_ms = ask("POST", "/v1/answers", message)
    except OSError as error:  # such as a timeout: go on with a smaller message
        controller.observe_timeout(len(message), 1000 * server.timeout)
        print(f"{picture}: no answer ({error})")
        server.close()
        continue
    controller.observe(len(message), max(0.0, rest_ms - point.server_ms))
    print(
        f"{picture}: {len(message):,} bytes at step {point.coding.step}, device "
        f"{device_ms:.0f} ms, link and server {rest_ms:.0f} ms"
    )
    for model, answer in captured.answers.items():
        print(f"  {model}, on the device: {answer}")
    for model, answer in answers.items():
        print(f"  {model}: {json.dumps(answer)[:200]}")
