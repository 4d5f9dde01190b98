// The kernels that every layer is made of, as a table with one entry per operation.
//
// Each instruction set fills a table of its own (avx512.cpp, avx2.cpp, neon.cpp, ..., portable.cpp); dispatch.cpp picks
// one. Sums of products are integers, and the float steps around them keep one order of operations over 16 lanes
// without fused multiply-adds, so all tables give the same bits.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bitmar {

constexpr int kTileRows = 64;      // rows of a weight tile
constexpr int kColumnUnit = 16;    // columns are padded to a multiple of this
constexpr int kLanes = 16;         // floats of a vector, tokens of a key block
constexpr int kMostQueries = 16;   // that go over keys together
constexpr int kQueryRange = 4095;  // largest |integer| of queries and of int16 keys and values: 4095^2 * 128 < 2^31

// A ternary matrix in the kernels' layout ("T64x4"): for each tile of 64 rows a run of 64-byte lines, one per 4 columns.
// Byte 4 r + j of a line holds column j of the rows r, r + 16, r + 32 and r + 48, two bits each, as weight + 1.
struct TernaryView {
  const uint8_t* codes;  // 64-byte aligned, (padded_rows / 64) * (padded_columns / 4) lines
  int rows, padded_columns;
  float scale;
};

// A float matrix, transposed and padded: (columns, padded_rows), padded_rows a multiple of 16.
struct FloatView {
  const float* weights;
  int rows, columns, padded_rows;
};

// The keys and values of one layer, or the slots of a memory: integers with one scale per token and head.
//   keys   [head][token / 16][head_dim / 2][token % 16][2]
//   values [head][token / 2][padded head_dim][token % 2]
// A token's 2 neighbouring numbers meet in one 32-bit lane, so no sum is ever taken across lanes.
struct KeyValueView {
  void* keys;
  void* values;
  float* key_scale;               // (heads, capacity)
  float* value_scale;             // (heads, capacity)
  int heads, head_dim, capacity;  // head_dim even, capacity a multiple of 16
  bool int16;                     // of range 4095, instead of int8 of range 127

  int padded_dim() const { return (head_dim + kLanes - 1) / kLanes * kLanes; }
};

// Queries that read one view. Each is as if it came alone: the grouping changes no bit.
struct Queries {
  const float* q;  // (count, heads, head_dim), `stride` floats from one to the next
  size_t stride;
  int count;
  int tokens;           // the first N of the view are visible to the first query
  int step;             // and this many more to each query than to the one before
  float scale;          // of the products, before the softmax
  const float* bias;    // (tokens), added after scaling; null: none
  const float* sink_q;  // as q, turned for the first `sinks` tokens; null: as q
  int sinks;
};

// How sums become steps of the next map: cut to [low, high] around `zero`, ties to even.
struct Steps {
  float low, high;  // less zero
  int zero;
};

// The kernels of a convolution over uint8 maps, in lines of 64 bytes: byte 4 r + j of a line holds, of output r of a block
// of 16, the weight for byte j of four that lie together in a row of the window.
struct ConvView {
  const int8_t* lines;   // (blocks, rows of the window, lines of a row, 64), 64-byte aligned
  const int32_t* start;  // (blocks, 16): what the sums begin with
  const float* factor;   // (blocks, 16): steps of the next map per unit of a sum
  int channels, rows, row_lines;
  Steps steps;
};

// 3x3 kernels, one step from window to window, for Winograd's minimal filtering F(2x2, 3x3) (arXiv 1509.09308).
struct WinogradView {
  const int8_t* weights;  // (blocks, 3, 3, pairs of inputs, 16 outputs, 2)
  const int32_t* start;   // as in ConvView
  const float* factor;
  int channels, inputs;
  Steps steps;
};

constexpr int kWinogradInputs = 192;  // at most: 9 sums of 4 * 255 times 9 * 128, so many times, stay below 2^31

// One kernel a channel.
struct DepthwiseView {
  const int8_t* weights;  // (kernel, kernel, padded channels)
  const int32_t* start;   // (padded channels)
  const float* factor;
  int channels, padded_channels, kernel;
  Steps steps;
};

// The windows of a map: the first byte of the first, bytes from one to the next in a row of windows, from a window's row to
// its next and from a row of windows to the next.
struct Windows {
  const uint8_t* x;
  size_t step, row, down;
  int count, rows;  // of a row, and rows
};

struct Kernels {
  const char* name;
  bool flipped;  // the sums of `convolve` must begin with 128 times the weights more: the bytes are taken less 128

  // y (rows, count, channels), y_row bytes from row to row: the convolution at some windows. Up to 64 bytes past a window may
  // be read. scratch: as many bytes as the functions below say, 64-aligned.
  void (*convolve)(const ConvView& w, const Windows& windows, uint8_t* y, size_t y_row, void* scratch);
  void (*depthwise)(const DepthwiseView& w, const Windows& windows, uint8_t* y, size_t y_row, void* scratch);
  // The same of at least 2 rows of 2 windows; null where it would not be faster.
  void (*winograd)(const WinogradView& w, const Windows& windows, uint8_t* y, size_t y_row, void* scratch);

