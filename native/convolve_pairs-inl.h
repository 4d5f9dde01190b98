// Convolutions by products of 16-bit pairs. Part of convolve-inl.h, so everything in it holds here.
//
// Bytes are widened before they are multiplied, not between: a piece of the map once for all outputs, the weights of sixteen
// outputs once for all windows of the piece. In between there is nothing but loads, products and sums.
#pragma once

constexpr uint32_t kFlip = 0;  // bytes are taken as they are

typedef int16_t Shorts __attribute__((vector_size(32)));

// Sixteen bytes.
template <typename T>
BITMAR_INLINE Shorts widen_shorts(const T* p) {
  typedef T Bytes __attribute__((vector_size(16)));
  Bytes x;
  memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, Shorts);
}

BITMAR_INLINE void widen_map(const uint8_t* x, size_t n, int16_t* wide) {
  for (size_t i = 0; i < n; i += 16) {
    const Shorts y = widen_shorts(x + i);
    memcpy(wide + i, &y, sizeof y);
  }
}

// Calls f of an N for n, which is at most MOST: what depends on it is then fixed when compiled.
template <int N>
struct Number {
  static constexpr int value = N;
};
template <int MOST, typename F>
BITMAR_INLINE void with_number(int n, const F& f) {
  if (n == MOST) return f(Number<MOST>{});
  if constexpr (MOST > 1) with_number<MOST - 1>(n, f);
}

// Cuts n into groups of at most kConvWindows that are as equal as can be and calls f(first, number) of each.
template <typename F>
BITMAR_INLINE void for_groups(int n, const F& f) {
  for (int first = 0; first < n;) {
    const int groups = (n - first + kConvWindows - 1) / kConvWindows, now = (n - first + groups - 1) / groups;
    with_number<kConvWindows>(now, [&](auto number) __attribute__((always_inline)) { f(first, number); });
    first += now;
  }
}

// Adds the products of a run of pairs of weights, 16 outputs each, with some runs of a widened map.
template <int WINDOWS>
BITMAR_INLINE void multiply_runs(const int16_t* weights, const int16_t* const (&x)[WINDOWS], size_t offset, int pairs,
                                 Sum (&sums)[WINDOWS]) {
#pragma GCC unroll 2
  for (int i = 0; i < pairs; i++) {
    const Pairs w = load_pairs(weights + (size_t)i * 32);
#pragma GCC unroll 8
    for (int p = 0; p < WINDOWS; p++) {
      int32_t pair;
      memcpy(&pair, x[p] + offset + 2 * (size_t)i, sizeof pair);
      sums[p] = add_pairs(sums[p], w, pair);
    }
  }
}

// Where a window of a piece and its outputs lie.
struct Place {
  const int16_t* x;
  uint8_t* y;
};

// Goes from window to window through the rows of a piece.
struct Walk {
  int channels;
  Windows windows;
  size_t y_row;
  Place row, now;
  int column;

  inline __attribute__((always_inline)) Place next() {
    const Place here = now;
    now.x += windows.step, now.y += channels;
    if (++column == windows.count) {
      column = 0;
      row.x += windows.down, row.y += y_row;
      now = row;
    }
    return here;
  }
};

template <int WINDOWS>
BITMAR_INLINE void convolve_some(const ConvView& w, int first, const int16_t* weights, const Finish& finish, Walk* walk) {
  uint8_t* y[WINDOWS];
  const int16_t* x[WINDOWS];
  Sum sums[WINDOWS];
#pragma GCC unroll 8
  for (int p = 0; p < WINDOWS; p++) {
    const Place place = walk->next();
    x[p] = place.x, y[p] = place.y + first, sums[p] = zero();
  }
  for (int r = 0; r < w.rows; r++)
    multiply_runs(weights + (size_t)r * w.row_lines * 64, x, r * walk->windows.row, 2 * w.row_lines, sums);
#pragma GCC unroll 8
  for (int p = 0; p < WINDOWS; p++) finish(ints(sums[p]), y[p]);
}

static void convolve(const ConvView& w, const Windows& windows, uint8_t* y, size_t y_row, void* scratch) {
  const int lines = w.rows * w.row_lines, most = piece_rows(windows);
  int16_t* weights = (int16_t*)scratch;
  int16_t* wide = weights + (size_t)lines * 64;
  for (int row = 0; row < windows.rows; row += most) {
    const int rows = windows.rows - row < most ? windows.rows - row : most;
    widen_map(windows.x + row * windows.down, piece_bytes(w, windows, rows), wide);
    const Place begin = {wide, y + row * y_row};
    const int8_t* line = w.lines;
    for (int first = 0; first < w.channels; first += 16) {
      for (int i = 0; i < lines; i++, line += 64) {
        store(half_line<0>(line), weights + (size_t)i * 64);
        store(half_line<1>(line), weights + (size_t)i * 64 + 32);
      }
      const Finish finish(w, first);
      Walk walk{w.channels, windows, y_row, begin, begin, 0};
      for_groups(rows * windows.count, [&](int, auto number) __attribute__((always_inline)) {
        convolve_some<decltype(number)::value>(w, first, weights, finish, &walk);
      });
    }
  }
}

