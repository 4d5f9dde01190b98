// Attention, written once: tokens enter a view, queries read it. Part of body-inl.h, so everything in it holds here.
//
// Several queries go over the keys and values together, so that each of these is loaded and widened once for all of them.
// What a query gets does not depend on how many others it goes with.
#pragma once

constexpr int kWidestHead = 512 + 32;  // room for whole vectors, rows on cache lines
constexpr float kLog2E = 1.44269504f;  // the softmax is computed to the base of 2

// The step by which n numbers reach no further than `range`.
BITMAR_INLINE float scale_of(const float* x, int n, float range) {
  const float most = max_abs(x, n);
  return (most > 1e-20f ? most : 1e-20f) / range;
}

// The nearest integers of x / step. `codes` has room for whole vectors.
template <typename Stored>
BITMAR_INLINE void quantize_by(float step, const float* x, int n, float range, Stored* codes) {
  const Vector factor = splat(1.0f / step);
  const Vector limit = splat(range);  // the reciprocal may round up
  for (int i = 0; i < n; i += 16) {
    const int m = n - i < 16 ? n - i : 16;
    const Vector scaled = (m == 16 ? load(x + i) : load_tail(x + i, m)) * factor;
    narrow(rounded(max(min(scaled, limit), splat(-range))), codes + i);
  }
}

// Lane: an unsigned integer that holds two of Stored.
template <typename Stored, typename Lane>
BITMAR_INLINE void store_as(const KeyValueView& kv, int place, const float* key, const float* value) {
  typedef Lane Pair __attribute__((may_alias));
  const int dim = kv.head_dim, padded = kv.padded_dim(), shift = place % 2 * 8 * (int)sizeof(Stored);
  const float range = kv.int16 ? (float)kQueryRange : 127.0f;
  const Lane one = (Lane)((Lane) ~(Lane)0 >> 8 * sizeof(Stored)), kept = (Lane) ~(one << shift);
  alignas(64) Stored codes[kWidestHead];
  // All steps first: each is a long chain of instructions, and they do not wait for each other.
  for (int h = 0; h < kv.heads; h++) {
    kv.key_scale[h * kv.capacity + place] = scale_of(key + h * dim, dim, range);
    kv.value_scale[h * kv.capacity + place] = scale_of(value + h * dim, dim, range);
  }
  for (int h = 0; h < kv.heads; h++) {
    quantize_by(kv.key_scale[h * kv.capacity + place], key + h * dim, dim, range, codes);
    Pair* k = (Pair*)((Stored*)kv.keys + (size_t)h * kv.capacity * dim + (size_t)(place / 16) * 16 * dim) + place % 16;
    for (int j = 0; j < dim / 2; j++) k[j * 16] = ((const Pair*)codes)[j];
    quantize_by(kv.value_scale[h * kv.capacity + place], value + h * dim, dim, range, codes);
    Pair* v = (Pair*)((Stored*)kv.values + (size_t)h * kv.capacity * padded + (size_t)(place / 2) * 2 * padded);
    for (int j = 0; j < dim; j++) v[j] = (Lane)((v[j] & kept) | ((Lane)codes[j] & one) << shift);
  }
}

static void store_token(const KeyValueView& kv, int place, const float* key, const float* value) {
  if (kv.int16)
    store_as<int16_t, uint32_t>(kv, place, key, value);
  else
    store_as<int8_t, uint16_t>(kv, place, key, value);
}

BITMAR_INLINE int32_t pair_at(const int16_t* p) {
  int32_t pair;
  memcpy(&pair, p, sizeof pair);
  return pair;
}

typedef int16_t QueryCodes[kWidestHead];

// `count` heads of queries as integers, and the factors that make scores, to the base of 2, of their products with keys.
template <typename Stored>
BITMAR_INLINE void quantize_queries(const float* const* q, int count, int dim, float scale, QueryCodes* codes, float* factor) {
  // So fine that no sum of products passes 2^31.
  const float widest = 2147483000.0f / ((float)dim * (sizeof(Stored) == 1 ? 127.0f : (float)kQueryRange));
  const float range = widest < (float)kQueryRange ? widest : (float)kQueryRange;
  for (int i = 0; i < count; i++) factor[i] = scale_of(q[i], dim, range);
  for (int i = 0; i < count; i++) {
    quantize_by(factor[i], q[i], dim, range, codes[i]);
    factor[i] *= scale * kLog2E;
  }
}

