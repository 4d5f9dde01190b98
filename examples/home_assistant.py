"""A doorbell's snapshot as a sentence in Home Assistant, by a webhook: who is there, by the names that were taught.

python examples/home_assistant.py snapshot.jpg http://homeassistant.local:8123/api/webhook/doorbell home.mem

In Home Assistant an automation with the trigger `webhook`, id `doorbell`, reads {{ trigger.json.caption }}. Names
are taught by `bitmar remember anna.jpg "Anna" --memory home.mem`. `bitmar watch` does all this for a camera, with
MQTT discovery.
"""

import json
import sys
import urllib.request

import bitmar

snapshot, webhook, path = sys.argv[1:]
model = bitmar.load()
with model.memory(path) as memory:
    result = model.generate("", snapshot, memory=memory)
known = result.recalled.episode.text if result.recalled and result.recited else None
event = {"caption": result.text.strip(), "known": known, "confidence": result.confidence}
request = urllib.request.Request(webhook, json.dumps(event).encode(), {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=10) as answer:
    print(answer.status, event)
