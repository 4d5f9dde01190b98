// Convolutions over uint8 maps with int8 weights. Part of body-inl.h, so everything in it holds here.
#pragma once

// Sixteen bytes as integers.
BITMAR_INLINE Ints widen(const uint8_t* p) {
  Ints x;
#if BITMAR_WIDTH == 16
  x.part[0] = (IntRegister)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif BITMAR_WIDTH == 8
  for (int i = 0; i < 2; i++) x.part[i] = (IntRegister)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8 * i)));
#else
  for (int i = 0; i < 16; i++) x.part[i / 4][i % 4] = p[i];
#endif
  return x;
}

BITMAR_INLINE Ints widen(const int8_t* p) {
  Ints x;
#if BITMAR_WIDTH == 16
  x.part[0] = (IntRegister)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif BITMAR_WIDTH == 8
  for (int i = 0; i < 2; i++) x.part[i] = (IntRegister)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8 * i)));
#else
  for (int i = 0; i < 16; i++) x.part[i / 4][i % 4] = p[i];
#endif
  return x;
}

BITMAR_INLINE Ints load_ints(const int32_t* p) {
  Ints x;
  for (int i = 0; i < kRegisters; i++) memcpy(&x.part[i], p + i * BITMAR_WIDTH, sizeof(IntRegister));
  return x;
}

// The first `left` bytes of the sixteen, or all.
BITMAR_INLINE void store_steps(const Vector& value, const Steps& steps, uint8_t* y, int left) {
  Ints whole = rounded(min(max(value, splat(steps.low)), splat(steps.high)));
  for (int i = 0; i < kRegisters; i++) whole.part[i] = whole.part[i] + steps.zero;
  if (left >= 16) {
    narrow(whole, y);
  } else {
    uint8_t last[16];
    narrow(whole, last);
    memcpy(y, last, left);
  }
}

template <int BLOCKS, int PIXELS>
BITMAR_INLINE void convolve_some(const ConvView& w, int block, const uint8_t* x, size_t step, size_t row, uint8_t* y) {
  const size_t block_bytes = (size_t)w.rows * w.row_lines * 64;
  const int8_t* lines = w.lines + block * block_bytes;
  QuadSums sums[BLOCKS][PIXELS];
  for (int b = 0; b < BLOCKS; b++)
    for (int p = 0; p < PIXELS; p++) sums[b][p] = no_quads();
  for (int r = 0; r < w.rows; r++, x += row)
    for (int i = 0; i < w.row_lines; i++, lines += 64) {
      Quads weights[BLOCKS];
#pragma GCC unroll 4
      for (int b = 0; b < BLOCKS; b++) weights[b] = load_quads(lines + b * block_bytes);
#pragma GCC unroll 8
      for (int p = 0; p < PIXELS; p++) {
        uint32_t four;
        memcpy(&four, x + p * step + (size_t)i * 4, sizeof four);
        const auto bytes = spread(four ^ kFlip);
#pragma GCC unroll 4
        for (int b = 0; b < BLOCKS; b++) sums[b][p] = add_quads(sums[b][p], weights[b], bytes);
      }
    }
#pragma GCC unroll 4
  for (int b = 0; b < BLOCKS; b++) {
    const int first = (block + b) * 16;
    const Ints start = load_ints(w.start + first);
    const Vector factor = load(w.factor + first);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++)
      store_steps(to_float(ints(total(sums[b][p])) + start) * factor, w.steps, y + (size_t)p * w.channels + first,
                  w.channels - first);
  }
}

// Some windows at a time; where their number does not come out even, the last begin earlier and compute some again.
template <int BLOCKS>
BITMAR_INLINE void convolve_blocks(const ConvView& w, int block, const Windows& windows, uint8_t* y) {
  int p = 0;
  if (windows.count >= kConvPixels)
    for (; p < windows.count; p += kConvPixels) {
      const int first = p + kConvPixels <= windows.count ? p : windows.count - kConvPixels;
      convolve_some<BLOCKS, kConvPixels>(w, block, windows.x + first * windows.step, windows.step, windows.row,
                                         y + (size_t)first * w.channels);
    }
  else
    for (; p < windows.count; p++)
      convolve_some<BLOCKS, 1>(w, block, windows.x + p * windows.step, windows.step, windows.row, y + (size_t)p * w.channels);
}

static void convolve(const ConvView& w, const Windows& windows, uint8_t* y) {
  const int blocks = (w.channels + 15) / 16;
  int block = 0;
  for (; block + kConvBlocks <= blocks; block += kConvBlocks) convolve_blocks<kConvBlocks>(w, block, windows, y);
  for (; block < blocks; block++) convolve_blocks<1>(w, block, windows, y);
}

static void depthwise(const DepthwiseView& w, const Windows& windows, uint8_t* y) {
  for (int first = 0; first < w.channels; first += 16) {
    const Ints start = load_ints(w.start + first);
    const Vector factor = load(w.factor + first);
    for (int p = 0; p < windows.count; p++) {
      const uint8_t* x = windows.x + p * windows.step + first;
      const int8_t* weights = w.weights + first;
      Ints sum = start;
      for (int r = 0; r < w.kernel; r++, x += windows.row)
        for (int c = 0; c < w.kernel; c++, weights += w.padded_channels) {
          const Ints a = widen(x + (size_t)c * w.channels), b = widen(weights);
          for (int i = 0; i < kRegisters; i++) sum.part[i] = sum.part[i] + a.part[i] * b.part[i];
        }
      store_steps(to_float(sum) * factor, w.steps, y + (size_t)p * w.channels + first, w.channels - first);
    }
  }
}

static void add_maps(const uint8_t* a, int a_zero, float a_factor, const uint8_t* b, int b_zero, float b_factor, int n,
                     const Steps& steps, uint8_t* y) {
  const Vector a_factors = splat(a_factor), b_factors = splat(b_factor);
  for (int i = 0; i < n; i += 16) {
    Ints one = widen(a + i), two = widen(b + i);
    for (int j = 0; j < kRegisters; j++) one.part[j] = one.part[j] - a_zero, two.part[j] = two.part[j] - b_zero;
    store_steps(to_float(one) * a_factors + to_float(two) * b_factors, steps, y + i, n - i);
  }
}
