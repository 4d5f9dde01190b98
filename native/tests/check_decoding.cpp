// A tiny model of random weights writes token after token, by every way of choosing one, and once it has begun nothing is
// allocated. Exits with 1 where something is.
#include <stdio.h>
#include <stdlib.h>

#include <new>
#include <random>

#include "../dispatch.h"
#include "../model.h"

namespace {

long allocations = 0;

}  // namespace

// Buffers take their memory from calloc, which the linker turns into this one; everything else comes from operator new.
extern "C" {
void* __real_calloc(size_t count, size_t size);
void* __wrap_calloc(size_t count, size_t size) {
  allocations++;
  return __real_calloc(count, size);
}
}

void* operator new(size_t size) {
  allocations++;
  if (void* p = malloc(size)) return p;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  allocations++;
  return malloc(size);
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, size_t) noexcept { free(p); }

using namespace bitmar;

namespace {

// Tensors by the names of a file, random, and the memory they are in.
struct Made {
  std::mt19937 random{7};
  std::map<std::string, Tensor> tensors;
  std::vector<std::vector<float>> floats;
  std::vector<std::vector<uint8_t>> bytes;

  void add_floats(const std::string& name, int64_t size, float mean = 1) {
    std::normal_distribution<float> normal(mean, 0.1f);
    floats.emplace_back(size);
    for (float& x : floats.back()) x = normal(random);
    tensors[name] = {floats.back().data(), 'f', {size}};
  }

  // Bytes of packed weights (any without the code 3), or of an embedding.
  void add_bytes(const std::string& name, char type, int64_t size) {
    bytes.emplace_back(size);
    for (uint8_t& x : bytes.back()) x = type == 'u' ? random() % 2 * 0x55 + random() % 2 * 0x15 : random() % 200;
    tensors[name] = {bytes.back().data(), type, {size}};
  }

  void add_linear(const std::string& name, int rows, int columns) {
    add_bytes(name + ".weight", 'u', int64_t{rows} * ((columns + 3) / 4));
    add_floats(name + ".scale", 1, 0.5f);
  }
};

Config tiny() {
  Config config;
  config.vocab_size = 300, config.hidden_size = 32, config.encoder_layers = 1, config.decoder_layers = 1;
  config.num_heads = 2, config.intermediate_size = 64, config.rope_theta = 10000, config.norm_eps = 1e-6f;
  config.attention_sinks = 2, config.attention_window = 14;
  config.vision_dim = 16, config.vision_grid = 2, config.vision_pool = 1, config.vision_hidden = 16;
  config.memory_slots = 8, config.memory_dim = 32, config.memory_segment = 8;
  config.memory_alpha = 0.2f, config.memory_decay = 0.99f;
  config.integration = Integration::kPerLayer;
  return config;
}

Weights weights_of(const Config& config, Made& made) {
  const int d = config.hidden_size, c = config.memory_dim;
  made.add_bytes("model.embed_tokens.weight", 'i', int64_t{config.vocab_size} * d);
  made.add_floats("model.embed_tokens.scale", config.vocab_size, 0.5f);
  for (const char* stack : {"encoder", "decoder"}) {
    const std::string block = std::string("model.") + stack + ".layers.0";
    for (const char* norm : {".attn_norm.weight", ".mlp_norm.weight"}) made.add_floats(block + norm, d);
    made.add_linear(block + ".attn.qkv_proj", 3 * d, d);
    made.add_linear(block + ".attn.o_proj", d, d);
    made.add_linear(block + ".mlp.up_proj", config.intermediate_size, d);
    made.add_linear(block + ".mlp.down_proj", d, config.intermediate_size);
    made.add_floats(std::string("model.") + stack + ".norm.weight", d);
  }
  made.add_linear("model.decoder.layers.0.memory_proj", d, c);
  made.add_floats("model.decoder.layers.0.memory_gate", 1);
  made.add_floats("model.vision.norm.weight", config.vision_dim);
  made.add_linear("model.vision.fc1", config.vision_hidden, config.vision_dim);
  made.add_linear("model.vision.fc2", d, config.vision_hidden);
  made.add_floats("model.fusion.norm.weight", d);
  made.add_linear("model.fusion.q_proj", d, d);
  made.add_linear("model.fusion.kv_proj", 2 * d, d);
  made.add_linear("model.fusion.o_proj", d, d);
  made.add_floats("model.memory.slots", int64_t{config.memory_slots} * c, 0);
  for (const char* norm : {"query_norm.weight", "read_norm.weight"}) made.add_floats(std::string("model.memory.") + norm, c);
  for (const char* scalar : {"read_beta", "stale", "write_beta", "protect"})
    made.add_floats(std::string("model.memory.") + scalar, 1);
  made.add_floats("model.memory.address", int64_t{c} * c, 0);
  made.add_linear("lm_head", config.vocab_size, d);
  return Weights(made.tensors);
}

}  // namespace

int main() {
  const Config config = tiny();
  Made made;
  const Weights weights = weights_of(config, made);
  const std::vector<float> vision_tokens(config.vision_tokens() * config.hidden_size, 0.5f);
  const Sampling ways[] = {{0, 0, 1, 1},    {0, 0, 1, 1.2f},     {1, 0, 1, 1},
                           {0.7, 20, 1, 1}, {1.5, 0, 0.9, 1.3f}, {1e-40, 1 << 30, 1e-9, 1}};
  int failures = 0;
  for (const Path& path : paths()) {
    if (path.kernels == nullptr) continue;
    const auto model = std::make_shared<Model>(*path.kernels, config, weights);
    for (const Sampling& way : ways) {
      State state(model, model->image(vision_tokens.data(), {{3, 5}, {0.5f, 0.25f}, {-1, 3}}), nullptr);
      int64_t token = 1;
      long before = 0;
      for (int i = 0; i < 80; i++) {
        if (i == 40) before = allocations;  // the window is full, and a few segments have ended
        state.forward(&token, 1, nullptr, Write::kNever, true);
        token = state.next(way, i / 80.0);
        if (token < 0 || token >= config.vocab_size) failures++;
      }
      if (allocations != before) {
        printf("FAILED: %s, temperature %g: %ld allocations in 40 tokens\n", path.name.c_str(), way.temperature,
               allocations - before);
        failures++;
      }
    }
  }
  if (allocations == 0) failures++;  // a model is made of some: nothing was counted
  printf("%s\n", failures ? "FAILED" : "no token allocates");
  return failures != 0;
}
