// The kernels, written once. Each instruction set includes this file after it has defined, in its own anonymous
// namespace and after <stdint.h>, <string.h> and kernels.h:
//
//   BITMAR_WIDTH        floats of a register: 4, 8 or 16
//   kTiles, kTokens     weight tiles and tokens that `tile` takes at a time, as many as the registers hold
//   Sum                 16 int32; zero(), store(Sum, int32_t*)
//   Pairs               16 pairs of integers: load_pairs of int8 or int16; add_pairs(Sum, Pairs, pair) adds their products
//                       with one pair of int16
//   kConvBlocks,        blocks of outputs and windows that a convolution takes at a time; Quads (16 outputs by 4 weights) and
//   kConvPixels         QuadSums: load_quads, spread (of 4 bytes of a map), add_quads, total; kFlip: by what the bytes are
//                       changed first, with 128 times the weights added to the sums where it is not 0
//   BITMAR_PAIRS        or else, where no instruction adds up bytewise products: windows at a time (kConvWindows), store(Pairs,
//                       int16_t*), interleave, alone, add_products, half_line
//   kQueries, kSums     queries that go over keys together, and sums that the registers hold meanwhile
//   tile<TILES, TOKENS> the integer product of weight tiles and tokens
//
// Nothing here may have external linkage or use the standard library: a template shared between translation units could
// be kept in the version that this processor cannot run.
#pragma once

#include "vector-inl.h"

constexpr float kSmallest = 1e-5f;  // an all-zero token still has a finite reciprocal

// Divisions are slow, so the reciprocal is tried first. It can only round otherwise than the quotient where that lies close
// to the middle of two integers; `quantize` then does the row again.
template <bool EXACT>
BITMAR_INLINE void quantize_vector(const Vector& x, const Vector& steps, int8_t* codes, Ints* total, Vector* doubt) {
  // NaN, for which there is no integer, becomes 127.
  const Vector scaled = max(min(EXACT ? x / steps : x * steps, splat(127.0f)), splat(-127.0f));
  const Ints whole = rounded(scaled);
  if (!EXACT) *doubt = max(abs(scaled - to_float(whole)), *doubt);
  *total = *total + whole;
  narrow(whole, codes);
}

template <bool EXACT>
BITMAR_INLINE Vector quantize_row(const float* x, int n, float step, int8_t* codes, int32_t* sum) {
  const Vector steps = splat(EXACT ? step : 1.0f / step);
  Vector doubt[2] = {splat(0.0f), splat(0.0f)};
  Ints total[2] = {};
  int i = 0;
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 2; j++) quantize_vector<EXACT>(load(x + i + j * 16), steps, codes + i + j * 16, &total[j], &doubt[j]);
  for (; i < n; i += 16) {
    const int m = n - i < 16 ? n - i : 16;
    int8_t last[16];
    quantize_vector<EXACT>(m == 16 ? load(x + i) : load_tail(x + i, m), steps, last, &total[0], &doubt[0]);
    memcpy(codes + i, last, m);
  }
  *sum = (int32_t)lanes_sum(to_float(total[0] + total[1]));  // below 127 * 65,536, so every float on the way is exact
  return max(doubt[0], doubt[1]);
}

static void quantize(const float* x, int n, int8_t* codes, float* scale, int32_t* sum) {
  const float most = max_abs(x, n);
  const float step = (most < kSmallest ? kSmallest : most) / 127.0f;  // NaN stays
  *scale = step;
  const Vector doubt = quantize_row<false>(x, n, step, codes, sum);
  if (!(lanes_max(doubt) < 0.4999f)) quantize_row<true>(x, n, step, codes, sum);
}

// Calls f(first tile, tiles, first token, tokens, sums): sums (tiles, tokens, 64) of tiles that hold real rows.
template <typename F>
BITMAR_INLINE void for_tiles(const TernaryView& w, const int8_t* codes, int tokens, F f) {
  const int groups = w.padded_columns / 4, tiles = (w.rows + kTileRows - 1) / kTileRows;
  const size_t tile_bytes = (size_t)groups * 64, stride = w.padded_columns;
  alignas(64) int32_t sums[kTiles * kTokens * 64];
#if defined(BITMAR_AMX)
  const int done = for_batches(w, codes, tokens, f);
  if (done == tokens) return;
#else
  const int done = 0;
#endif
  int t = 0;
  for (; t + kTiles <= tiles; t += kTiles) {
    const uint8_t* line = w.codes + t * tile_bytes;
    int n = done;
    // Not kTiles by kTokens: that would be more accumulators than registers.
    for (; n + kTokens <= tokens && kTokens > 1; n += kTokens)
      for (int k = 0; k < kTiles; k++) {
        tile<1, kTokens>(line + k * tile_bytes, tile_bytes, codes + n * stride, stride, groups, sums);
        f(t + k, 1, n, kTokens, sums);
      }
    for (; n < tokens; n++) {
      tile<kTiles, 1>(line, tile_bytes, codes + n * stride, stride, groups, sums);
      f(t, kTiles, n, 1, sums);
    }
  }
  for (; t < tiles; t++)
    for (int n = done; n < tokens; n++) {
      tile<1, 1>(w.codes + t * tile_bytes, tile_bytes, codes + n * stride, stride, groups, sums);
      f(t, 1, n, 1, sums);
    }
}

