// The kernels, written once. Each instruction set includes this file after it has defined, in its own anonymous
// namespace and after <stdint.h>, <string.h> and kernels.h:
//
//   BITMAR_WIDTH        floats of a register: 4, 8 or 16
//   kTiles, kTokens     weight tiles and tokens that `tile` takes at a time, as many as the registers hold
//   Sum                 16 int32; zero(), store(Sum, int32_t*), add_pairs (below)
//   tile<TILES, TOKENS> the integer product of weight tiles and tokens
//
// Nothing here may have external linkage or use the standard library: a template shared between translation units could
// be kept in the version that this processor cannot run.
#pragma once

#include "vector.h"

constexpr float kSmallest = 1e-5f;  // an all-zero token still has a finite reciprocal

// Divisions are slow, so the reciprocal is tried first. It can only round otherwise than the quotient where that lies close
// to the middle of two integers; `quantize` then does the row again.
template <bool EXACT>
BITMAR_INLINE Vector quantize_row(const float* x, int n, float step, int8_t* codes, int32_t* sum) {
  const Vector steps = same(step), reciprocals = same(1.0f / step);
  Vector doubt = same(0.0f);
  Ints total = {};
  for (int i = 0; i < n; i += 16) {
    const int m = n - i < 16 ? n - i : 16;
    const Vector v = m == 16 ? load(x + i) : load_tail(x + i, m);
    const Vector scaled = EXACT ? v / steps : v * reciprocals;
    const Ints whole = rounded(scaled);
    if (!EXACT) doubt = larger(magnitude(scaled - to_float(whole)), doubt);
    total = total + whole;
    int8_t tail[16];
    narrow(whole, m == 16 ? codes + i : tail);
    if (m < 16) memcpy(codes + i, tail, m);
  }
  int32_t lanes[16];
  memcpy(lanes, &total, sizeof lanes);
  *sum = 0;
  for (int i = 0; i < 16; i++) *sum += lanes[i];
  return doubt;
}

