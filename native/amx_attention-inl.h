// Attention of many queries over int8 keys and values on AMX. Part of body-inl.h on that path.
//
// The unit multiplies bytes, so queries and weights go in twice, as q = 256 high + low; keys and values are rearranged from
// pairs to fours, once for all queries of a call.
#pragma once

constexpr int kBatchQueries = 16;
constexpr int kFewestQueries = 6;  // below that the other sums are faster

inline int round_up_64(int n) { return (n + 63) / 64 * 64; }

// Two rows of 16 pairs to one row of 16 fours.
inline void join_pairs(const int8_t* first, const int8_t* second, int8_t* fours) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)first));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)second));
  _mm512_store_si512(fours, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

// n int16, a multiple of 32, to their low and high bytes.
inline void split_bytes(const int16_t* x, int n, uint8_t* low, uint8_t* high) {
  for (int i = 0; i < n; i += 32) {
    const __m512i v = _mm512_load_si512(x + i);
    _mm256_store_si256((__m256i*)(low + i), _mm512_cvtepi16_epi8(v));
    _mm256_store_si256((__m256i*)(high + i), _mm512_cvtepi16_epi8(_mm512_srli_epi16(v, 8)));
  }
}

// Row i of the products with the low and with the high bytes, put together.
inline Vector join_products(const int32_t* low, const int32_t* high, int i) {
  const __m512i sum = _mm512_add_epi32(_mm512_load_si512(low + i * 16), _mm512_slli_epi32(_mm512_load_si512(high + i * 16), 8));
  return to_float(ints(sum));
}

// The places in the scratch.
struct BatchScratch {
  size_t stride;
  float* scores;        // (16, stride)
  int16_t* weights;     // (16, stride)
  uint8_t *low, *high;  // (16, stride) each, of the weights
  int8_t* keys;         // [token / 16][dim / 4][token % 16][4] with the dim rounded up to 64
  int8_t* values;       // [dim / 16][token / 4][dim % 16][4]

  BatchScratch(const KeyValueView& kv, void* scratch) : stride(scratch_stride(kv)) {
    scores = (float*)scratch;
    weights = (int16_t*)(scores + kBatchQueries * stride);
    low = (uint8_t*)(weights + kBatchQueries * stride), high = low + kBatchQueries * stride;
    keys = (int8_t*)(high + kBatchQueries * stride), values = keys + kv.capacity * round_up_64(kv.head_dim);
  }
};

inline void rearrange(const KeyValueView& kv, int head, int blocks, const BatchScratch& room) {
  const int dim = kv.head_dim, padded = kv.padded_dim(), wide = round_up_64(dim), fours = round_up_64(blocks * 16) / 4;
  const int8_t* keys = (const int8_t*)kv.keys + (size_t)head * kv.capacity * dim;
  const int8_t* values = (const int8_t*)kv.values + (size_t)head * kv.capacity * padded;
  for (int b = 0; b < blocks; b++)
    for (int j = 0; j < dim; j += 4)
      join_pairs(keys + (b * dim + j) * 16, keys + (b * dim + j + 2) * 16, room.keys + (b * wide + j) * 16);
  for (int t = 0; t < blocks * 4; t++)
    for (int v = 0; v < padded / 16; v++)
      join_pairs(values + t * 4 * padded + v * 32, values + (t * 4 + 2) * padded + v * 32, room.values + (v * fours + t) * 64);
}

// Scores of 16 queries, whose bytes are (16, wide) and zero after the head's width.
inline void score_batch(const BatchScratch& room, const float* key_scale, const uint8_t* low, const uint8_t* high,
                        const float* factor, int wide, int blocks) {
  alignas(64) int32_t sums[4][256];
  for (int b = 0; b < blocks; b += 2) {
    const int8_t *first = room.keys + b * wide * 16, *second = b + 1 < blocks ? first + wide * 16 : first;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int j = 0; j < wide; j += 64) {
      _tile_loadd(4, low + j, wide);
      _tile_loadd(5, high + j, wide);
      _tile_loadd(6, first + j * 16, 64);
      _tile_loadd(7, second + j * 16, 64);
      _tile_dpbusd(0, 4, 6);
      _tile_dpbssd(1, 5, 6);
      _tile_dpbusd(2, 4, 7);
      _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int k = 0; k < 2 && b + k < blocks; k++) {
      const Vector scale = load(key_scale + (b + k) * 16);
      for (int i = 0; i < kBatchQueries; i++)
        store(room.scores + i * room.stride + (b + k) * 16,
              join_products(sums[2 * k], sums[2 * k + 1], i) * (splat(factor[i]) * scale));
    }
  }
}

