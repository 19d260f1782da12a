"""Play a model from a program: hold a key for a second, and save the last frame.

`phenaki play MODEL`, then `python examples/play_client.py ws://127.0.0.1:8300/api/play PROMPT [ACTION]`.
"""

import json
import struct
import sys

import numpy as np
from PIL import Image
from websockets.sync.client import connect

HEADER = struct.Struct("<IIHHHHf")  # latent frame, last message, frames, height, width, dropped, seconds

address, prompt, *actions = sys.argv[1:]
with connect(address) as server:
    server.send(json.dumps({"type": "start", "prompt": prompt, "seed": 1}))
    for message in server:
        if isinstance(message, str):  # about the model, the line, a mistake
            print(json.loads(message).get("message", message[:70]))
            continue
        number, _, *shape, dropped, seconds = HEADER.unpack_from(message)
        frames = np.frombuffer(message, np.uint8, offset=HEADER.size).reshape(*shape, 3)
        print(f"latent frame {number}: {len(frames)} frames in {1000 * seconds:.0f} ms, {dropped} dropped before it")
        server.send(json.dumps({"type": "ack", "latent_frame": number}))
        if number == 4 and actions:
            server.send(json.dumps({"type": "press", "action": actions[0]}))
        if number >= 8:
            break
Image.fromarray(frames[-1]).resize((256, 256), Image.Resampling.NEAREST).save("played.png")