static void quantize(const float* x, int n, int8_t* codes, float* scale, int32_t* sum) {
  const float most = max_magnitude(x, n);
  const float step = (most > kSmallest ? most : kSmallest) / 127.0f;
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
  int t = 0;
  for (; t + kTiles <= tiles; t += kTiles) {
    const uint8_t* line = w.codes + t * tile_bytes;
    int n = 0;
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
    for (int n = 0; n < tokens; n++) {
      tile<1, 1>(w.codes + t * tile_bytes, tile_bytes, codes + n * stride, stride, groups, sums);
      f(t, 1, n, 1, sums);
    }
}

static void ternary(const TernaryView& w, const int8_t* codes, const float* scales, const int32_t* sums, int tokens,
                    float* y, size_t y_stride) {
  for_tiles(w, codes, tokens, [&](int first, int tiles, int token, int count, const int32_t* product) {
    for (int k = 0; k < tiles; k++)
      for (int n = 0; n < count; n++) {
        const int32_t* rows = product + (k * count + n) * kTileRows;
        const int start = (first + k) * kTileRows, left = w.rows - start;
        float* out = y + (token + n) * y_stride + start;
        // The codes are weight + 1, so the activations' sum is one too many.
        const float one_too_many = (float)sums[token + n];
        const Vector factor = same(scales[token + n] * w.scale), excess = same(one_too_many);
        for (int i = 0; i < kTileRows && i < left; i += 16) {
          const Vector v = (from_ints(rows + i) - excess) * factor;
          if (left - i >= 16) {
            store(out + i, v);
          } else {
            float tail[16];
            store(tail, v);
            memcpy(out + i, tail, sizeof(float) * (left - i));
          }
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
          y[(token + n) * (size_t)w.rows + (first + k) * kTileRows + i] =
              product[(k * count + n) * kTileRows + i] - excess;
      }
  });
}

static void dense(const FloatView& w, const float* x, size_t x_stride, int tokens, float* y, size_t y_stride) {
  for (int n = 0; n < tokens; n++) {
    const float* in = x + n * x_stride;
    for (int r = 0; r < w.rows; r += 16) {
      Vector sum = same(0.0f);
      const float* column = w.weights + r;
      for (int c = 0; c < w.columns; c++, column += w.padded_rows) sum = sum + load(column) * same(in[c]);
      float out[16];
      store(out, sum);
      memcpy(y + n * y_stride + r, out, sizeof(float) * (w.rows - r < 16 ? w.rows - r : 16));
    }
  }
}

static void rms_norm(const float* x, const float* gain, float eps, int n, float* y) {
  Vector squares = same(0.0f);
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
  const Vector factor = same(inverse);
  for (i = 0; i + 16 <= n; i += 16) store(y + i, load(x + i) * factor * load(gain + i));
  for (; i < n; i++) y[i] = x[i] * inverse * gain[i];
}

// The nearest integers of x / step into int16. Returns the step.
BITMAR_INLINE float quantize_wide(const float* x, int n, float range, int16_t* codes) {
  const float most = max_magnitude(x, n);
  const float step = (most > 1e-20f ? most : 1e-20f) / range;
  const Vector factor = same(1.0f / step);
  const Vector limit = same(range);  // the reciprocal may round up
  for (int i = 0; i < n; i += 16) {
    const int m = n - i < 16 ? n - i : 16;
    const Vector scaled = (m == 16 ? load(x + i) : load_tail(x + i, m)) * factor;
    narrow(rounded(larger(smaller(scaled, limit), same(-range))), codes + i);  // `codes` has room for whole vectors
  }
  return step;
}

template <typename Stored>
BITMAR_INLINE void store_as(const KeyValueView& kv, int place, const float* key, const float* value) {
  const int dim = kv.head_dim, padded = kv.padded_dim();
  const float range = kv.narrow ? 127.0f : (float)kQueryRange;
  int16_t codes[512 + 16];
  typedef Stored Pair __attribute__((vector_size(2 * sizeof(Stored))));
  for (int h = 0; h < kv.heads; h++) {
    kv.key_scale[h * kv.capacity + place] = quantize_wide(key + h * dim, dim, range, codes);
    Stored* k = (Stored*)kv.keys + (size_t)h * kv.capacity * dim + (size_t)(place / 16) * 16 * dim + place % 16 * 2;
    for (int j = 0; j < dim; j += 2) {
      const Pair pair = {(Stored)codes[j], (Stored)codes[j + 1]};
      memcpy(k + j * 16, &pair, sizeof pair);
    }
    kv.value_scale[h * kv.capacity + place] = quantize_wide(value + h * dim, dim, range, codes);
    Stored* v = (Stored*)kv.values + (size_t)h * kv.capacity * padded + (size_t)(place / 2) * 2 * padded + place % 2;
    for (int j = 0; j < dim; j++) v[2 * j] = (Stored)codes[j];
  }
}

static void store_token(const KeyValueView& kv, int place, const float* key, const float* value) {
  if (kv.narrow)
    store_as<int8_t>(kv, place, key, value);
  else
    store_as<int16_t>(kv, place, key, value);
}

BITMAR_INLINE int32_t pair_at(const int16_t* p) {
  int32_t pair;
  memcpy(&pair, p, sizeof pair);
  return pair;
}

// Scores of BLOCKS * 16 tokens: several blocks at a time, because each addition waits for the one before.
template <int BLOCKS, typename Stored>
BITMAR_INLINE void score_blocks(const Stored* keys, const float* key_scale, const int16_t* codes, int dim,
                                const Vector& factor, float* scores) {
  Sum sums[BLOCKS];
  for (int b = 0; b < BLOCKS; b++) sums[b] = zero();
#pragma GCC unroll 4
  for (int j = 0; j < dim; j += 2)
#pragma GCC unroll 4
    for (int b = 0; b < BLOCKS; b++) sums[b] = add_pairs(sums[b], keys + (b * dim + j) * 16, pair_at(codes + j));
  for (int b = 0; b < BLOCKS; b++)
    store(scores + b * 16, to_float(ints(sums[b])) * (factor * load(key_scale + b * 16)));
}

// scores (tokens, rounded up to 16) = products of one query head with its keys, scaled.
template <typename Stored>
BITMAR_INLINE void score_keys(const Stored* keys, const float* key_scale, const float* q, int dim, int blocks, float scale,
                              float* scores) {
  int16_t codes[512 + 16];
  // So fine that no sum of products passes 2^31.
  const float widest = 2147483000.0f / ((float)dim * (sizeof(Stored) == 1 ? 127.0f : (float)kQueryRange));
  const float range = widest < (float)kQueryRange ? widest : (float)kQueryRange;
  const Vector factor = same(quantize_wide(q, dim, range, codes) * scale);
  int b = 0;
  for (; b + 4 <= blocks; b += 4)
    score_blocks<4>(keys + (size_t)b * 16 * dim, key_scale + b * 16, codes, dim, factor, scores + b * 16);
  for (; b + 2 <= blocks; b += 2)
    score_blocks<2>(keys + (size_t)b * 16 * dim, key_scale + b * 16, codes, dim, factor, scores + b * 16);
  for (; b < blocks; b++)
    score_blocks<1>(keys + (size_t)b * 16 * dim, key_scale + b * 16, codes, dim, factor, scores + b * 16);
}

// out (vectors * 16, of which `dim` are written) = undo * sum over pairs of tokens of weights * values. CHAINS pairs at a
// time hide the additions' latency.
template <int VECTORS, int CHAINS, typename Stored>
BITMAR_INLINE void mix_values(const Stored* values, size_t pair_stride, const int16_t* weights, int pairs, float undo, int dim,
                              float* out) {
  Sum sums[CHAINS][VECTORS];
  for (int c = 0; c < CHAINS; c++)
    for (int v = 0; v < VECTORS; v++) sums[c][v] = zero();
  for (int p = 0; p < pairs; p += CHAINS)  // `pairs` is a multiple of 8
#pragma GCC unroll 8
    for (int c = 0; c < CHAINS; c++)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++)
        sums[c][v] = add_pairs(sums[c][v], values + (p + c) * pair_stride + v * 32, pair_at(weights + 2 * (p + c)));
  for (int v = 0; v < VECTORS; v++) {
    Ints whole = ints(sums[0][v]);
    for (int c = 1; c < CHAINS; c++) whole = whole + ints(sums[c][v]);
    const Vector mixed = to_float(whole) * same(undo);
    const int left = dim - v * 16;
    if (left >= 16) {
      store(out + v * 16, mixed);
    } else {
      float tail[16];
      store(tail, mixed);
      memcpy(out + v * 16, tail, sizeof(float) * left);
    }
  }
}

template <typename Stored>
BITMAR_INLINE void attend_as(const KeyValueView& kv, const Query& query, float* out, void* scratch) {
  const int dim = kv.head_dim, padded = kv.padded_dim(), blocks = (query.tokens + 15) / 16;
  float* scores = (float*)scratch;
  int16_t* weights = (int16_t*)(scores + kv.capacity);
  const float range = kv.narrow ? 127.0f : (float)kQueryRange;
  for (int h = 0; h < kv.heads; h++) {
    const Stored* keys = (const Stored*)kv.keys + (size_t)h * kv.capacity * dim;
    const Stored* values = (const Stored*)kv.values + (size_t)h * kv.capacity * padded;
    const float* key_scale = kv.key_scale + (size_t)h * kv.capacity;
    const float* value_scale = kv.value_scale + (size_t)h * kv.capacity;
    score_keys(keys, key_scale, query.q + h * dim, dim, blocks, query.scale, scores);
    for (int b = 0; query.sink_q && b * 16 < query.sinks && b < blocks; b++) {
      float turned[16];
      score_keys(keys + (size_t)b * 16 * dim, key_scale + b * 16, query.sink_q + h * dim, dim, 1, query.scale, turned);
      for (int i = 0; i < 16 && b * 16 + i < query.sinks; i++) scores[b * 16 + i] = turned[i];
    }
    if (query.bias) {
      int t = 0;
      for (; t + 16 <= query.tokens; t += 16) store(scores + t, load(scores + t) + load(query.bias + t));
      for (; t < query.tokens; t++) scores[t] += query.bias[t];
    }
    for (int t = query.tokens; t < blocks * 16; t++) scores[t] = -1e30f;

    Vector most = load(scores);
    for (int b = 1; b < blocks; b++) most = larger(load(scores + b * 16), most);
    const Vector top = same(lanes_max(most));
    Vector sum = same(0.0f), weighted = same(0.0f), heaviest = same(0.0f);
    for (int b = 0; b < blocks; b++) {
      const Vector e = exponential(load(scores + b * 16) - top);
      const Vector u = e * load(value_scale + b * 16);  // the value's scale joins its weight
      sum = sum + e;
      weighted = weighted + u;
      heaviest = larger(u, heaviest);
      store(scores + b * 16, u);
    }
    const float total = lanes_sum(sum), reach = lanes_max(heaviest);
    // As fine as int16 allows, while the weights' sum times the range, rounding included, stays below 2^31.
    const float room = 2147483000.0f / range - 0.5f * (float)(blocks * 16);
    float fine = room / lanes_sum(weighted);
    if (!(fine * reach <= 32767.0f)) fine = 32767.0f / reach;
    const Vector finer = same(fine), limit = same(32767.0f);
    for (int b = 0; b < blocks; b++) narrow(rounded(smaller(load(scores + b * 16) * finer, limit)), weights + b * 16);
    const int pairs = blocks * 8;
    const size_t stride = (size_t)2 * padded;
    const float undo = 1.0f / (fine * total);
    float* mixed = out + h * dim;
    int v = 0;
    for (; v + 4 <= padded / 16; v += 4)
      mix_values<4, 2>(values + v * 32, stride, weights, pairs, undo, dim - v * 16, mixed + v * 16);
    for (; v + 2 <= padded / 16; v += 2)
      mix_values<2, 4>(values + v * 32, stride, weights, pairs, undo, dim - v * 16, mixed + v * 16);
    for (; v < padded / 16; v++)
      mix_values<1, 8>(values + v * 32, stride, weights, pairs, undo, dim - v * 16, mixed + v * 16);
  }
}

static void attend(const KeyValueView& kv, const Query& query, float* out, void* scratch) {
  if (kv.narrow)
    attend_as<int8_t>(kv, query, out, scratch);
  else
    attend_as<int16_t>(kv, query, out, scratch);
}

static void add(float* x, const float* y, float factor, int n) {
  const Vector factors = same(factor);
  int i = 0;
  for (; i + 16 <= n; i += 16) store(x + i, load(x + i) + load(y + i) * factors);
  for (; i < n; i++) x[i] += y[i] * factor;
}

static void relu(float* x, int power, int n) {
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const Vector v = larger(load(x + i), same(0.0f));
    store(x + i, power == 2 ? v * v : v);
  }
  for (; i < n; i++) {
    const float v = x[i] > 0 ? x[i] : 0;
    x[i] = power == 2 ? v * v : v;
  }
}

static int argmax(const float* x, int n) {
  Vector most = same(-__builtin_inff());
  int i = 0;
  for (; i + 16 <= n; i += 16) most = larger(load(x + i), most);
  float top = lanes_max(most);
  for (; i < n; i++) top = x[i] > top ? x[i] : top;
  for (i = 0; i < n; i++)
    if (x[i] == top) return i;
  return 0;
}

static double log_total(const float* x, int n) {
  const float most = x[argmax(x, n)];
  const Vector top = same(most);
  Vector sum = same(0.0f);
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

static float read_all(const float* x, size_t n) {
  Vector sums[4] = {same(0.0f), same(0.0f), same(0.0f), same(0.0f)};
  for (size_t i = 0; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; j++) sums[j] = larger(sums[j], load(x + i + j * 16));
  return lanes_max(larger(larger(sums[0], sums[1]), larger(sums[2], sums[3])));
}

#define BITMAR_TABLE(name) \
  {name, quantize, ternary, ternary_sums, dense, rms_norm, store_token, attend, add, relu, argmax, log_total, read_all}
