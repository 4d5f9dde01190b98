#include "rates.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "buffer.h"
#include "linear.h"

namespace bitmar {
namespace {

// Seconds of one call, the shortest of those that fit into the time.
template <typename F>
double best_time(double seconds, F f) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  double best = 1e9;
  while (Clock::now() < end) {
    constexpr int kCalls = 16;  // between two looks at the clock
    const auto start = Clock::now();
    for (int i = 0; i < kCalls; i++) f();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count() / kCalls);
  }
  return best;
}

}  // namespace

double bandwidth(const Kernels& kernels, size_t bytes, double seconds) {
  Buffer<float> memory(bytes / sizeof(float));
  std::fill_n(memory.data(), memory.size(), 1.0f);  // pages that nothing was written to are all the same one
  float unused = kernels.read_all(memory.data(), memory.size());
  const double time = best_time(seconds, [&] { unused += kernels.read_all(memory.data(), memory.size()); });
  return unused >= 0 ? static_cast<double>(bytes) / time : 0;
}

double product_rate(const Kernels& kernels, double seconds) {
  constexpr int kRows = 128, kColumns = 512;  // all of it in the first cache
  const std::vector<uint8_t> packed(kRows * kColumns / 4, 0x55);
  const Linear linear = Linear::ternary(packed.data(), kRows, kColumns, 1);
  const Buffer<int8_t> codes(kColumns);
  const float scale = 1;
  const int32_t sum = 0;
  float y[kRows];
  return kRows * kColumns / best_time(seconds, [&] { kernels.ternary(linear.view(), codes.data(), &scale, &sum, 1, y, kRows); });
}

}  // namespace bitmar