// Scores of BLOCKS * 16 tokens for each query: several sums at a time, because each addition waits for the one before.
template <int BLOCKS, int QUERIES, typename Stored>
BITMAR_INLINE void score_blocks(const Stored* keys, const float* key_scale, const QueryCodes* codes, const float* factor, int dim,
                                float* scores, size_t stride) {
  Sum sums[BLOCKS][QUERIES];
  for (int b = 0; b < BLOCKS; b++)
    for (int i = 0; i < QUERIES; i++) sums[b][i] = zero();
#pragma GCC unroll 4
  for (int j = 0; j < dim; j += 2) {
    Pairs pairs[BLOCKS];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCKS; b++) pairs[b] = load_pairs(keys + (b * dim + j) * 16);
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 8
      for (int b = 0; b < BLOCKS; b++) sums[b][i] = add_pairs(sums[b][i], pairs[b], pair_at(codes[i] + j));
  }
  for (int i = 0; i < QUERIES; i++)
    for (int b = 0; b < BLOCKS; b++)
      store(scores + i * stride + b * 16, to_float(ints(sums[b][i])) * (splat(factor[i]) * load(key_scale + b * 16)));
}

// scores (QUERIES, blocks * 16) = products of query heads with their keys, scaled.
template <int QUERIES, typename Stored>
BITMAR_INLINE void score_keys(const Stored* keys, const float* key_scale, const QueryCodes* codes, const float* factor, int dim,
                              int blocks, float* scores, size_t stride) {
  constexpr int kMost = kSums / QUERIES < 8 ? kSums / QUERIES : 8, kHalf = kMost > 1 ? kMost / 2 : 1;
  int b = 0;
  for (; b + kMost <= blocks; b += kMost)
    score_blocks<kMost, QUERIES>(keys + (size_t)b * 16 * dim, key_scale + b * 16, codes, factor, dim, scores + b * 16, stride);
  for (; b + kHalf <= blocks; b += kHalf)
    score_blocks<kHalf, QUERIES>(keys + (size_t)b * 16 * dim, key_scale + b * 16, codes, factor, dim, scores + b * 16, stride);
  for (; b < blocks; b++)
    score_blocks<1, QUERIES>(keys + (size_t)b * 16 * dim, key_scale + b * 16, codes, factor, dim, scores + b * 16, stride);
}

constexpr int kMostRows = 8;

// One head of one query on its way from scores to integer weights, which already hold the values' scales.
struct Row {
  float* scores;
  int16_t* weights;
  const float* value_scale;
  int tokens;
  float undo;  // the factor that undoes the integers' scale
};

BITMAR_INLINE void add_bias(const float* bias, const Row& row) {
  int t = 0;
  for (; t + 16 <= row.tokens; t += 16) store(row.scores + t, load(row.scores + t) + load(bias + t) * splat(kLog2E));
  for (; t < row.tokens; t++) row.scores[t] += bias[t] * kLog2E;
}

