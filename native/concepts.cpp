#include "concepts.h"

#include <math.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

namespace bitmar {
namespace {

constexpr int kWordIds = 6;       // of a concept's word, at most
constexpr float kHeard = 0.15f;   // a concept that scores less is no evidence
constexpr float kSurest = 0.99f;  // log-odds go no farther

const std::string kPrefix = "model.concepts.";

// Whole numbers from -1 (none) up to, but without, `end`.
const int32_t* indices(const Weights& weights, const std::string& name, int count, int end) {
  const auto* found = static_cast<const int32_t*>(weights.find(kPrefix + name, 'w', count).data);
  for (int i = 0; i < count; i++)
    if (found[i] < -1 || found[i] >= end) throw std::invalid_argument("the tensor " + kPrefix + name + " is damaged");
  return found;
}

}  // namespace

void rows_dot(const int8_t* rows, const int8_t* codes, size_t count, size_t width, int32_t* sums) {
  for (size_t i = 0; i < count; i++, rows += width) {
    int32_t sum = 0;
    for (size_t j = 0; j < width; j++) sum += int32_t{rows[j]} * codes[j];
    sums[i] = sum;
  }
}

ConceptBank::ConceptBank(const Weights& weights, const Config& config)
    : count_(config.concepts),
      chosen_(config.concept_tokens),
      dim_(config.vision_dim),
      width_(config.hidden_size),
      evidence_(config.concept_evidence),
      own_(keys(weights, "keys", "bias", config.concept_keys ? config.concept_keys : count_, dim_)),
      classes_(keys(weights, "class_keys", "class_bias", config.concept_classes,
                    config.concept_class_width ? config.concept_class_width : dim_)),
      values_(static_cast<const int8_t*>(weights.find(kPrefix + "values", 'i', int64_t{count_} * width_).data)),
      concept_of_class_(indices(weights, "class_concepts", config.concept_classes, count_)),
      words_(indices(weights, "words", count_ * kWordIds, config.vocab_size)),
      value_scale_(weights.floats(kPrefix + "values.scale", count_)),
      strength_(weights.floats(kPrefix + "strength", width_)),
      offset_(weights.floats(kPrefix + "offset", width_)),
      prior_(weights.floats(kPrefix + "prior", count_)) {
  if (chosen_ > count_ || own_.count > static_cast<size_t>(count_) || classes_.width > static_cast<size_t>(dim_))
    throw std::invalid_argument("the configuration asks for more concepts than the bank has");
}

ConceptBank::Keys ConceptBank::keys(const Weights& weights, const std::string& name, const std::string& bias, int count,
                                    int width) {
  const auto* rows = static_cast<const int8_t*>(weights.find(kPrefix + name, 'i', int64_t{count} * width).data);
  return {rows, static_cast<size_t>(count), static_cast<size_t>(width), weights.floats(kPrefix + name + ".scale", count),
          weights.floats(kPrefix + bias, count)};
}

std::vector<double> ConceptBank::read(const Keys& keys, const Buffer<int8_t>& codes, int dim, float step) {
  std::vector<int32_t> sums(keys.count);
  rows_dot(keys.rows, codes.data() + dim - keys.width, keys.count, keys.width, sums.data());
  std::vector<double> logits(keys.count);
  for (size_t i = 0; i < keys.count; i++) logits[i] = sums[i] * static_cast<double>(keys.scale[i] * step) + keys.bias[i];
  return logits;
}

std::vector<float> ConceptBank::scores(const Kernels& kernels, const Buffer<float>& pooled) const {
  Buffer<int8_t> codes(dim_);
  float step;
  int32_t sum;
  kernels.quantize(pooled.data(), dim_, codes.data(), &step, &sum);
  std::vector<double> found(count_);
  const std::vector<double> own = read(own_, codes, dim_, step);
  std::transform(own.begin(), own.end(), found.begin(), [](double x) { return 1 / (1 + exp(-x)); });
  if (classes_.count > 0) {  // a softmax over the classes of the backbone, added up by the concept that they stand for
    std::vector<double> shares = read(classes_, codes, dim_, step), of_class(count_);
    const double most = *std::max_element(shares.begin(), shares.end());
    for (double& x : shares) x = exp(x - most);
    const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (size_t i = 0; i < shares.size(); i++)
      if (concept_of_class_[i] >= 0) of_class[concept_of_class_[i]] += shares[i] / total;
    for (int i = 0; i < count_; i++) found[i] = std::max(found[i], of_class[i]);
  }
  for (double& x : found)
    if (!isfinite(x)) x = 0;  // features that are not finite show in the vision tokens; here they would only upset the order
  return std::vector<float>(found.begin(), found.end());
}

std::vector<size_t> ConceptBank::best(const std::vector<float>& scores) const {
  std::vector<size_t> order(count_);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(chosen_);
  return order;
}

void ConceptBank::tokens(const std::vector<float>& scores, float* tokens) const {
  for (size_t which : best(scores)) {
    const int8_t* codes = values_ + which * width_;
    for (int i = 0; i < width_; i++) tokens[i] = codes[i] * value_scale_[which] + scores[which] * strength_[i] + offset_[i];
    tokens += width_;
  }
}

// The log-odds of a concept here less its log-odds in any photo: Bayes' rule (Good, 1950).
Evidence ConceptBank::evidence(const std::vector<float>& scores) const {
  Evidence evidence;
  if (evidence_ == 0) return evidence;
  std::set<std::pair<int, int>> known;  // of words with equal beginnings the best one counts
  for (size_t which : best(scores)) {
    const double score = std::min(scores[which], kSurest);
    const double bonus = evidence_ * std::max(log(score / (1 - score)) - prior_[which], 0.0);
    if (scores[which] < kHeard || bonus <= 0) continue;
    const int32_t* word = words_ + which * kWordIds;
    for (int i = 0; i < kWordIds; i++) {
      const int before = i > 0 ? word[i - 1] : -1;
      if (word[i] < 0 || !known.emplace(word[i], before).second) continue;
      evidence.ids.push_back(word[i]);
      evidence.bonus.push_back(static_cast<float>(bonus));
      evidence.after.push_back(before);
    }
  }
  return evidence;
}

}  // namespace bitmar