  // y = (a - a_zero) * a_factor + (b - b_zero) * b_factor over n bytes.
  void (*add_maps)(const uint8_t* a, int a_zero, float a_factor, const uint8_t* b, int b_zero, float b_factor, int n,
                   const Steps& steps, uint8_t* y);

  // One row to int8 by its max-abs (arXiv 2402.17764): codes in [-127, 127], their sum, and the scale. Of a row that holds
  // NaN or an infinity the scale is none either, so that what is computed from it shows.
  void (*quantize)(const float* x, int n, int8_t* codes, float* scale, int32_t* sum);

  // y (tokens, rows) with y_stride floats between tokens, from codes (tokens, padded_columns) whose padding is 0.
  // 64 bytes after the codes may be read.
  void (*ternary)(const TernaryView& w, const int8_t* codes, const float* scales, const int32_t* sums, int tokens, float* y,
                  size_t y_stride);

  // The bare integer sums of `ternary`, for tests: (tokens, rows).
  void (*ternary_sums)(const TernaryView& w, const int8_t* codes, int tokens, int32_t* y);

  void (*dense)(const FloatView& w, const float* x, size_t x_stride, int tokens, float* y, size_t y_stride);

  // x / sqrt(mean x^2 + eps) * gain (arXiv 1910.07467).
  void (*rms_norm)(const float* x, const float* gain, float eps, int n, float* y);

  // Quantises one token's key and value (heads * head_dim each) into a place of the view.
  void (*store)(const KeyValueView& kv, int place, const float* key, const float* value);

  // out (count, heads, head_dim), out_stride floats from one to the next, = softmax(scale q k + bias) v.
  // scratch: attend_scratch(kv) bytes, 64-aligned.
  void (*attend)(const KeyValueView& kv, const Queries& queries, float* out, size_t out_stride, void* scratch);

  void (*add)(float* x, const float* y, float factor, int n);  // x += factor * y
  void (*relu)(float* x, int power, int n);                    // max(x, 0), or its square

  int (*argmax)(const float* x, int n);  // the first of the largest; 0 if none is a number

  double (*log_total)(const float* x, int n);  // log sum exp x

  bool (*finite)(const float* x, size_t n);  // whether all are numbers below infinity

  float (*read_all)(const float* x, size_t n);  // reads, as fast as it can: what memory can give (the result is a maximum)
};

// Places of a row of scratch: whole cache lines, and not so that all rows fall on the same ones.
inline size_t scratch_stride(const KeyValueView& kv) { return (static_cast<size_t>(kv.capacity) + 63) / 64 * 64 + 64; }

// Scores and weights of kMostQueries queries, the weights once more as bytes, and the rearranged keys and values of a head.
inline size_t attend_scratch(const KeyValueView& kv) {
  return scratch_stride(kv) * (kMostQueries * (sizeof(float) + 2 * sizeof(int16_t)) + 2 * (kv.head_dim + 64));
}

constexpr size_t kPieceBytes = 64 << 10;  // of a map that `convolve` widens at a time: twice that fits the second cache

// Rows of windows that `convolve` takes at a time.
inline int piece_rows(const Windows& windows) {
  const size_t rows = windows.down ? kPieceBytes / windows.down : 1;
  return rows < 1 ? 1 : rows < static_cast<size_t>(windows.rows) ? static_cast<int>(rows) : windows.rows;
}

// Bytes of a map from the first to the last that some rows of windows see.
inline size_t piece_bytes(const ConvView& w, const Windows& windows, int rows) {
  return (rows - 1) * windows.down + (w.rows - 1) * windows.row + (windows.count - 1) * windows.step + w.row_lines * size_t{4};
}

// The weights of a block and a piece of the map, both as 16 bits.
inline size_t convolve_scratch(const ConvView& w, const Windows& windows) {
  return size_t{2} * w.rows * w.row_lines * 64 + 2 * (piece_bytes(w, windows, piece_rows(windows)) + 64);
}

// The weights of 16 channels, in pairs of rows.
inline size_t depthwise_scratch(const DepthwiseView& w) { return size_t{64} * ((w.kernel + 1) / 2) * w.kernel; }

// Of 16 places each: the weights, a row of tiles by inputs, and what these become, by 16 outputs.
inline size_t winograd_scratch(const WinogradView& w, const Windows& windows) {
  const size_t weights = size_t{64} * ((w.channels + 15) / 16) * ((w.inputs + 1) / 2);
  const size_t tiles = size_t{1} * ((windows.count + 1) / 2) * ((w.inputs + 15) / 16 * 32 + 64);
  return 16 * (weights + tiles);
}

const Kernels& portable_kernels();
#if defined(BITMAR_HAS_AVX2)
const Kernels& avx2_kernels();
#endif
#if defined(BITMAR_HAS_AVXVNNI)
const Kernels& avxvnni_kernels();
#endif
#if defined(BITMAR_HAS_AVX512)
const Kernels& avx512_kernels();
#endif
#if defined(BITMAR_HAS_AMX)
const Kernels& amx_kernels();
#endif
#if defined(BITMAR_HAS_NEON)
const Kernels& neon_kernels();
#endif
#if defined(BITMAR_HAS_NEON_DOTPROD)
const Kernels& neon_dotprod_kernels();
#endif
#if defined(BITMAR_HAS_SIMD128)
const Kernels& simd128_kernels();
#endif

}  // namespace bitmar
