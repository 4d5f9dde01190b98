// The concept bank: the words that a photo's features speak for, as vision tokens. The oracle is bitmar.runtime.concepts.
#pragma once

#include <vector>

#include "config.h"
#include "sampling.h"
#include "weights.h"

namespace bitmar {

// Integer products of int8 rows (count, width) and codes (width): sums (count).
void rows_dot(const int8_t* rows, const int8_t* codes, size_t count, size_t width, int32_t* sums);

// K concepts found in the mean patch feature. The weights must outlive it.
class ConceptBank {
 public:
  ConceptBank(const Weights& weights, const Config& config);

  // Mean patch feature (D_v) -> the score of every concept, in [0, 1], (K).
  std::vector<float> scores(const Kernels& kernels, const Buffer<float>& pooled) const;

  // The vision tokens of the best concepts, best first: (concept_tokens, d).
  void tokens(const std::vector<float>& scores, float* tokens) const;

  // The tokens that the best concepts speak for, and by how much.
  Evidence evidence(const std::vector<float>& scores) const;

 private:
  // int8 rows that the last `width` codes of the feature are multiplied with.
  struct Keys {
    const int8_t* rows;
    size_t count, width;
    Buffer<float> scale, bias;
  };

  static Keys keys(const Weights& weights, const std::string& name, const std::string& bias, int count, int width);
  static std::vector<double> read(const Keys& keys, const Buffer<int8_t>& codes, int dim, float step);
  std::vector<size_t> best(const std::vector<float>& scores) const;

  int count_, chosen_, dim_, width_;
  double evidence_;
  Keys own_, classes_;
  const int8_t* values_;
  const int32_t* concept_of_class_;  // -1: none
  const int32_t* words_;             // (K, kWordIds): token ids, -1: no more
  Buffer<float> value_scale_, strength_, offset_, prior_;
};

}  // namespace bitmar
