// The engine as a WebAssembly module without imports but one: web/engine.js calls what is exported here. One model to an
// instance. Pointers are into the instance's memory; ids are int32.
#include <stdlib.h>
#include <string.h>

#include <optional>
#include <typeinfo>

#include "dispatch.h"
#include "photo_model.h"
#include "resize.h"

#define BITMAR_EXPORT(name) extern "C" __attribute__((export_name(#name)))

// What is thrown here ends the call and becomes an Error there: a module cannot unwind its stack, and nothing here catches.
extern "C" {
[[noreturn]] __attribute__((import_module("bitmar"), import_name("fail"))) void bitmar_fail(const char* text, size_t size);

void* __cxa_allocate_exception(size_t size) noexcept { return malloc(size); }
[[noreturn]] void __cxa_throw(void* thrown, std::type_info*, void (*)(void*)) {
  const char* text = static_cast<std::exception*>(thrown)->what();  // no class that is thrown has another first base
  bitmar_fail(text, strlen(text));
}
}

namespace bitmar {
namespace {

struct Loaded {
  Loaded(Buffer<char> bytes, const Kernels& kernels) : file(std::move(bytes)), model(file, kernels) {}
  const ModelFile file;
  const PhotoModel model;
  std::shared_ptr<const Image> seen;
  std::shared_ptr<const MemoryState> memory;  // what texts read; none: M_0
  std::optional<State> state;
};

std::optional<Loaded> loaded;
Buffer<char> given;  // what the caller has put here
Buffer<uint8_t> resized;
Buffer<float> scores;
Buffer<char> continuations;

// Reads ids (sequences, tokens).
void forward(const int32_t* ids, int tokens) {
  const std::vector<int64_t> wide(ids, ids + loaded->state->batch() * tokens);
  for (int64_t id : wide)
    if (id < 0 || id >= loaded->model.model->config.vocab_size) throw std::invalid_argument("an id lies outside the vocabulary");
  loaded->state->forward(wide.data(), tokens, nullptr, Write::kNever, true);
}

}  // namespace

// Room for `size` bytes, until the next call.
BITMAR_EXPORT(bitmar_room) char* room(size_t size) {
  given = Buffer<char>(size);
  return given.data();
}

// Takes over the file that lies in the room. kernels: 0, the fastest; 1, portable.
BITMAR_EXPORT(bitmar_load) void load(int kernels) {
  loaded.reset();
  loaded.emplace(std::move(given), select_kernels(kernels == 1 ? "portable" : ""));
}

BITMAR_EXPORT(bitmar_size) int size() { return loaded->model.size; }

// RGBA (height, width, 4) in the room, resized. filter: 0 box, 1 bicubic.
BITMAR_EXPORT(bitmar_resize) const uint8_t* resize_given(int width, int height, int new_width, int new_height, int filter) {
  resized = resize(reinterpret_cast<const uint8_t*>(given.data()), width, height, new_width, new_height,
                   filter == 0 ? Filter::kBox : Filter::kBicubic);
  return resized.data();
}

// Looks at a square photo, RGBA (size, size, 4), in the room: texts are about it from here on.
BITMAR_EXPORT(bitmar_see) void see() {
  const size_t area = static_cast<size_t>(size()) * size();
  Buffer<uint8_t> photo(3 * area);
  for (size_t i = 0; i < area; i++) memcpy(photo.data() + 3 * i, given.data() + 4 * i, 3);
  loaded->seen = loaded->model.see(photo.data());
}

BITMAR_EXPORT(bitmar_pooled) const float* pooled() { return loaded->seen->pooled.data(); }            // (D_v)
BITMAR_EXPORT(bitmar_scores) const float* concept_scores() { return loaded->seen->concepts.data(); }  // (K), with concepts only

// Slots (K, C) and then usage (K) in the room: what texts read from here on; M_0 without.
BITMAR_EXPORT(bitmar_memory) void memory(int with) {
  const Config& config = loaded->model.model->config;
  const auto* slots = reinterpret_cast<const float*>(given.data());
  loaded->memory = nullptr;
  if (with)
    loaded->memory = loaded->model.model->memory_state(slots, slots + size_t{1} * config.memory_slots * config.memory_dim);
}

// A new text, about the photo or not, with the memory or without.
BITMAR_EXPORT(bitmar_start) void start(int photo, int memory) {
  loaded->state.emplace(loaded->model.model, photo ? loaded->seen : nullptr, memory ? loaded->memory : nullptr);
}

// Reads `count` >= 1 ids in the room.
BITMAR_EXPORT(bitmar_read) void read(int count) { forward(reinterpret_cast<const int32_t*>(given.data()), count); }

// The likeliest token after what was read.
BITMAR_EXPORT(bitmar_next) int next() { return loaded->state->next({}, 0); }

BITMAR_EXPORT(bitmar_take) void take(int32_t id) { forward(&id, 1); }

// The `count` likeliest continuations of each sequence: ids (sequences, count) as int64, then their log-probabilities.
BITMAR_EXPORT(bitmar_candidates) const char* candidates(int count) {
  const size_t all = size_t{1} * loaded->state->batch() * count;
  char* ids = continuations.reserve(all * (sizeof(int64_t) + sizeof(float)));
  loaded->state->candidates(count, 1, reinterpret_cast<int64_t*>(ids), reinterpret_cast<float*>(ids + all * sizeof(int64_t)));
  return ids;
}

// Goes on with `count` sequences, after their sources' numbers and their tokens in the room.
BITMAR_EXPORT(bitmar_branch) void branch(int count) {
  const auto* sources = reinterpret_cast<const int32_t*>(given.data());
  loaded->state->select({sources, sources + count});
  forward(sources + count, 1);
}

BITMAR_EXPORT(bitmar_logits) const float* logits() { return loaded->state->logits(); }  // (V)
BITMAR_EXPORT(bitmar_query) const float* query() { return loaded->state->query(); }     // of the memory, (C)

// Natural log-probability of each of `count` ids in the room but the first, as a new text: (count - 1).
BITMAR_EXPORT(bitmar_score) const float* score(int count) {
  const auto* ids = reinterpret_cast<const int32_t*>(given.data());
  const std::vector<int64_t> wide(ids, ids + count);
  loaded->state->score(wide.data(), count, scores.reserve(count));
  return scores.data();
}

}  // namespace bitmar
