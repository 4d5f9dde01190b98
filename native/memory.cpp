#include "memory.h"

#include <math.h>

namespace bitmar {
namespace {

constexpr float kUsageFloor = 1e-4f;

float softplus(float x) { return x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x)); }

// Writes happen once a segment, so this part is plain.
void softmax(Buffer<float>& x) {
  float most = x[0];
  for (size_t i = 1; i < x.size(); i++) most = std::max(most, x[i]);
  double sum = 0;
  for (size_t i = 0; i < x.size(); i++) sum += x[i] = expf(x[i] - most);
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(x[i] / sum);
}

float dot(const float* a, const float* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += static_cast<double>(a[i]) * b[i];
  return static_cast<float>(sum);
}

}  // namespace

MemoryState::MemoryState(const Kernels& kernels, const Config& config, float stale, const float* given_slots,
                         const float* given_usage)
    : slots(static_cast<size_t>(config.memory_slots) * config.memory_dim),
      usage(config.memory_slots),
      bias(config.memory_slots),
      packed(1, config.memory_dim, config.memory_slots, false) {
  std::copy_n(given_slots, slots.size(), slots.data());
  std::copy_n(given_usage, usage.size(), usage.data());
  for (int k = 0; k < config.memory_slots; k++) {
    const float* slot = slots.data() + static_cast<size_t>(k) * config.memory_dim;
    kernels.store(packed.view(), k, slot, slot);
    bias[k] = stale * logf(std::max(usage[k], kUsageFloor));
  }
}

EpisodicMemory::EpisodicMemory(const Weights& weights, const Config& config) : config_(config) {
  const std::string name = "model.memory.";
  const int d = config.hidden_size, width = config.memory_dim, slots = config.memory_slots;
  slots_ = weights.floats(name + "slots", int64_t{slots} * width);
  query_norm_ = weights.floats(name + "query_norm.weight", width);
  read_norm_ = weights.floats(name + "read_norm.weight", width);
  if (d != width) query_proj_ = weights.linear(name + "query_proj", width, d);
  if (config.learned_pooling) pooling_ = weights.floats(name + "pooling", d);
  read_beta_ = weights.scalar(name + "read_beta");
  stale_ = softplus(weights.scalar(name + "stale"));
  if (config.literal_write) {
    write_weights_ = weights.floats(name + "write_weights", slots);
  } else {
    address_ = weights.floats(name + "address", int64_t{width} * width);
    write_beta_ = weights.scalar(name + "write_beta");
    protect_ = softplus(weights.scalar(name + "protect"));
  }
}

std::shared_ptr<const MemoryState> EpisodicMemory::initial_state(const Kernels& kernels) const {
  Buffer<float> fresh(config_.memory_slots);
  std::fill_n(fresh.data(), fresh.size(), 1.0f);
  return state(kernels, slots_.data(), fresh.data());
}

std::shared_ptr<const MemoryState> EpisodicMemory::state(const Kernels& kernels, const float* slots, const float* usage) const {
  return std::make_shared<MemoryState>(kernels, config_, stale_, slots, usage);
}

void EpisodicMemory::queries(const Kernels& kernels, const float* fused, int tokens, QueryCarry& carry, float* q,
                             Workspace& work) const {
  const int d = config_.hidden_size, width = config_.memory_dim;
  Buffer<float>& means = work.means;
  means.reserve(static_cast<size_t>(tokens) * d);
  for (int t = 0; t < tokens; t++) {
    const float* f = fused + static_cast<size_t>(t) * d;
    double weight = 1;
    if (config_.learned_pooling) weight = exp(std::min(std::max(dot(f, pooling_.data(), d), -10.0f), 10.0f));
    carry.weight += weight;
    const double share = 1 / std::max(carry.weight, 1e-6);
    for (int i = 0; i < d; i++) {
      carry.total[i] += f[i] * weight;
      means[static_cast<size_t>(t) * d + i] = static_cast<float>(carry.total[i] * share);
    }
  }
  const float* narrowed = means.data();
  if (d != width) {
    query_proj_(kernels, means.data(), tokens, q, work);
    narrowed = q;
  }
  for (int t = 0; t < tokens; t++) {
    const size_t row = static_cast<size_t>(t) * width;
    kernels.rms_norm(narrowed + row, query_norm_.data(), config_.norm_eps, width, q + row);
  }
}

void EpisodicMemory::read(const Kernels& kernels, const float* q, int tokens, const MemoryState& state, float* reads,
                          Workspace& work) const {
  const int width = config_.memory_dim;
  const KeyValueView view = state.packed.view();
  const Queries queries{q, static_cast<size_t>(width), tokens, config_.memory_slots, 0, read_beta_, state.bias.data(), nullptr,
                        0};
  kernels.attend(view, queries, reads, width, scratch_for(work.attention, view));
  for (int t = 0; t < tokens; t++) {
    float* row = reads + static_cast<size_t>(t) * width;
    kernels.rms_norm(row, read_norm_.data(), config_.norm_eps, width, row);
  }
}

std::shared_ptr<const MemoryState> EpisodicMemory::write(const Kernels& kernels, const float* q, const MemoryState& state) const {
  const int width = config_.memory_dim, count = config_.memory_slots;
  Buffer<float> reads(count), touched(count), slots(state.slots.size()), usage(count);
  for (int k = 0; k < count; k++)
    reads[k] = read_beta_ * dot(q, state.slots.data() + static_cast<size_t>(k) * width, width) + state.bias[k];
  softmax(reads);
  if (!config_.literal_write) {
    Buffer<float> wanted(width);  // W_a q
    for (int i = 0; i < width; i++) wanted[i] = dot(address_.data() + static_cast<size_t>(i) * width, q, width);
    for (int k = 0; k < count; k++)
      touched[k] = write_beta_ * dot(wanted.data(), state.slots.data() + static_cast<size_t>(k) * width, width) -
                   protect_ * state.usage[k];
    softmax(touched);
  }
  for (int k = 0; k < count; k++) {
    const float amount = config_.memory_alpha * (config_.literal_write ? write_weights_[k] : touched[k]);
    for (int i = 0; i < width; i++) {
      const size_t place = static_cast<size_t>(k) * width + i;
      const float old = state.slots[place];
      slots[place] = old + amount * (config_.literal_write ? q[i] : q[i] - old);
    }
    const float touch = config_.literal_write ? fabsf(write_weights_[k]) : touched[k];
    usage[k] = std::min(std::max(config_.memory_decay * state.usage[k] + touch + reads[k], 0.0f), 1.0f);
  }
  return this->state(kernels, slots.data(), usage.data());
}

}  // namespace bitmar
