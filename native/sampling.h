// Choosing the next token from logits, by the rules of bitmar.runtime.generate.
#pragma once

#include <stdint.h>

#include <vector>

#include "buffer.h"
#include "kernels.h"

namespace bitmar {

struct Sampling {
  double temperature = 0;  // 0: the likeliest
  int top_k = 0;           // 0: all
  double top_p = 1;
  float repetition_penalty = 1;
};

// What an image speaks for: tokens whose logits it raises, the first of a word until it has been written, the others right
// after the token before them (`after`; -1 for a first one).
struct Evidence {
  std::vector<int> ids;
  std::vector<float> bonus;
  std::vector<int> after;
};

// What a sequence has read: whether each token of the vocabulary is among it, and the last one.
struct Written {
  std::vector<uint8_t> seen;
  int last = -1;
};

// What choosing needs besides the logits, kept from token to token so that none of them allocates.
struct SamplingRoom {
  Buffer<float> scores;
  Buffer<int> order;
  Buffer<double> shares;
};

// The next token from finite logits (vocabulary): the likeliest, or where the cumulated probability passes u in [0, 1).
// written: the tokens whose logits the penalty lowers (arXiv 1909.05858).
int choose(const Kernels& kernels, const float* logits, int vocabulary, const Written& written, const Evidence& evidence,
           const Sampling& sampling, double u, SamplingRoom& room);

// The k likeliest tokens, the likeliest first, of equal ones the first, with their penalised log-probabilities.
// 1 <= k <= vocabulary.
void likeliest(const Kernels& kernels, const float* logits, int vocabulary, const Written& written, const Evidence& evidence,
               float penalty, int k, int64_t* ids, float* scores, SamplingRoom& room);

}  // namespace bitmar
