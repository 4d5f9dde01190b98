"""The bundled model in transformers (needs bitmar[train]): unpacked, shown a photo through its own tower.

python examples/in_transformers.py photo.jpg checkpoint/
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import bitmar
from bitmar.core.image import load_photo, to_square
from bitmar.unpack import unpack

photo, folder = sys.argv[1:]
packed = bitmar.load()
unpack(packed.path, folder)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
square = to_square(load_photo(photo), packed.vision["size"])
features = torch.from_numpy(packed.engine.tower(square)).unsqueeze(0)  # (1, N_p, D_v)
begin = torch.tensor([[model.config.bos_token_id]])
written = model.generate(begin, vision_features=features, max_new_tokens=32)
print(tokenizer.decode(written[0], skip_special_tokens=True))