// The scores become integer weights, and are lost. Step by step for all rows: each step ends in a long chain of
// instructions, which then overlaps with the next row's. Weights after a row's tokens, of `blocks` * 16, are 0.
BITMAR_INLINE void softmax(Row* rows, int count, int blocks, float range) {
  static const float kFirst[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  float top[kMostRows], fine[kMostRows];
  Vector sum[kMostRows], weighted[kMostRows], heaviest[kMostRows];
  for (int i = 0; i < count; i++) {
    float* row = rows[i].scores;
    const int own = (rows[i].tokens + 15) / 16;
    for (int t = rows[i].tokens; t < own * 16; t++) row[t] = -1e30f;
    Vector most = load(row);
    for (int b = 1; b < own; b++) most = max(load(row + b * 16), most);
    top[i] = lanes_max(most);
  }
  for (int i = 0; i < count; i++) {
    float* row = rows[i].scores;
    Vector s = splat(0.0f), w = splat(0.0f), h = splat(0.0f);
    const Vector highest = splat(top[i]);
    const auto take = [&](int b, const Vector& e) __attribute__((always_inline)) {
      const Vector u = e * load(rows[i].value_scale + b * 16);
      s = s + e;
      w = w + u;
      h = max(u, h);
      store(row + b * 16, u);
    };
    const int whole = rows[i].tokens / 16, rest = rows[i].tokens % 16;
    for (int b = 0; b < whole; b++) take(b, power_of_two(load(row + b * 16) - highest));
    if (rest) take(whole, power_of_two(load(row + whole * 16) - highest) * load(kFirst + 16 - rest));
    sum[i] = s, weighted[i] = w, heaviest[i] = h;
  }
  for (int i = 0; i < count; i++) {
    // As fine as int16 allows, while the weights' sum times the range, rounding included, stays below 2^31.
    const float room = 2147483000.0f / range - 0.5f * (float)((rows[i].tokens + 15) / 16 * 16);
    const float reach = lanes_max(heaviest[i]);
    fine[i] = room / lanes_sum(weighted[i]);
    if (!(fine[i] * reach <= 32767.0f)) fine[i] = 32767.0f / reach;
    rows[i].undo = 1.0f / (fine[i] * lanes_sum(sum[i]));
  }
  for (int i = 0; i < count; i++) {
    const Vector finer = splat(fine[i]);  // times the largest it rounds to no more than 32,767
    int b = 0;
    for (; b * 16 < rows[i].tokens; b++) narrow(rounded(load(rows[i].scores + b * 16) * finer), rows[i].weights + b * 16);
    for (; b < blocks; b++) memset(rows[i].weights + b * 16, 0, 16 * sizeof(int16_t));
  }
}

// out (QUERIES, vectors * 16, of which `dim` are written) = undo * sum over pairs of tokens of weights * values. CHAINS
// pairs at a time hide the additions' latency.
template <int VECTORS, int CHAINS, int QUERIES, typename Stored>
BITMAR_INLINE void mix_vectors(const Stored* values, size_t pair_stride, const Row* rows, int pairs, int dim, float* out,
                               size_t out_stride) {
  Sum sums[CHAINS][QUERIES][VECTORS];
  for (int c = 0; c < CHAINS; c++)
    for (int i = 0; i < QUERIES; i++)
      for (int v = 0; v < VECTORS; v++) sums[c][i][v] = zero();
  for (int p = 0; p < pairs; p += CHAINS)  // `pairs` is a multiple of 8
#pragma GCC unroll 8
    for (int c = 0; c < CHAINS; c++) {
      Pairs both[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) both[v] = load_pairs(values + (p + c) * pair_stride + v * 32);
#pragma GCC unroll 8
      for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++)
          sums[c][i][v] = add_pairs(sums[c][i][v], both[v], pair_at(rows[i].weights + 2 * (p + c)));
    }
  for (int i = 0; i < QUERIES; i++)
    for (int v = 0; v < VECTORS; v++) {
      Ints whole = ints(sums[0][i][v]);
      for (int c = 1; c < CHAINS; c++) whole = whole + ints(sums[c][i][v]);
      store_some(out + i * out_stride + v * 16, to_float(whole) * splat(rows[i].undo), dim - v * 16);
    }
}

template <int QUERIES, typename Stored>
BITMAR_INLINE void mix_values(const Stored* values, const Row* rows, int pairs, int dim, int padded, float* out,
                              size_t out_stride) {
  constexpr int kMost = kSums / QUERIES < 4 ? kSums / QUERIES : 4, kHalf = kMost > 2 ? 2 : 1;
  constexpr int kAtOnce = QUERIES == 1 ? 8 : 1;  // sums; several queries are enough of them
  constexpr int kMostChains = (kAtOnce + kMost - 1) / kMost, kHalfChains = (kAtOnce + kHalf - 1) / kHalf;
  const size_t stride = (size_t)2 * padded;
  int v = 0;
  for (; v + kMost <= padded / 16; v += kMost)
    mix_vectors<kMost, kMostChains, QUERIES>(values + v * 32, stride, rows, pairs, dim - v * 16, out + v * 16, out_stride);
  for (; v + kHalf <= padded / 16; v += kHalf)
    mix_vectors<kHalf, kHalfChains, QUERIES>(values + v * 32, stride, rows, pairs, dim - v * 16, out + v * 16, out_stride);
  for (; v < padded / 16; v++)
    mix_vectors<1, kAtOnce, QUERIES>(values + v * 32, stride, rows, pairs, dim - v * 16, out + v * 16, out_stride);
}

