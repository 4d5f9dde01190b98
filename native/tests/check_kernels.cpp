// Every path of kernels that this processor runs, against plain arithmetic and against each other. Exits with 1 at the
// first difference. Runs under the sanitizers, and for Arm under an emulator.
#include <math.h>
#include <string.h>

#include <string>
#include <vector>

#include "../key_value.h"
#include "../linear.h"
#include "checks.h"

using namespace bitmar;

namespace {

float normal() { return std::normal_distribution<float>()(random_bits); }

std::vector<float> normals(size_t n, float scale = 1) {
  std::vector<float> x(n);
  for (float& v : x) v = scale * normal();
  return x;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The plain sums of weight * activation, and what each path makes of them. extreme: every weight and activation as
// large as it can be, which is what overflows a careless 16-bit sum.
void check_ternary(const Kernels& kernels, int rows, int columns, int tokens, bool extreme) {
  std::vector<int> weights(static_cast<size_t>(rows) * columns);
  for (int& w : weights) w = extreme ? 1 : static_cast<int>(random_bits() % 3) - 1;
  const int row_bytes = (columns + 3) / 4;
  std::vector<uint8_t> packed(static_cast<size_t>(rows) * row_bytes, 0x55);
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++) {
      uint8_t& byte = packed[static_cast<size_t>(r) * row_bytes + c / 4];
      byte =
          static_cast<uint8_t>((byte & ~(3 << 2 * (c % 4))) | (weights[static_cast<size_t>(r) * columns + c] + 1) << 2 * (c % 4));
    }
  const Linear linear = Linear::ternary(packed.data(), rows, columns, 0.5f);
  const int padded = linear.padded_columns();
  Buffer<int8_t> codes(static_cast<size_t>(tokens) * padded);
  for (int t = 0; t < tokens; t++)
    for (int c = 0; c < columns; c++)
      codes[static_cast<size_t>(t) * padded + c] =
          static_cast<int8_t>(extreme ? (t % 2 ? 127 : -127) : static_cast<int>(random_bits() % 255) - 127);
  std::vector<int32_t> sums(static_cast<size_t>(tokens) * rows), activations(tokens);
  kernels.ternary_sums(linear.view(), codes.data(), tokens, sums.data());
  std::vector<float> scales(tokens, 0.25f), y(static_cast<size_t>(tokens) * rows);
  for (int t = 0; t < tokens; t++)
    for (int c = 0; c < columns; c++) activations[t] += codes[static_cast<size_t>(t) * padded + c];
  kernels.ternary(linear.view(), codes.data(), scales.data(), activations.data(), tokens, y.data(), rows);
  bool right = true;
  for (int t = 0; t < tokens; t++)
    for (int r = 0; r < rows; r++) {
      int32_t plain = 0;
      for (int c = 0; c < columns; c++)
        plain += weights[static_cast<size_t>(r) * columns + c] * codes[static_cast<size_t>(t) * padded + c];
      right = right && sums[static_cast<size_t>(t) * rows + r] == plain &&
              y[static_cast<size_t>(t) * rows + r] == static_cast<float>(plain) * (0.25f * 0.5f);
    }
  check(right, std::string(kernels.name) + ": ternary " + std::to_string(rows) + "x" + std::to_string(columns) + " for " +
                   std::to_string(tokens) + (extreme ? " tokens, extreme" : " tokens"));
}

void check_quantize(const Kernels& kernels, int n, float scale) {
  const std::vector<float> x = normals(n, scale);
  std::vector<int8_t> codes(n);
  float step;
  int32_t sum;
  kernels.quantize(x.data(), n, codes.data(), &step, &sum);
  float most = 1e-5f;
  for (float v : x) most = fmaxf(most, fabsf(v));
  bool right = step == most / 127;
  int32_t plain = 0;
  for (int i = 0; i < n; i++) {
    right = right && codes[i] == static_cast<int8_t>(nearbyintf(x[i] / step));
    plain += codes[i];
  }
  check(right && sum == plain, std::string(kernels.name) + ": quantize " + std::to_string(n));
}

// A row with one odd value in it: the codes stay in range, the sum is theirs (but for NaN), every path gives the same bits,
// and a scale that is not finite tells of a value that is not.
void check_odd(const Kernels& kernels, int n, int place, float odd, bool huge) {
  std::vector<float> x = normals(n, huge ? 1e38f : 1);
  x[place] = odd;
  for (float& v : x) v = isinf(v) && isfinite(odd) ? 3.4e38f : v;
  std::vector<int8_t> codes(n), plain(n);
  float step[2];
  int32_t sum[2], total = 0;
  kernels.quantize(x.data(), n, codes.data(), step, sum);
  portable_kernels().quantize(x.data(), n, plain.data(), step + 1, sum + 1);
  bool right = codes == plain && memcmp(step, step + 1, sizeof *step) == 0 && sum[0] == sum[1];
  for (int8_t code : codes) right = right && code >= -127, total += code;
  right = right && (isnan(odd) || total == sum[0]) && isfinite(step[0]) == isfinite(odd);
  right = right && kernels.finite(x.data(), n) == static_cast<bool>(isfinite(odd));
  check(right, std::string(kernels.name) + ": quantize " + std::to_string(n) + " with " + std::to_string(odd));
}

struct Attention {
  int heads, dim, tokens, capacity, sinks;
  bool int16, biased;
};

std::vector<float> attend(const Kernels& kernels, const Attention& a, const std::vector<float>& q,
                          const std::vector<float>& sink_q, const std::vector<float>& k, const std::vector<float>& v,
                          const std::vector<float>& bias) {
  KeyValue kv(a.heads, a.dim, a.capacity, a.int16);
  const size_t width = static_cast<size_t>(a.heads) * a.dim;
  for (int t = 0; t < a.tokens; t++) kernels.store(kv.view(), t, k.data() + t * width, v.data() + t * width);
  std::vector<float> out(width);
  Buffer<char> scratch;
  kernels.attend(kv.view(),
                 {q.data(), width, 1, a.tokens, 0, 1 / sqrtf(static_cast<float>(a.dim)), a.biased ? bias.data() : nullptr,
                  a.sinks ? sink_q.data() : nullptr, a.sinks},
                 out.data(), width, scratch_for(scratch, kv.view()));
  return out;
}

void check_attention(const Kernels& kernels, const Attention& a) {
  const size_t width = static_cast<size_t>(a.heads) * a.dim;
  const auto q = normals(width), sink_q = normals(width), k = normals(a.tokens * width), v = normals(a.tokens * width),
             bias = normals(a.tokens);
  const std::vector<float> out = attend(kernels, a, q, sink_q, k, v, bias);
  double error = 0;
  for (int h = 0; h < a.heads; h++) {
    std::vector<double> weight(a.tokens), mixed(a.dim);
    double most = -1e30, total = 0;
    for (int t = 0; t < a.tokens; t++) {
      const float* query = (t < a.sinks ? sink_q : q).data() + h * a.dim;
      double score = 0;
      for (int i = 0; i < a.dim; i++) score += static_cast<double>(query[i]) * k[t * width + h * a.dim + i];
      weight[t] = score / sqrt(static_cast<double>(a.dim)) + (a.biased ? bias[t] : 0);
      most = fmax(most, weight[t]);
    }
    for (double& w : weight) total += w = exp(w - most);
    for (int t = 0; t < a.tokens; t++)
      for (int i = 0; i < a.dim; i++) mixed[i] += weight[t] / total * v[t * width + h * a.dim + i];
    for (int i = 0; i < a.dim; i++) error = fmax(error, fabs(mixed[i] - out[h * a.dim + i]));
  }
  const std::string what = std::string(kernels.name) + ": attention of " + std::to_string(a.tokens) + " tokens, head " +
                           std::to_string(a.dim) + (a.int16 ? ", int16" : ", int8");
  check(error < (a.int16 ? 0.004 : 0.06), what + ", error " + std::to_string(error));
  check(same_bits(out, attend(portable_kernels(), a, q, sink_q, k, v, bias)), what + " differs from portable");
}

// Queries that go together, each seeing `step` tokens more than the one before, get the bits that each gets alone.
void check_group(const Kernels& kernels, int dim, bool int16, int count, int step) {
  const int heads = 2, first = 30, all = first + (count - 1) * step, width = heads * dim;
  KeyValue kv(heads, dim, all, int16);
  const auto k = normals(static_cast<size_t>(all) * width), bias = normals(all);
  auto v = normals(static_cast<size_t>(all) * width);
  std::fill_n(v.begin() + 5 * width, width, 0.0f);
  for (int t = 0; t < all; t++) kernels.store(kv.view(), t, k.data() + t * width, v.data() + t * width);
  const size_t stride = width + 3, out_stride = width + 5;
  const auto q = normals(count * stride);
  std::vector<float> together(count * out_stride), alone(count * out_stride);
  Buffer<char> scratch;
  void* room = scratch_for(scratch, kv.view());
  Queries queries{q.data(), stride, count, first, step, 0.3f, step ? nullptr : bias.data(), nullptr, 0};
  kernels.attend(kv.view(), queries, together.data(), out_stride, room);
  queries.count = 1;
  for (int i = 0; i < count; i++, queries.q += stride, queries.tokens += step)
    portable_kernels().attend(kv.view(), queries, alone.data() + i * out_stride, out_stride, room);
  check(same_bits(together, alone), std::string(kernels.name) + ": " + std::to_string(count) + " queries together, head " +
                                        std::to_string(dim) + (int16 ? ", int16" : ", int8"));
}

void check_floats(const Kernels& kernels, int n) {
  const std::vector<float> x = normals(n), gain = normals(n);
  std::vector<float> a(n), b(n);
  kernels.rms_norm(x.data(), gain.data(), 1e-6f, n, a.data());
  portable_kernels().rms_norm(x.data(), gain.data(), 1e-6f, n, b.data());
  double squares = 0, error = 0;
  for (float v : x) squares += static_cast<double>(v) * v;
  for (int i = 0; i < n; i++) error = fmax(error, fabs(a[i] - x[i] / sqrt(squares / n + 1e-6) * gain[i]));
  check(error < 1e-5 && same_bits(a, b), std::string(kernels.name) + ": rms_norm " + std::to_string(n));

  const int rows = n / 2 + 1;
  const std::vector<float> w = normals(static_cast<size_t>(rows) * n);
  const Linear linear = Linear::dense(w.data(), rows, n);
  Workspace work;
  std::vector<float> y(rows), z(rows);
  linear(kernels, x.data(), 1, y.data(), work);
  linear(portable_kernels(), x.data(), 1, z.data(), work);
  error = 0;
  for (int r = 0; r < rows; r++) {
    double plain = 0;
    for (int i = 0; i < n; i++) plain += static_cast<double>(w[static_cast<size_t>(r) * n + i]) * x[i];
    error = fmax(error, fabs(plain - y[r]));
  }
  check(error < 1e-3 && same_bits(y, z), std::string(kernels.name) + ": dense " + std::to_string(n));

  std::vector<float> tied = x;
  tied[n - 1] = tied[n / 2] = 100;
  check(kernels.argmax(tied.data(), n) == n / 2, std::string(kernels.name) + ": argmax " + std::to_string(n));
  const std::vector<float> nothing(n, NAN);
  check(kernels.argmax(nothing.data(), n) == 0, std::string(kernels.name) + ": argmax of no number");

  double total = 0;
  for (float v : x) total += exp(v);
  check(fabs(kernels.log_total(x.data(), n) - log(total)) < 1e-5 &&
            kernels.log_total(x.data(), n) == portable_kernels().log_total(x.data(), n),
        std::string(kernels.name) + ": log_total " + std::to_string(n));
}

}  // namespace

