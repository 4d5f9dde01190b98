// Choosing the next token from logits, by the rules of bitmar.runtime.generate.
#pragma once

#include <stdint.h>

#include <vector>

namespace bitmar {

struct Sampling {
  float temperature = 0;  // 0: the likeliest
  int top_k = 0;          // 0: all
  double top_p = 1;
  float repetition_penalty = 1;
};

// Lowers the logits (vocabulary) of the tokens marked in `written` (arXiv 1909.05858).
void penalise(float* logits, const std::vector<uint8_t>& written, float penalty);

// The token where the cumulated probability passes u in [0, 1).
int draw(const float* logits, int vocabulary, const Sampling& sampling, double u);

// The k largest, the largest first, of equal ones the first. k <= vocabulary.
std::vector<int> largest(const float* logits, int vocabulary, int k);

}  // namespace bitmar
