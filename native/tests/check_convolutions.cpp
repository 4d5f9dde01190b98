// The convolutions of every path of kernels that this processor runs, against plain arithmetic, with weights and bytes at
// their largest too. Runs under the sanitizers, and for Arm under an emulator.
#include <math.h>
#include <string.h>

#include <string>
#include <vector>

#include "../buffer.h"
#include "checks.h"

using namespace bitmar;

namespace {

uint8_t plain_steps(float value, const Steps& steps) {
  return static_cast<uint8_t>(static_cast<int>(nearbyintf(fminf(fmaxf(value, steps.low), steps.high))) + steps.zero);
}

void* scratch_of(Buffer<char>& buffer, size_t bytes) {
  buffer = Buffer<char>(bytes);
  memset(buffer.data(), 0x5a, bytes);  // what a layer leaves there means nothing to the next
  return buffer.data();
}

// Windows of `kernel` rows of `width` bytes, in rows of `count`. extreme: the largest weights and bytes.
void check_convolve(const Kernels& kernels, int channels, int kernel, int width, int count, int rows, bool extreme) {
  const int padded = round_up(channels, 16), row_lines = (width + 3) / 4, columns = kernel * width;
  const size_t step = width / 2 + 1, row = step * count + width + 7, down = 2 * row;
  std::vector<int8_t> w(static_cast<size_t>(channels) * columns);
  for (int8_t& v : w) v = static_cast<int8_t>(extreme ? 127 : static_cast<int>(random_bits() % 255) - 127);
  Buffer<uint8_t> x(row * kernel + down * rows);
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<uint8_t>(extreme ? 255 : random_bits());
  Buffer<int8_t> lines(static_cast<size_t>(padded) / 16 * kernel * row_lines * 64);
  Buffer<int32_t> start(padded);
  Buffer<float> factor(padded);
  for (int r = 0; r < channels; r++) {
    int total = 0;
    for (int c = 0; c < columns; c++) {
      const int8_t v = w[static_cast<size_t>(r) * columns + c];
      total += v;
      lines[((static_cast<size_t>(r) / 16 * kernel + c / width) * row_lines + c % width / 4) * 64 + r % 16 * 4 + c % width % 4] =
          v;
    }
    start[r] = static_cast<int>(random_bits() % 2000) - 1000 + (kernels.flipped ? 128 * total : 0);
    factor[r] = 1 / (200.0f * sqrtf(static_cast<float>(columns))) / (extreme ? 50 : 1);
  }
  const Steps steps{-20, 200, 20};
  const size_t y_row = static_cast<size_t>(count) * channels + 5;
  std::vector<uint8_t> y(rows * y_row + 64, 77), plain = y;
  const ConvView view{lines.data(), start.data(), factor.data(), channels, kernel, row_lines, steps};
  const Windows windows{x.data(), step, row, down, count, rows};
  Buffer<char> scratch;
  kernels.convolve(view, windows, y.data(), y_row, scratch_of(scratch, convolve_scratch(view, windows)));
  for (int p = 0; p < rows * count; p++)
    for (int r = 0; r < channels; r++) {
      const uint8_t* window = x.data() + p / count * down + p % count * step;
      int32_t sum = start[r];
      for (int c = 0; c < columns; c++)
        sum += w[static_cast<size_t>(r) * columns + c] * (window[c / width * row + c % width] - (kernels.flipped ? 128 : 0));
      plain[p / count * y_row + static_cast<size_t>(p % count) * channels + r] =
          plain_steps(static_cast<float>(sum) * factor[r], steps);
    }
  check(y == plain, std::string(kernels.name) + ": convolve " + std::to_string(channels) + " channels, " +
                        std::to_string(kernel) + " rows of " + std::to_string(width) + (extreme ? " bytes, extreme" : " bytes"));
}

void check_depthwise(const Kernels& kernels, int channels, int kernel, int stride, int count, int rows, bool extreme) {
  const int padded = round_up(channels, 16);
  const size_t step = static_cast<size_t>(stride) * channels, row = step * count + static_cast<size_t>(kernel) * channels;
  const size_t down = stride * row;
  Buffer<int8_t> w(static_cast<size_t>(kernel) * kernel * padded);
  for (size_t i = 0; i < w.size(); i++) w[i] = static_cast<int8_t>(extreme ? -127 : static_cast<int>(random_bits() % 255) - 127);
  Buffer<uint8_t> x(row * kernel + down * rows);
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<uint8_t>(extreme ? 255 : random_bits());
  Buffer<int32_t> start(padded);
  Buffer<float> factor(padded);
  for (int r = 0; r < channels; r++) start[r] = static_cast<int>(random_bits() % 2000) - 1000, factor[r] = 0.002f;
  const Steps steps{-100, 155, 100};
  const size_t y_row = static_cast<size_t>(count) * channels + 5;
  std::vector<uint8_t> y(rows * y_row + 64, 77), plain = y;
  const DepthwiseView view{w.data(), start.data(), factor.data(), channels, padded, kernel, steps};
  Buffer<char> scratch;
  kernels.depthwise(view, {x.data(), step, row, down, count, rows}, y.data(), y_row,
                    scratch_of(scratch, depthwise_scratch(view)));
  for (int p = 0; p < rows * count; p++)
    for (int r = 0; r < channels; r++) {
      const uint8_t* window = x.data() + p / count * down + p % count * step;
      int32_t sum = start[r];
      for (int i = 0; i < kernel * kernel; i++)
        sum += w[static_cast<size_t>(i) * padded + r] * window[i / kernel * row + static_cast<size_t>(i % kernel) * channels + r];
      plain[p / count * y_row + static_cast<size_t>(p % count) * channels + r] =
          plain_steps(static_cast<float>(sum) * factor[r], steps);
    }
  check(y == plain, std::string(kernels.name) + ": depthwise " + std::to_string(channels) + " channels, kernel " +
                        std::to_string(kernel) + ", stride " + std::to_string(stride));
}

// Against the plain convolution. extreme: the largest weights and bytes.
void check_winograd(const Kernels& kernels, int channels, int inputs, int count, int rows, bool extreme) {
  const int padded = round_up(channels, 16);
  const size_t row = static_cast<size_t>(count + 3) * inputs;
  std::vector<int8_t> w(static_cast<size_t>(channels) * 9 * inputs);
  for (int8_t& v : w) v = static_cast<int8_t>(extreme ? -128 : static_cast<int>(random_bits() % 255) - 127);
  Buffer<uint8_t> x(row * (rows + 2));
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<uint8_t>(extreme ? 255 : random_bits());
  Buffer<int32_t> start(padded);
  Buffer<float> factor(padded);
  for (int r = 0; r < channels; r++)
    start[r] = static_cast<int>(random_bits() % 2000) - 1000,
    factor[r] = 1 / (600.0f * sqrtf(static_cast<float>(inputs))) / (extreme ? 50 : 1);
  const Steps steps{-200, 55, 200};
  const size_t y_row = static_cast<size_t>(count) * channels + 5;
  std::vector<uint8_t> y(rows * y_row + 64, 77), plain = y;
  const int pairs = (inputs + 1) / 2;
  Buffer<int8_t> placed(static_cast<size_t>(padded) / 16 * 9 * pairs * 32);
  for (int r = 0; r < channels; r++)
    for (int i = 0; i < 9 * inputs; i++)
      placed[((r / 16 * size_t{9} + i / inputs) * pairs + i % inputs / 2) * 32 + r % 16 * 2 + i % inputs % 2] =
          w[static_cast<size_t>(r) * 9 * inputs + i];
  const WinogradView view{placed.data(), start.data(), factor.data(), channels, inputs, steps};
  const Windows windows{x.data(), static_cast<size_t>(inputs), row, row, count, rows};
  Buffer<char> scratch;
  kernels.winograd(view, windows, y.data(), y_row, scratch_of(scratch, winograd_scratch(view, windows)));
  for (int p = 0; p < rows * count; p++)
    for (int r = 0; r < channels; r++) {
      const uint8_t* window = x.data() + p / count * row + static_cast<size_t>(p % count) * inputs;
      int32_t sum = start[r];
      for (int c = 0; c < 9 * inputs; c++)
        sum += w[static_cast<size_t>(r) * 9 * inputs + c] * window[c / (3 * inputs) * row + c % (3 * inputs)];
      plain[p / count * y_row + static_cast<size_t>(p % count) * channels + r] =
          plain_steps(static_cast<float>(sum) * factor[r], steps);
    }
  check(y == plain, std::string(kernels.name) + ": winograd " + std::to_string(channels) + " channels of " +
                        std::to_string(inputs) + ", " + std::to_string(rows) + " x " + std::to_string(count));
}

void check_add_maps(const Kernels& kernels, int n) {
  Buffer<uint8_t> a(n), b(n);
  for (int i = 0; i < n; i++) a[i] = static_cast<uint8_t>(random_bits()), b[i] = static_cast<uint8_t>(random_bits());
  const Steps steps{-130, 125, 130};
  std::vector<uint8_t> y(n + 64, 77), plain = y;
  kernels.add_maps(a.data(), 120, 0.75f, b.data(), 7, 0.5f, n, steps, y.data());  // halves: ties
  for (int i = 0; i < n; i++)
    plain[i] = plain_steps(static_cast<float>(a[i] - 120) * 0.75f + static_cast<float>(b[i] - 7) * 0.5f, steps);
  check(y == plain, std::string(kernels.name) + ": add_maps " + std::to_string(n));
}

}  // namespace

int main() {
  return check_paths([](const Kernels& kernels) {
    for (int channels : {1, 16, 24, 32, 50})
      for (int kernel : {1, 3, 5})
        for (int width : {1, 3, 9, 16, 30})
          for (int count : {1, 4, 7, 15}) check_convolve(kernels, channels, kernel, width, count, count % 3 + 1, false);
    check_convolve(kernels, 40, 3, 2048, 7, 1, true);
    check_convolve(kernels, 20, 3, 1024, 9, 12, false);  // more than a piece
    for (int channels : {1, 16, 30, 64})
      for (int kernel : {1, 3, 5, 7})
        for (int stride : {1, 2, 3})
          for (int count : {1, 6, 8}) check_depthwise(kernels, channels, kernel, stride, count, 10, kernel == 7 || count == 8);
    if (kernels.winograd)
      for (int channels : {1, 16, 50})
        for (int inputs : {1, 16, 19, kWinogradInputs})
          for (int count : {2, 3, 12, 29})
            check_winograd(kernels, channels, inputs, count, count == 29 ? 2 : 5, inputs == kWinogradInputs);
    for (int n : {1, 16, 37, 400}) check_add_maps(kernels, n);
  });
}