int main() {
  return check_paths([](const Kernels& kernels) {
    for (int rows : {1, 15, 64, 100, 128, 200})
      for (int columns : {1, 4, 30, 48, 128, 512})
        for (int tokens : {1, 3, 4, 9, 37, 70}) check_ternary(kernels, rows, columns, tokens, false);
    for (int columns : {16, 128, 4096}) check_ternary(kernels, 130, columns, 18, true);
    for (int n : {1, 16, 31, 128, 500})
      for (float scale : {0.0f, 1.0f, 1e6f}) check_quantize(kernels, n, scale);
    for (int n : {1, 16, 31, 128, 500})
      for (float odd : {0.0f, 1e-40f, 1.3e7f, -2e7f, 3.4e38f, -3.4e38f, INFINITY, -INFINITY, NAN, -NAN})
        for (bool huge : {false, true})
          for (int place : {0, n / 2, n - 1}) check_odd(kernels, n, place, odd, huge);
    for (bool int16 : {false, true})
      for (int dim : {2, 6, 16, 32, 64, 80, 128, 512})
        for (int tokens : {1, 2, 16, 33, 100})
          for (int sinks : {0, 4}) check_attention(kernels, {2, dim, tokens, 112, sinks, int16, sinks == 0});
    check_attention(kernels, {1, 64, 1024, 1024, 4, true, false});
    for (bool int16 : {false, true})
      for (int dim : {2, 4, 20, 64, 128, 512})
        for (int count : {2, 8, 21, 70})
          for (int step : {0, 1}) check_group(kernels, dim, int16, count, step);
    for (int n : {2, 16, 50, 128}) check_floats(kernels, n);
  });
}
