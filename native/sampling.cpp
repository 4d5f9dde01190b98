#include "sampling.h"

#include <math.h>

#include <algorithm>
#include <numeric>

namespace bitmar {
namespace {

void penalise(float* scores, const std::vector<uint8_t>& written, float penalty) {
  if (penalty == 1) return;
  for (size_t i = 0; i < written.size(); i++)
    if (written[i]) scores[i] = scores[i] < 0 ? scores[i] * penalty : scores[i] / penalty;
}

void heed(float* scores, const Written& written, const Evidence& evidence) {
  for (size_t i = 0; i < evidence.ids.size(); i++) {
    const int id = evidence.ids[i], after = evidence.after[i];
    if (after < 0 ? !written.seen[id] : after == written.last) scores[id] += evidence.bonus[i];
  }
}

// Brings the places of the k largest to the front of `order` (vocabulary), the largest first, of equal ones the first.
void sort_largest(const float* scores, int vocabulary, int k, int* order) {
  std::iota(order, order + vocabulary, 0);
  const auto before = [scores](int a, int b) { return scores[a] > scores[b] || (scores[a] == scores[b] && a < b); };
  if (k < vocabulary) std::nth_element(order, order + k, order + vocabulary, before);
  std::sort(order, order + k, before);
}

}  // namespace

int choose(const Kernels& kernels, const float* logits, int vocabulary, const Written& written, const Evidence& evidence,
           const Sampling& sampling, double u, SamplingRoom& room) {
  if (sampling.repetition_penalty != 1 || !evidence.ids.empty()) {
    float* scores = room.scores.reserve(vocabulary);
    std::copy_n(logits, vocabulary, scores);
    heed(scores, written, evidence);
    penalise(scores, written.seen, sampling.repetition_penalty);
    logits = scores;
  }
  const int top = kernels.argmax(logits, vocabulary);
  if (sampling.temperature == 0) return top;
  int* order = room.order.reserve(vocabulary);
  int kept = sampling.top_k ? std::min(sampling.top_k, vocabulary) : vocabulary;
  // Where nothing is cut off the vocabulary's own order will do, and nothing need be sorted.
  if (kept < vocabulary || sampling.top_p < 1)
    sort_largest(logits, vocabulary, kept, order);
  else
    std::iota(order, order + vocabulary, 0);
  // The likeliest token's share is e^0, so the sum is at least 1 however small the temperature.
  double* share = room.shares.reserve(vocabulary);
  double sum = 0;
  for (int i = 0; i < kept; i++) {
    const double behind = static_cast<double>(logits[order[i]]) - logits[top];
    sum += share[i] = exp(behind / sampling.temperature);
  }
  // A token stays if the ones before it have not reached top_p yet; the likeliest always does.
  if (sampling.top_p < 1) {
    const int all = kept;
    double before = share[0];
    for (kept = 1; kept < all && before < sampling.top_p * sum; kept++) before += share[kept];
    sum = before;
  }
  double passed = 0;
  for (int i = 0; i < kept; i++) {
    passed += share[i];
    if (u * sum < passed) return order[i];
  }
  return order[kept - 1];
}

void likeliest(const Kernels& kernels, const float* logits, int vocabulary, const Written& written, const Evidence& evidence,
               float penalty, int k, int64_t* ids, float* scores, SamplingRoom& room) {
  float* row = room.scores.reserve(vocabulary);
  int* order = room.order.reserve(vocabulary);
  std::copy_n(logits, vocabulary, row);
  heed(row, written, evidence);
  const double total = kernels.log_total(row, vocabulary);
  for (int i = 0; i < vocabulary; i++) row[i] = static_cast<float>(row[i] - total);
  penalise(row, written.seen, penalty);
  sort_largest(row, vocabulary, k, order);
  for (int i = 0; i < k; i++) ids[i] = order[i], scores[i] = row[order[i]];
}

}  // namespace bitmar