// QUERIES queries from the one numbered `first`. A query that comes alone brings several heads together instead.
template <int QUERIES, typename Stored>
static void attend_group(const KeyValueView& kv, const Queries& queries, int first, float* out, size_t out_stride,
                         void* scratch) {
  constexpr int kHeads = QUERIES == 1 ? 4 : 1, kRows = kHeads * QUERIES;
  static_assert(kRows <= kMostRows && kRows <= kMostQueries, "room for their scores");
  const int dim = kv.head_dim, padded = kv.padded_dim();
  const int blocks = (queries.tokens + (first + QUERIES - 1) * queries.step + 15) / 16;
  const size_t stride = scratch_stride(kv);
  float* scores = (float*)scratch;
  int16_t* weights = (int16_t*)(scores + kRows * stride);
  const float range = kv.int16 ? (float)kQueryRange : 127.0f;
  alignas(64) QueryCodes codes[kRows];
  float factor[kRows];
  const float *q[kRows], *sink_q[kRows];
  Row rows[kRows];
  for (int h = 0; h < kv.heads; h += kHeads) {
    const int heads = kv.heads - h < kHeads ? kv.heads - h : kHeads, count = heads * QUERIES;
    const size_t start = (size_t)h * kv.capacity;
    const Stored* keys = (const Stored*)kv.keys + start * dim;
    const Stored* values = (const Stored*)kv.values + start * padded;
    for (int r = 0; r < count; r++) {
      const int head = r / QUERIES, query = first + r % QUERIES;
      const size_t place = query * queries.stride + (size_t)(h + head) * dim;
      q[r] = queries.q + place;
      sink_q[r] = queries.sink_q + (queries.sink_q ? place : 0);
      rows[r] = {scores + r * stride, weights + r * stride, kv.value_scale + start + (size_t)head * kv.capacity,
                 queries.tokens + query * queries.step, 0};
    }
    quantize_queries<Stored>(q, count, dim, queries.scale, codes, factor);
    for (int k = 0; k < heads; k++)
      score_keys<QUERIES>(keys + (size_t)k * kv.capacity * dim, kv.key_scale + start + (size_t)k * kv.capacity,
                          codes + k * QUERIES, factor + k * QUERIES, dim, blocks, scores + k * QUERIES * stride, stride);
    if (queries.sink_q) {
      quantize_queries<Stored>(sink_q, count, dim, queries.scale, codes, factor);
      const int some = (queries.sinks + 15) / 16 < blocks ? (queries.sinks + 15) / 16 : blocks;
      float turned[QUERIES * 16];
      for (int k = 0; k < heads; k++)
        for (int b = 0; b < some; b++) {
          score_keys<QUERIES>(keys + ((size_t)k * kv.capacity + b * 16) * dim,
                              kv.key_scale + start + (size_t)k * kv.capacity + b * 16, codes + k * QUERIES, factor + k * QUERIES,
                              dim, 1, turned, 16);
          for (int i = 0; i < QUERIES; i++)
            for (int t = 0; t < 16 && b * 16 + t < queries.sinks; t++)
              scores[(k * QUERIES + i) * stride + b * 16 + t] = turned[i * 16 + t];
        }
    }
    for (int r = 0; queries.bias && r < count; r++) add_bias(queries.bias, rows[r]);
    softmax(rows, count, blocks, range);
    for (int k = 0; k < heads; k++)
      mix_values<QUERIES>(values + (size_t)k * kv.capacity * padded, rows + k * QUERIES, blocks * 8, dim, padded,
                          out + first * out_stride + (h + k) * dim, out_stride);
  }
}

#if defined(BITMAR_AMX)
#include "amx_attention-inl.h"
#endif

template <typename Stored>
BITMAR_INLINE void attend_as(const KeyValueView& kv, const Queries& queries, float* out, size_t out_stride, void* scratch) {
  static_assert(kQueries <= kMostQueries, "the scratch holds the scores of so many");
  int i = 0;
#if defined(BITMAR_AMX)
  if (sizeof(Stored) == 1) i = attend_batches(kv, queries, out, out_stride, scratch);
#endif
  for (; i + kQueries <= queries.count; i += kQueries) attend_group<kQueries, Stored>(kv, queries, i, out, out_stride, scratch);
  for (; i < queries.count; i++) attend_group<1, Stored>(kv, queries, i, out, out_stride, scratch);
}

static void attend(const KeyValueView& kv, const Queries& queries, float* out, size_t out_stride, void* scratch) {
  if (kv.int16)
    attend_as<int16_t>(kv, queries, out, out_stride, scratch);
  else
    attend_as<int8_t>(kv, queries, out, out_stride, scratch);
}