static void ternary(const TernaryView& w, const int8_t* codes, const float* scales, const int32_t* sums, int tokens, float* y,
                    size_t y_stride) {
  for_tiles(w, codes, tokens, [&](int first, int tiles, int token, int count, const int32_t* product) {
    for (int k = 0; k < tiles; k++)
      for (int n = 0; n < count; n++) {
        const int32_t* rows = product + (k * count + n) * kTileRows;
        const int start = (first + k) * kTileRows, left = w.rows - start;
        float* out = y + (token + n) * y_stride + start;
        // The codes are weight + 1, so the activations' sum is one too many.
        const float one_too_many = (float)sums[token + n];
        const Vector factor = splat(scales[token + n] * w.scale), excess = splat(one_too_many);
        for (int i = 0; i < kTileRows && i < left; i += 16) {
          const Vector v = (from_ints(rows + i) - excess) * factor;
          store_some(out + i, v, left - i);
        }
      }
  });
}

static void ternary_sums(const TernaryView& w, const int8_t* codes, int tokens, int32_t* y) {
  for_tiles(w, codes, tokens, [&](int first, int tiles, int token, int count, const int32_t* product) {
    for (int k = 0; k < tiles; k++)
      for (int n = 0; n < count; n++) {
        int32_t excess = 0;
        for (int j = 0; j < w.padded_columns; j++) excess += codes[(token + n) * (size_t)w.padded_columns + j];
        for (int i = 0; i < kTileRows && (first + k) * kTileRows + i < w.rows; i++)
          y[(token + n) * (size_t)w.rows + (first + k) * kTileRows + i] = product[(k * count + n) * kTileRows + i] - excess;
      }
  });
}

static void dense(const FloatView& w, const float* x, size_t x_stride, int tokens, float* y, size_t y_stride) {
  for (int n = 0; n < tokens; n++) {
    const float* in = x + n * x_stride;
    for (int r = 0; r < w.rows; r += 16) {
      Vector sum = splat(0.0f);
      const float* column = w.weights + r;
      for (int c = 0; c < w.columns; c++, column += w.padded_rows) sum = sum + load(column) * splat(in[c]);
      float out[16];
      store(out, sum);
      memcpy(y + n * y_stride + r, out, sizeof(float) * (w.rows - r < 16 ? w.rows - r : 16));
    }
  }
}

static void rms_norm(const float* x, const float* gain, float eps, int n, float* y) {
  Vector squares = splat(0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const Vector v = load(x + i);
    squares = squares + v * v;
  }
  if (i < n) {
    const Vector v = load_tail(x + i, n);
    squares = squares + v * v;
  }
  const float inverse = 1.0f / __builtin_sqrtf(lanes_sum(squares) / (float)n + eps);
  const Vector factor = splat(inverse);
  for (i = 0; i + 16 <= n; i += 16) store(y + i, load(x + i) * factor * load(gain + i));
  for (; i < n; i++) y[i] = x[i] * inverse * gain[i];
}

#include "attention-inl.h"
#include "convolve-inl.h"

static void add(float* x, const float* y, float factor, int n) {
  const Vector factors = splat(factor);
  int i = 0;
  for (; i + 16 <= n; i += 16) store(x + i, load(x + i) + load(y + i) * factors);
  for (; i < n; i++) x[i] += y[i] * factor;
}

static void relu(float* x, int power, int n) {
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const Vector v = max(load(x + i), splat(0.0f));
    store(x + i, power == 2 ? v * v : v);
  }
  for (; i < n; i++) {
    const float v = x[i] > 0 ? x[i] : 0;
    x[i] = power == 2 ? v * v : v;
  }
}

static int argmax(const float* x, int n) {
  Vector most = splat(-__builtin_inff());
  int i = 0;
  for (; i + 16 <= n; i += 16) most = max(load(x + i), most);
  float top = lanes_max(most);
  for (; i < n; i++) top = x[i] > top ? x[i] : top;
  for (i = 0; i < n; i++)
    if (x[i] == top) return i;
  return 0;
}

static double log_total(const float* x, int n) {
  const float most = x[argmax(x, n)];
  const Vector top = splat(most);
  Vector sum = splat(0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) sum = sum + exponential(load(x + i) - top);
  if (i < n) {
    float tail[16];
    store(tail, exponential(load_tail(x + i, n) - top));
    for (int j = n - i; j < 16; j++) tail[j] = 0;
    sum = sum + load(tail);
  }
  return (double)most + __builtin_log((double)lanes_sum(sum));
}

static bool finite(const float* x, size_t n) {
  Vector sum = splat(0.0f);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) sum = sum + load(x + i) * splat(0.0f);  // 0, or NaN
  float rest = 0;
  for (; i < n; i++) rest += x[i] * 0.0f;
  return lanes_sum(sum) + rest == 0;
}

static float read_all(const float* x, size_t n) {
  Vector sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  for (size_t i = 0; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; j++) sums[j] = max(sums[j], load(x + i + j * 16));
  return lanes_max(max(max(sums[0], sums[1]), max(sums[2], sums[3])));
}

// clang-format off
#define BITMAR_TABLE(name) \
  {name, kFlip != 0, convolve, depthwise, winograd, add_maps, quantize, ternary, ternary_sums, dense, rms_norm, store_token, attend, \
   add, relu, argmax, log_total, finite, read_all}
// clang-format on
