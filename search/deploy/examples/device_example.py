"""Send camera frames to the server of a split model:

    python example.py http://SERVER:PORT PICTURE ... [--deadline MILLISECONDS]

Needs the package merge-search, which contains `spaces`, and nothing of the server's part. With a
deadline, the device picks the finest coding that has met it at the rate of the last frames.
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
for picture in arguments.pictures:
    frame = np.asarray(ImageOps.exif_transpose(Image.open(picture)).convert("RGB"))
    point = controller.choose()
    started = time.perf_counter()
    captured = device.capture(frame, point.split)
    message = device.message(captured, point.coding)
    sent = time.perf_counter()
    server.request("POST", "/v1/answers", message)
    response = server.getresponse()
    answers = json.loads(response.read())
    done = time.perf_counter()
    transfer_ms = max(0.0, 1000 * (done - sent) - point.server_ms)
    controller.observe(len(message), transfer_ms, 1000 * (done - started))
    print(
        f"{picture}: {len(message):,} bytes at step {point.coding.step}, device "
        f"{1000 * (sent - started):.0f} ms, link and server {1000 * (done - sent):.0f} ms"
    )
    for model, answer in answers.items():
        print(f"  {model}: {json.dumps(answer)[:200]}")
