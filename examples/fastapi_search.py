"""Search photos by words, as a web service of one's own: embeddings of the photos, cosine with that of the text.

PHOTOS=photos/ uvicorn --app-dir examples fastapi_search:app
curl 'http://localhost:8000/search?text=a+dog+in+the+grass&k=3'
"""

import os
from pathlib import Path

import numpy as np
from fastapi import FastAPI

import bitmar
from bitmar.core.errors import ImageError

app = FastAPI()
model = bitmar.load()
names, vectors = [], []
for photo in sorted(Path(os.environ["PHOTOS"]).iterdir()):
    try:
        vectors.append(model.embed(image=photo))
        names.append(photo.name)
    except ImageError as error:
        print(f"skipped {error}")
table = np.stack(vectors)  # (n, d), each of length 1


@app.get("/search")
def search(text: str, k: int = 5) -> list[dict[str, float | str]]:
    """The k photos nearest to a text, best first. The score ranks; it is no probability."""
    scores = table @ model.embed(text)
    best = np.argsort(-scores)[:k]
    return [{"photo": names[i], "score": round(float(scores[i]), 4)} for i in best]
