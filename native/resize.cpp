#include "resize.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <vector>

namespace bitmar {
namespace {

constexpr int kBits = 22;  // of the weights' fraction: 8 bits of a pixel and 2 for weights above 1 still fit 32

typedef int32_t Pixel __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(4)));

double weight_at(Filter filter, double x) {
  if (filter == Filter::kBox) return x > -0.5 && x <= 0.5 ? 1 : 0;
  constexpr double a = -0.5;
  x = fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// What each output takes of a row of inputs: those from `first` on, with these weights.
struct Window {
  int first;
  std::vector<int32_t> weights;
};

std::vector<Window> windows_of(int inputs, int outputs, Filter filter) {
  const double scale = static_cast<double>(inputs) / outputs, widened = std::max(scale, 1.0);
  const double support = (filter == Filter::kBox ? 0.5 : 2.0) * widened, narrower = 1.0 / widened;
  std::vector<Window> windows;
  for (int i = 0; i < outputs; i++) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int end = std::min(static_cast<int>(center + support + 0.5), inputs);
    std::vector<double> exact;
    double total = 0;
    for (int x = first; x < end; x++) total += exact.emplace_back(weight_at(filter, (x - center + 0.5) * narrower));
    Window window{first, {}};
    for (double w : exact) {
      const double share = (total != 0 ? w / total : w) * (1 << kBits);
      window.weights.push_back(static_cast<int32_t>(share < 0 ? share - 0.5 : share + 0.5));
    }
    windows.push_back(std::move(window));
  }
  return windows;
}

// `lines` rows of inputs, `line` bytes from one to the next and `step` from an input to the next; the outputs lie likewise.
void pass(const uint8_t* in, size_t line, size_t step, const std::vector<Window>& windows, int lines, uint8_t* out,
          size_t out_line, size_t out_step) {
  for (int i = 0; i < lines; i++)
    for (size_t o = 0; o < windows.size(); o++) {
      const uint8_t* x = in + i * line + windows[o].first * step;
      Pixel sum = Pixel{} + (1 << (kBits - 1));
      for (int32_t weight : windows[o].weights) {
        Bytes bytes;
        memcpy(&bytes, x, sizeof bytes);
        sum += __builtin_convertvector(bytes, Pixel) * weight;
        x += step;
      }
      uint8_t* y = out + i * out_line + o * out_step;
      for (int c = 0; c < 4; c++) y[c] = static_cast<uint8_t>(std::clamp(sum[c] >> kBits, 0, 255));
    }
}

}  // namespace

Buffer<uint8_t> resize(const uint8_t* image, int width, int height, int new_width, int new_height, Filter filter) {
  const size_t row = size_t{4} * width, new_row = size_t{4} * new_width;
  Buffer<uint8_t> narrow(new_row * height), small(new_row * new_height);
  pass(image, row, 4, windows_of(width, new_width, filter), height, narrow.data(), new_row, 4);
  pass(narrow.data(), 4, new_row, windows_of(height, new_height, filter), new_width, small.data(), 4, new_row);
  return small;
}

}  // namespace bitmar
