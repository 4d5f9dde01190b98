"""The network in llama.cpp, through llama-cpp-python's bindings of its C interface.

The architecture is `arcee`: llama with an FFN of two matrices and ReLU squared, which is BitMar's own block. (llama's
FFN has three matrices: at the same width it would have to read half as much again.)
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from _peers import Ids
from _peers.weights import F32, layers, random_weights
from bitmar.core.config import ModelConfig
from bitmar.core.errors import BitMarError

_NAMES = {"embed": "token_embd", "norm": "output_norm", "head": "output"}
_PARTS = {
    "attn_norm": "attn_norm",
    "o": "attn_output",
    "mlp_norm": "ffn_norm",
    "up": "ffn_up",
    "down": "ffn_down",
}


def build(config: ModelConfig, kind: str, folder: Path, capacity: int) -> Path:
    """kind: the name of a ggml type, such as Q8_0."""
    import gguf

    if config.hidden_size % 32 or config.intermediate_size % 32:
        raise BitMarError("llama.cpp quantises blocks of 32: hidden_size and intermediate_size must be multiples")
    import llama_cpp  # noqa: F401  absent: said now, not after the file was written

    path = folder / f"llama-{kind}.gguf"
    writer = gguf.GGUFWriter(path, "arcee")
    writer.add_block_count(layers(config))
    writer.add_context_length(config.attention_sinks + config.attention_window)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    quantised = gguf.GGMLQuantizationType[kind]
    for source, weight in random_weights(config):
        for name, part in _tensors(source, weight, config.num_heads):
            if part.ndim == 1:
                writer.add_tensor(name, part)
            else:
                writer.add_tensor(name, gguf.quants.quantize(part, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(source: str, weight: F32, heads: int) -> Iterator[tuple[str, F32]]:
    """Under llama.cpp's names; q, k and v are three matrices there."""
    if source in _NAMES:
        yield f"{_NAMES[source]}.weight", weight
        return
    layer, part = source.split(".")
    if part != "qkv":
        yield f"blk.{layer}.{_PARTS[part]}.weight", weight
        return
    q, k, v = np.split(weight, 3)
    yield f"blk.{layer}.attn_q.weight", _interleave(q, heads)
    yield f"blk.{layer}.attn_k.weight", _interleave(k, heads)
    yield f"blk.{layer}.attn_v.weight", v


def _interleave(weight: F32, heads: int) -> F32:
    """Rows of each head in the order of this architecture's RoPE: it turns neighbours, not halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


class Llama:
    detail = "without AMX"

    def __init__(self, path: Path, config: ModelConfig, capacity: int) -> None:
        import llama_cpp

        self.api, self.vocabulary = llama_cpp, config.vocab_size
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = False  # its AMX kernels, which lie there, crash on matrices this narrow
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self.model:
            raise BitMarError(f"llama.cpp cannot load {path.name}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = capacity
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 1
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise BitMarError("llama.cpp cannot make a context")
        self.batch = 512
        self.tokens = llama_cpp.llama_batch_init(self.batch, 0, 1)

    def prefill(self, ids: Ids) -> int:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        self.seen = 0
        for start in range(0, len(ids), self.batch):
            self._forward(ids[start : start + self.batch].tolist())
        return self._likeliest()

    def decode(self, token: int, count: int) -> list[int]:
        tokens = []
        for _ in range(count):
            self._forward([token])
            token = self._likeliest()
            tokens.append(token)
        return tokens

    def _forward(self, ids: list[int]) -> None:
        """After what was read before; only the last token's logits are computed."""
        batch = self.tokens
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, self.seen + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, i == len(ids) - 1
        if status := self.api.llama_decode(self.context, batch):
            raise BitMarError(f"llama.cpp's decode failed with status {status}")
        self.seen += len(ids)

    def _likeliest(self) -> int:
        logits = self.api.llama_get_logits_ith(self.context, -1)
        pointer = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(pointer, (self.vocabulary,)).argmax())


def load(path: Path, config: ModelConfig, kind: str, capacity: int) -> Llama:
    return Llama(path, config, capacity)