// out (count, 16) of the values' vectors v and v + 1, or of v alone.
inline void mix_batch(const BatchScratch& room, int v, bool both, int fours, int used, const Row* rows, int dim, int count,
                      float* out, size_t out_stride) {
  alignas(64) int32_t sums[4][256];
  const int8_t *first = room.values + v * fours * 64, *second = both ? first + fours * 64 : first;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int t = 0; t < used; t += 16) {
    _tile_loadd(4, room.low + t * 4, room.stride);
    _tile_loadd(5, room.high + t * 4, room.stride);
    _tile_loadd(6, first + t * 64, 64);
    _tile_loadd(7, second + t * 64, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 5, 6);
    _tile_dpbusd(2, 4, 7);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  for (int k = 0; k < (both ? 2 : 1); k++)
    for (int i = 0; i < count; i++)
      store_some(out + i * out_stride + (v + k) * 16, join_products(sums[2 * k], sums[2 * k + 1], i) * splat(rows[i].undo),
                 dim - (v + k) * 16);
}

// As attend, for as many queries as it takes. Returns how many.
static int attend_batches(const KeyValueView& kv, const Queries& queries, float* out, size_t out_stride, void* scratch) {
  const int dim = kv.head_dim, wide = round_up_64(dim), vectors = kv.padded_dim() / 16;
  if (queries.count < kFewestQueries || dim % 4 || queries.sink_q) return 0;
  const BatchScratch room(kv, scratch);
  const int all = queries.tokens + (queries.count - 1) * queries.step, fours = round_up_64(all) / 4;
  alignas(64) QueryCodes codes[kBatchQueries];
  float factor[kBatchQueries];
  alignas(64) uint8_t low[kBatchQueries * 512], high[kBatchQueries * 512];
  int done = 0;
  shape_tiles(16);
  for (int h = 0; h < kv.heads; h++) {
    const float *key_scale = kv.key_scale + (size_t)h * kv.capacity, *value_scale = kv.value_scale + (size_t)h * kv.capacity;
    rearrange(kv, h, (all + 15) / 16, room);
    for (done = 0; queries.count - done >= kFewestQueries; done += kBatchQueries) {
      const int count = queries.count - done < kBatchQueries ? queries.count - done : kBatchQueries;
      const float* q[kBatchQueries];
      Row rows[kBatchQueries];
      for (int i = 0; i < kBatchQueries; i++) {
        const int query = done + (i < count ? i : count - 1);  // a batch is filled up with its last query
        q[i] = queries.q + query * queries.stride + h * dim;
        rows[i] = {room.scores + i * room.stride, room.weights + i * room.stride, value_scale,
                   queries.tokens + query * queries.step, 0};
      }
      quantize_queries<int8_t>(q, kBatchQueries, dim, queries.scale, codes, factor);
      for (int i = 0; i < kBatchQueries; i++) {
        for (int j = dim; j < wide; j++) codes[i][j] = 0;
        split_bytes(codes[i], wide, low + i * wide, high + i * wide);
      }
      finish_stores();
      const int blocks = (rows[kBatchQueries - 1].tokens + 15) / 16, filled = round_up_64(blocks * 16);
      score_batch(room, key_scale, low, high, factor, wide, blocks);
      for (int i = 0; queries.bias && i < kBatchQueries; i++) add_bias(queries.bias, rows[i]);
      for (int i = 0; i < kBatchQueries; i += 4) softmax(rows + i, 4, filled / 16, 127.0f);  // 4: few enough for the first cache
      for (int i = 0; i < kBatchQueries; i++)
        split_bytes(rows[i].weights, filled, room.low + i * room.stride, room.high + i * room.stride);
      finish_stores();
      for (int v = 0; v < vectors; v += 2)
        mix_batch(room, v, v + 1 < vectors, fours, filled / 4, rows, dim, count, out + done * out_stride + h * dim, out_stride);
    }
  }
  _tile_release();
  return done < queries.count ? done : queries.count;
}