// Kernels of unusual sizes, one window at a time.
BITMAR_INLINE Sum sum_window(const DepthwiseView& w, const uint8_t* x, size_t row, const int16_t* weights) {
  Sum sum = zero();
  for (int r = 0; r < w.kernel; r += 2, x += 2 * row)
    for (int c = 0; c < w.kernel; c++, weights += 32) {
      const uint8_t* a = x + (size_t)c * w.channels;
      sum = add_products(sum, r + 1 < w.kernel ? interleave(a, a + row) : alone(a), load_pairs(weights));
    }
  return sum;
}

// Neighbours together: they share columns. ROWS: two, or the last.
template <int KERNEL, int STRIDE, int ROWS, int WINDOWS>
BITMAR_INLINE void add_rows(const uint8_t* x, size_t channels, size_t row, const int16_t* weights, Sum (&sums)[WINDOWS]) {
#pragma GCC unroll 16
  for (int c = 0; c < (WINDOWS - 1) * STRIDE + KERNEL; c++, x += channels) {
    const Pairs column = ROWS == 2 ? interleave(x, x + row) : alone(x);
#pragma GCC unroll 8
    for (int p = 0; p < WINDOWS; p++)
      if (c >= p * STRIDE && c < p * STRIDE + KERNEL)
        sums[p] = add_products(sums[p], column, load_pairs(weights + 32 * (c - p * STRIDE)));
  }
}

template <int KERNEL, int STRIDE>
BITMAR_INLINE void depthwise_rows(const DepthwiseView& w, const Windows& windows, int first, const int16_t* weights, uint8_t* y,
                                  size_t y_row) {
  constexpr int kTogether = 4;
  const Finish finish(w, first);
  const size_t channels = w.channels, step = windows.step, in_row = windows.row;
  const int count = windows.count;
  for (int row = 0; row < windows.rows; row++) {
    const uint8_t* x = windows.x + row * windows.down + first;
    uint8_t* to = y + row * y_row + first;
    if (KERNEL == 0 || count < kTogether) {
      for (int p = 0; p < count; p++) finish(ints(sum_window(w, x + p * step, in_row, weights)), to + p * channels);
    } else if constexpr (KERNEL > 0) {
      // Where their number does not come out even, the last begin earlier and compute some again.
      for (int p = 0; p < count; p += kTogether) {
        const int begin = p + kTogether <= count ? p : count - kTogether;
        const uint8_t* from = x + begin * step;
        Sum sums[kTogether];
#pragma GCC unroll 8
        for (int k = 0; k < kTogether; k++) sums[k] = zero();
#pragma GCC unroll 4
        for (int r = 0; r + 1 < KERNEL; r += 2)
          add_rows<KERNEL, STRIDE, 2>(from + r * in_row, channels, in_row, weights + r / 2 * KERNEL * 32, sums);
        add_rows<KERNEL, STRIDE, 1>(from + (KERNEL - 1) * in_row, channels, in_row, weights + KERNEL / 2 * KERNEL * 32, sums);
#pragma GCC unroll 8
        for (int k = 0; k < kTogether; k++) finish(ints(sums[k]), to + (begin + k) * channels);
      }
    }
  }
}

static void depthwise(const DepthwiseView& w, const Windows& windows, uint8_t* y, size_t y_row, void* scratch) {
  constexpr int kRows = 8;  // at a time: their channels, sixteen after sixteen, come from the same cache lines
  int16_t* weights = (int16_t*)scratch;
  const size_t stride = windows.step / w.channels;
  alignas(64) static const int8_t none[16] = {};
  for (int row = 0; row < windows.rows; row += kRows) {
    Windows some = windows;
    some.x += row * windows.down;
    some.rows = windows.rows - row < kRows ? windows.rows - row : kRows;
    uint8_t* to = y + row * y_row;
    for (int first = 0; first < w.channels; first += 16) {
      int16_t* next = weights;
      for (int r = 0; r < w.kernel; r += 2)
        for (int c = 0; c < w.kernel; c++, next += 32) {
          const int8_t* a = w.weights + (size_t)(r * w.kernel + c) * w.padded_channels + first;
          store(interleave(a, r + 1 < w.kernel ? a + (size_t)w.kernel * w.padded_channels : none), next);
        }
      if (w.kernel == 3 && stride == 1)
        depthwise_rows<3, 1>(w, some, first, weights, to, y_row);
      else if (w.kernel == 3 && stride == 2)
        depthwise_rows<3, 2>(w, some, first, weights, to, y_row);
      else if (w.kernel == 5 && stride == 1)
        depthwise_rows<5, 1>(w, some, first, weights, to, y_row);
      else if (w.kernel == 5 && stride == 2)
        depthwise_rows<5, 2>(w, some, first, weights, to, y_row);
      else
        depthwise_rows<0, 0>(w, some, first, weights, to, y_row);
    }
  }
}
