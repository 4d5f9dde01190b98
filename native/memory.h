// The episodic memory (paper section 3.4): slots that every token reads and that a segment's end may write.
#pragma once

#include <memory>

#include "config.h"
#include "key_value.h"
#include "weights.h"

namespace bitmar {

// Slots M (K, C) and usage (K) in [0, 1], with M as attention reads it. Never changed once made, so it can be shared.
struct MemoryState {
  MemoryState(const Kernels& kernels, const Config& config, float stale, const float* slots, const float* usage);

  Buffer<float> slots, usage;
  Buffer<float> bias;  // rho log u
  KeyValue packed;
};

// What the running mean of a segment's fused tokens needs to go on.
struct QueryCarry {
  explicit QueryCarry(int width) : total(width) {}
  Buffer<double> total;
  double weight = 0;
};

class EpisodicMemory {
 public:
  EpisodicMemory(const Weights& weights, const Config& config);

  std::shared_ptr<const MemoryState> initial_state(const Kernels& kernels) const;
  std::shared_ptr<const MemoryState> state(const Kernels& kernels, const float* slots, const float* usage) const;

  // The queries (tokens, C) of fused tokens (tokens, d) of one segment, which `carry` has begun.
  void queries(const Kernels& kernels, const float* fused, int tokens, QueryCarry& carry, float* q, Workspace& work) const;

  // Normed reads (tokens, C): w = softmax(beta q M^T + rho log u), r = w M (eq. 2).
  void read(const Kernels& kernels, const float* q, int tokens, const MemoryState& state, float* reads, Workspace& work) const;

  // The state after q (C) has been stored (eq. 1 with an address, or literal).
  std::shared_ptr<const MemoryState> write(const Kernels& kernels, const float* q, const MemoryState& state) const;

 private:
  const Config config_;
  Buffer<float> slots_, query_norm_, read_norm_, pooling_, write_weights_, address_;
  Linear query_proj_;
  float read_beta_ = 0, stale_ = 0, write_beta_ = 0, protect_ = 0;
};

}  // namespace bitmar
