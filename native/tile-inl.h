// The integer product of weight tiles and tokens, for instruction sets that add four bytewise products into 32 bits.
//
// Each defines Lines, lines(const uint8_t*), accumulate<PLANE>(Sum, Lines, four activations), which adds the products of a
// line's four columns, and separate(Sum planes[4]), which makes of those the sums of code * activation.
#pragma once

// sums (TILES, TOKENS, 64) of code * activation over `groups` lines of four columns.
template <int TILES, int TOKENS>
static inline __attribute__((always_inline)) void tile(const uint8_t* codes, size_t tile_bytes, const int8_t* x, size_t x_stride,
                                                       int groups, int32_t* sums) {
  Sum planes[TILES][TOKENS][4];
  for (int k = 0; k < TILES; k++)
    for (int n = 0; n < TOKENS; n++)
      for (int p = 0; p < 4; p++) planes[k][n][p] = zero();
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++)
#pragma GCC unroll 4
    for (int k = 0; k < TILES; k++) {
      const Lines line = lines(codes + k * tile_bytes + (size_t)g * 64);
#pragma GCC unroll 8
      for (int n = 0; n < TOKENS; n++) {
        int32_t four;
        memcpy(&four, x + n * x_stride + (size_t)g * 4, sizeof four);
        planes[k][n][0] = accumulate<0>(planes[k][n][0], line, four);
        planes[k][n][1] = accumulate<1>(planes[k][n][1], line, four);
        planes[k][n][2] = accumulate<2>(planes[k][n][2], line, four);
        planes[k][n][3] = accumulate<3>(planes[k][n][3], line, four);
      }
    }
  for (int k = 0; k < TILES; k++)
    for (int n = 0; n < TOKENS; n++) {
      int32_t* out = sums + (k * TOKENS + n) * 64;
      separate(planes[k][n]);
      for (int p = 0; p < 4; p++) store(planes[k][n][p], out + 16 * p);
    }
}
