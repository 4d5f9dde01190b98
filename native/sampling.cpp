#include "sampling.h"

#include <math.h>

#include <algorithm>
#include <numeric>

namespace bitmar {

void penalise(float* logits, const std::vector<uint8_t>& written, float penalty) {
  if (penalty == 1) return;
  for (size_t i = 0; i < written.size(); i++)
    if (written[i]) logits[i] = logits[i] < 0 ? logits[i] * penalty : logits[i] / penalty;
}

std::vector<int> largest(const float* logits, int vocabulary, int k) {
  std::vector<int> order(vocabulary);
  std::iota(order.begin(), order.end(), 0);
  const auto before = [logits](int a, int b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); };
  std::nth_element(order.begin(), order.begin() + (k - 1), order.end(), before);
  order.resize(k);
  std::sort(order.begin(), order.end(), before);
  return order;
}

int draw(const float* logits, int vocabulary, const Sampling& sampling, double u) {
  std::vector<float> scaled(logits, logits + vocabulary);
  for (float& x : scaled) x /= sampling.temperature;
  // Where nothing is cut off the vocabulary's own order will do, and nothing need be sorted.
  std::vector<int> order;
  if (sampling.top_k || sampling.top_p < 1) {
    order = largest(scaled.data(), vocabulary, sampling.top_k ? std::min(sampling.top_k, vocabulary) : vocabulary);
  } else {
    order.resize(vocabulary);
    std::iota(order.begin(), order.end(), 0);
  }
  const double most = *std::max_element(scaled.begin(), scaled.end());
  std::vector<double> share(order.size());
  double sum = 0;
  for (size_t i = 0; i < order.size(); i++) sum += share[i] = exp(scaled[order[i]] - most);
  // A token stays if the ones before it have not reached top_p yet; the likeliest always does.
  size_t kept = order.size();
  if (sampling.top_p < 1) {
    double before = 0;
    for (kept = 0; kept < order.size() && before < sampling.top_p * sum; kept++) before += share[kept];
    sum = before;
  }
  double passed = 0;
  for (size_t i = 0; i < kept; i++) {
    passed += share[i];
    if (u * sum < passed) return order[i];
  }
  return order[kept - 1];
}

}  // namespace bitmar
