// y = W x for one matrix of the file, ternary or float.
#pragma once

#include "buffer.h"
#include "kernels.h"

namespace bitmar {

// What a forward needs between its layers. One per sequence state, so that threads never meet; grown once, then kept.
struct Workspace {
  Buffer<int8_t> codes;
  Buffer<float> scales;
  Buffer<int32_t> sums;
  Buffer<char> attention;
  Buffer<float> means;  // of the memory's queries
};

class Linear {
 public:
  Linear() = default;

  // packed: (rows, ceil(columns / 4)) as in the file, four weights a byte along a row.
  static Linear ternary(const uint8_t* packed, int rows, int columns, float scale);

  // The same with the columns rearranged: column j of the kernel layout is column order[j] of the file.
  static Linear ternary(const uint8_t* packed, int rows, int columns, float scale, const int* order);

  static Linear dense(const float* weights, int rows, int columns);

  int rows() const { return rows_; }
  int columns() const { return columns_; }
  bool is_ternary() const { return ternary_; }
  size_t bytes() const { return codes_.size() + weights_.size() * sizeof(float); }
  size_t weights() const { return static_cast<size_t>(rows_) * columns_; }
  TernaryView view() const { return {codes_.data(), rows_, padded_columns_, scale_}; }

  // x (tokens, columns) -> y (tokens, rows). A ternary matrix reads x as int8, one scale per token.
  void operator()(const Kernels& kernels, const float* x, int tokens, float* y, Workspace& work) const;

  // From integers that share one scale: codes (tokens, padded columns), padding 0.
  void from_codes(const Kernels& kernels, const int8_t* codes, const float* scales, const int32_t* sums, int tokens,
                  float* y) const;
  int padded_columns() const { return padded_columns_; }

 private:
  bool ternary_ = true;
  int rows_ = 0, columns_ = 0, padded_columns_ = 0, padded_rows_ = 0;
  float scale_ = 0;
  Buffer<uint8_t> codes_;
  Buffer<float> weights_;
};

}  // namespace bitmar
