// The product of weight tiles and many tokens on AMX, a unit that multiplies whole matrices: 16 rows of 64 bytes with 16 rows
// of 64. A plane of 16 lines of codes, unpacked to bytes, is such a matrix as it stands.
#pragma once

constexpr int kBatch = 64;       // tokens at a time
constexpr int kFewest = 8;       // for fewer the unpacking does not pay
constexpr int kPieceLines = 48;  // lines of a weight tile at a time, so that all of it stays in the first cache

// What LDTILECFG reads.
struct TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// gcc's tile intrinsics do not say that they read memory.
inline void finish_stores() { __asm__ volatile("" ::: "memory"); }

// Tiles 0 to 3: sums; 4 and 5: `rows` tokens each; 6 and 7: weights.
inline void shape_tiles(int rows) {
  alignas(64) TileShapes shapes;
  for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = (uint8_t)(i < 6 ? rows : 16);
  finish_stores();
  _tile_loadconfig(&shapes);
}

// The four planes of some lines as bytes, filled up with zeros to whole matrices.
inline void unpack_lines(const uint8_t* codes, int lines, uint8_t planes[4][kPieceLines * 64]) {
  const __m512i low = _mm512_set1_epi8(3);
#pragma GCC unroll 4
  for (int g = 0; g < lines; g++) {
    const __m512i line = _mm512_load_si512(codes + g * 64);
    _mm512_store_si512(planes[0] + g * 64, _mm512_and_si512(line, low));
    _mm512_store_si512(planes[1] + g * 64, _mm512_and_si512(_mm512_srli_epi16(line, 2), low));
    _mm512_store_si512(planes[2] + g * 64, _mm512_and_si512(_mm512_srli_epi16(line, 4), low));
    _mm512_store_si512(planes[3] + g * 64, _mm512_and_si512(_mm512_srli_epi16(line, 6), low));
  }
  for (int g = lines; g % 16; g++)
    for (int p = 0; p < 4; p++) _mm512_store_si512(planes[p] + g * 64, _mm512_setzero_si512());
  finish_stores();
}

// Adds to the sums (rows, 64) of two groups of tokens the products of two planes; begins anew with `first`.
inline void multiply_planes(const uint8_t* low, const uint8_t* high, int lines, const int8_t* a, const int8_t* b, size_t stride,
                            bool first, int32_t* at_a, int32_t* at_b) {
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, at_a, 256);
    _tile_loadd(1, at_a + 16, 256);
    _tile_loadd(2, at_b, 256);
    _tile_loadd(3, at_b + 16, 256);
  }
  for (int g = 0; g < lines; g += 16) {
    _tile_loadd(4, a + g * 4, stride);
    _tile_loadd(5, b + g * 4, stride);
    _tile_loadd(6, low + g * 64, 64);
    _tile_loadd(7, high + g * 64, 64);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, at_a, 256);
  _tile_stored(1, at_a + 16, 256);
  _tile_stored(2, at_b, 256);
  _tile_stored(3, at_b + 16, 256);
}

// As for_tiles, for as many tokens as it takes in batches. Returns how many. A batch is cut into pairs of groups of equally
// many tokens; where that does not come out even, the last groups begin earlier and compute some tokens again.
template <typename F>
inline int for_batches(const TernaryView& w, const int8_t* codes, int tokens, F f) {
  const int groups = w.padded_columns / 4, tiles = (w.rows + kTileRows - 1) / kTileRows;
  const size_t stride = w.padded_columns;
  alignas(64) uint8_t planes[4][kPieceLines * 64];
  alignas(64) int32_t sums[kBatch * 64];
  int done = 0;
  while (tokens - done >= kFewest) {
    const int count = tokens - done < kBatch ? tokens - done : kBatch, parts = (count + 31) / 32 * 2,
              rows = (count + parts - 1) / parts;
    int start[kBatch / 16];
    for (int i = 0; i < parts; i++) start[i] = done + (i * rows < count - rows ? i * rows : count - rows);
    shape_tiles(rows);
    for (int t = 0; t < tiles; t++) {
      for (int g = 0; g < groups; g += kPieceLines) {
        const int lines = groups - g < kPieceLines ? groups - g : kPieceLines;
        unpack_lines(w.codes + ((size_t)t * groups + g) * 64, lines, planes);
        for (int i = 0; i < parts; i += 2)
          for (int p = 0; p < 4; p += 2)
            multiply_planes(planes[p], planes[p + 1], lines, codes + start[i] * stride + g * 4,
                            codes + start[i + 1] * stride + g * 4, stride, g == 0, sums + i * rows * 64 + p * 16,
                            sums + (i + 1) * rows * 64 + p * 16);
      }
      for (int i = 0; i < parts; i++) f(t, 1, start[i], rows, sums + i * rows * 64);
    }
    done += count;
  }
  if (done) _tile_release();
  return done;
}
