// 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3) (arXiv 1509.09308), in integers: 16 products for 4 outputs
// instead of 36. The transform of the weights halves twice; at 4 times their worth they are whole, and so is a fourth of the
// sum. It is done anew for each photo: that takes a hundredth of the time, and kept weights would take four times the memory. Part of convolve-inl.h, so everything in it holds here.
#pragma once

// Sixteen channels of 4 x 4 pixels -> 16 places, `apart` from one to the next: B^T d B.
BITMAR_INLINE void transform_tile(const uint8_t* x, size_t step, size_t row, int16_t* places, size_t apart) {
  Shorts rows[4][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++, x += step) {
    const Shorts a = widen_shorts(x), b = widen_shorts(x + row), c = widen_shorts(x + 2 * row), d = widen_shorts(x + 3 * row);
    rows[0][j] = a - c, rows[1][j] = b + c, rows[2][j] = c - b, rows[3][j] = b - d;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const Shorts *r = rows[i], all[4] = {r[0] - r[2], r[1] + r[2], r[2] - r[1], r[1] - r[3]};
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++, places += apart) memcpy(places, all + j, sizeof(Shorts));
  }
}

// Nine kernels' places of 16 outputs by two inputs, `apart` from one to the next, -> 16 places: G g G^T, doubled twice.
BITMAR_INLINE void transform_weights(const int8_t* kernels, size_t apart, int16_t* places) {
  const auto transform = [](const Shorts& a, const Shorts& b, const Shorts& c, Shorts* four) __attribute__((always_inline)) {
    four[0] = a + a, four[1] = a + c + b, four[2] = a + c - b, four[3] = c + c;
  };
  for (int half = 0; half < 2; half++, kernels += 16, places += 16) {
    Shorts g[9], rows[3][4], four[4];
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) g[i] = widen_shorts(kernels + i * apart);
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) transform(g[j], g[3 + j], g[6 + j], rows[j]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      transform(rows[0][i], rows[1][i], rows[2][i], four);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) memcpy(places + (4 * i + j) * apart, four + j, sizeof(Shorts));
    }
  }
}

BITMAR_INLINE Ints operator-(const Ints& a, const Ints& b) {
  Ints c;
  for (int i = 0; i < kRegisters; i++) c.part[i] = a.part[i] - b.part[i];
  return c;
}

// 16 places of 16 sums -> 2 x 2 windows: a fourth of A^T m A.
BITMAR_INLINE void finish_tile(const Finish& finish, const int32_t* places, size_t apart, uint8_t* y, size_t channels,
                               size_t y_row) {
  Ints rows[2][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++, places += apart) {
    const Ints a = load_ints(places), b = load_ints(places + 4 * apart), c = load_ints(places + 8 * apart),
               d = load_ints(places + 12 * apart);
    rows[0][j] = a + b + c, rows[1][j] = b - c - d;
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++, y += y_row) {
    const Ints* r = rows[i];
    Ints both[2] = {r[0] + r[1] + r[2], r[1] - r[2] - r[3]};
    for (int j = 0; j < 2; j++) {
      for (int k = 0; k < kRegisters; k++) both[j].part[k] = both[j].part[k] >> 2;
      finish(both[j], y + j * channels);
    }
  }
}

static void winograd(const WinogradView& w, const Windows& windows, uint8_t* y, size_t y_row, void* scratch) {
  const int tiles = (windows.count + 1) / 2, pairs = (w.inputs + 1) / 2, inputs = (w.inputs + 15) / 16 * 16;
  const size_t apart = (size_t)tiles * inputs;  // from place to place
  const size_t run = (size_t)pairs * 32;        // weights of a place and 16 outputs
  const int blocks = (w.channels + 15) / 16;
  int16_t* const weights = (int16_t*)scratch;
  int16_t* const transformed = weights + blocks * 16 * run;
  int32_t* const products = (int32_t*)(transformed + 16 * apart);
  for (int block = 0; block < blocks; block++)
    for (int pair = 0; pair < pairs; pair++)
      transform_weights(w.weights + block * 9 * run + pair * 32, run, weights + block * 16 * run + pair * 32);
  // Where rows or windows are odd in number, the last tiles begin earlier and compute some again.
  const auto left = [&](int tile) { return 2 * tile + 2 <= windows.count ? 2 * tile : windows.count - 2; };
  for (int row = 0; row < windows.rows; row += 2) {
    const int top = row + 2 <= windows.rows ? row : windows.rows - 2;
    const uint8_t* x = windows.x + top * windows.down;
    for (int t = 0; t < tiles; t++)
      for (int c = 0; c < w.inputs; c += 16)
        transform_tile(x + left(t) * windows.step + c, windows.step, windows.row, transformed + (size_t)t * inputs + c, apart);
    const int16_t* next = weights;
    for (int first = 0; first < w.channels; first += 16) {
      for (int place = 0; place < 16; place++, next += run) {
        const int16_t* in = transformed + place * apart;
        int32_t* out = products + (size_t)place * tiles * 16;
        for_groups(tiles, [&](int tile, auto number) __attribute__((always_inline)) {
          constexpr int kNumber = decltype(number)::value;
          const int16_t* runs[kNumber];
          Sum sums[kNumber];
#pragma GCC unroll 8
          for (int p = 0; p < kNumber; p++) runs[p] = in + (size_t)(tile + p) * inputs, sums[p] = zero();
          multiply_runs(next, runs, 0, pairs, sums);
#pragma GCC unroll 8
          for (int p = 0; p < kNumber; p++) store(sums[p], out + (size_t)(tile + p) * 16);
        });
      }
      const Finish finish(w, first);
      for (int t = 0; t < tiles; t++)
        finish_tile(finish, products + (size_t)t * 16, (size_t)tiles * 16, y + top * y_row + (size_t)left(t) * w.channels + first,
                    w.channels, y_row);
    }
  }
}
