#include "linear.h"

#include <string.h>

#include <stdexcept>

namespace bitmar {

Linear Linear::ternary(const uint8_t* packed, int rows, int columns, float scale) {
  return ternary(packed, rows, columns, scale, nullptr);
}

Linear Linear::ternary(const uint8_t* packed, int rows, int columns, float scale, const int* order) {
  if (columns > 65536) throw std::invalid_argument("a matrix has more than 65,536 columns: its sums would overflow");
  Linear linear;
  linear.rows_ = rows, linear.columns_ = columns, linear.scale_ = scale;
  linear.padded_columns_ = round_up(columns, kColumnUnit);
  const size_t groups = linear.padded_columns_ / 4, row_bytes = (columns + 3) / 4;
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  linear.codes_ = Buffer<uint8_t>(tiles * groups * 64);
  memset(linear.codes_.data(), 0x55, tiles * groups * 64);  // weight 0 everywhere, for the padding
  for (int row = 0; row < rows; row++) {
    const uint8_t* in = packed + row * row_bytes;
    const int lane = row % 16, shift = 2 * (row % kTileRows / 16);
    uint8_t* tile = linear.codes_.data() + row / kTileRows * groups * 64 + 4 * lane;
    for (int column = 0; column < columns; column++) {
      const int source = order ? order[column] : column;
      const uint8_t code = in[source / 4] >> 2 * (source % 4) & 3;
      uint8_t& out = tile[column / 4 * 64 + column % 4];
      out = static_cast<uint8_t>((out & ~(3 << shift)) | code << shift);
    }
  }
  return linear;
}

Linear Linear::dense(const float* weights, int rows, int columns) {
  Linear linear;
  linear.ternary_ = false, linear.rows_ = rows, linear.columns_ = columns;
  linear.padded_rows_ = round_up(rows, kLanes);
  linear.weights_ = Buffer<float>(static_cast<size_t>(columns) * linear.padded_rows_);
  for (int row = 0; row < rows; row++)
    for (int column = 0; column < columns; column++)
      linear.weights_[static_cast<size_t>(column) * linear.padded_rows_ + row] =
          weights[static_cast<size_t>(row) * columns + column];
  return linear;
}

void Linear::operator()(const Kernels& kernels, const float* x, int tokens, float* y, Workspace& work) const {
  if (!ternary_) {
    kernels.dense({weights_.data(), rows_, columns_, padded_rows_}, x, columns_, tokens, y, rows_);
    return;
  }
  int8_t* codes = work.codes.reserve(static_cast<size_t>(tokens) * padded_columns_);
  float* scales = work.scales.reserve(tokens);
  int32_t* sums = work.sums.reserve(tokens);
  for (int t = 0; t < tokens; t++) {
    int8_t* row = codes + static_cast<size_t>(t) * padded_columns_;
    kernels.quantize(x + static_cast<size_t>(t) * columns_, columns_, row, scales + t, sums + t);
    memset(row + columns_, 0, padded_columns_ - columns_);
  }
  from_codes(kernels, codes, scales, sums, tokens, y);
}

void Linear::from_codes(const Kernels& kernels, const int8_t* codes, const float* scales, const int32_t* sums, int tokens,
                        float* y) const {
  kernels.ternary(view(), codes, scales, sums, tokens, y, rows_);
}

}  // namespace bitmar
