// Convolutions by sums of bytewise products. Part of convolve-inl.h, so everything in it holds here.
#pragma once

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
    const Finish finish(w, first);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) finish(ints(total(sums[b][p])), y + (size_t)p * w.channels + first);
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

static void convolve(const ConvView& w, const Windows& given, uint8_t* y, size_t y_row, void*) {
  const int blocks = (w.channels + 15) / 16;
  Windows windows = given;
  // Without frames a 1x1 kernel's windows follow each other through the whole map.
  const bool whole = given.down == given.count * given.step && y_row == (size_t)given.count * w.channels;
  if (whole) windows.count *= given.rows;
  for (int row = 0; row < (whole ? 1 : given.rows); row++, windows.x += windows.down, y += y_row) {
    int block = 0;
    for (; block + kConvBlocks <= blocks; block += kConvBlocks) convolve_blocks<kConvBlocks>(w, block, windows, y);
    for (; block < blocks; block++) convolve_blocks<1>(w, block, windows, y);
  }
}

static void depthwise_row(const DepthwiseView& w, const Windows& windows, uint8_t* y) {
  for (int first = 0; first < w.channels; first += 16) {
    const Finish finish(w, first);
    for (int p = 0; p < windows.count; p++) {
      const uint8_t* x = windows.x + p * windows.step + first;
      const int8_t* weights = w.weights + first;
      Ints sum = {};
      for (int r = 0; r < w.kernel; r++, x += windows.row)
        for (int c = 0; c < w.kernel; c++, weights += w.padded_channels) {
          const Ints a = widen(x + (size_t)c * w.channels), b = widen(weights);
          for (int i = 0; i < kRegisters; i++) sum.part[i] = sum.part[i] + a.part[i] * b.part[i];
        }
      finish(sum, y + (size_t)p * w.channels + first);
    }
  }
}

static void depthwise(const DepthwiseView& w, const Windows& windows, uint8_t* y, size_t y_row, void*) {
  Windows one = windows;
  for (int row = 0; row < windows.rows; row++, one.x += windows.down, y += y_row) depthwise_row(w, one, y);
}

constexpr decltype(Kernels::winograd) winograd = nullptr;
