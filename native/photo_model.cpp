#include "photo_model.h"

#include <math.h>

#include <utility>

#include "read_config.h"

namespace bitmar {
namespace {

Config config_of(const ModelFile& file) {
  Config config = read_config(file.config);
  const std::string tower = file.vision.get<std::string>("tower");
  if (tower == "features") throw std::invalid_argument("this model has no vision tower: take one that sees photos by itself");
  if (tower != "bitvit" && tower != "conv") throw std::invalid_argument("its tower runs under Python alone: use `bitmar caption`");
  for (int n : {config.vocab_size, config.hidden_size, config.num_heads, config.vision_dim, config.vision_grid, config.vision_pool})
    if (n < 1) throw std::invalid_argument("its configuration has a size below 1");
  if (tower == "bitvit") config.has_tower = true, config.tower = read_tower_config(file.config.at("vision_tower"));
  return config;
}

}  // namespace

PhotoModel::PhotoModel(const ModelFile& file, const Kernels& kernels)
    : file_(file),
      model(std::make_shared<const Model>(kernels, config_of(file_), file_.weights)),
      size(file_.vision.get<int>("size")),
      begin(file_.config.get<int>("bos_token_id")),
      end(file_.config.get<int>("eos_token_id")) {
  const Config& config = model->config;
  if (begin < 0 || begin >= config.vocab_size) throw std::invalid_argument("its begin token lies outside the vocabulary");
  if (config.concepts > 0) concepts_ = std::make_unique<const ConceptBank>(file_.weights, config);
  if (config.has_tower) {
    if (config.tower.image_size != size) throw std::invalid_argument("its tower does not fit the rest of it");
    return;
  }
  tower_ = std::make_unique<const ConvTower>(kernels, read_conv_tower_config(file_.config.at("vision_tower")), file_.weights);
  if (tower_->image_size() != size || tower_->grid() != config.vision_grid || tower_->dim() != config.vision_dim)
    throw std::invalid_argument("its tower does not fit the rest of it");
}

// Patch features (grid^2, D_v).
Buffer<float> PhotoModel::features(const uint8_t* photo) const {
  const Config& config = model->config;
  Buffer<float> features(size_t{1} * config.vision_grid * config.vision_grid * config.vision_dim);
  if (tower_) {
    (*tower_)(photo, features.data());
    return features;
  }
  const size_t area = static_cast<size_t>(size) * size;
  Buffer<float> pixels(3 * area);  // (3, S, S), normalised
  for (size_t color = 0; color < 3; color++) {
    const auto mean = static_cast<float>(file_.vision.list("mean").at(color).number());
    const auto std = static_cast<float>(file_.vision.list("std").at(color).number());
    for (size_t i = 0; i < area; i++) pixels[color * area + i] = (static_cast<float>(photo[i * 3 + color]) / 255.0f - mean) / std;
  }
  model->tower(pixels.data(), features.data());
  return features;
}

Seen PhotoModel::see(const uint8_t* photo) const {
  const Config& config = model->config;
  const Buffer<float> patches = features(photo);
  const size_t dim = config.vision_dim, rest = size_t{1} * config.patch_tokens() * config.hidden_size;
  Buffer<float> tokens(size_t{1} * config.vision_tokens() * config.hidden_size);
  model->project(patches.data(), tokens.data());
  Seen seen{nullptr, Buffer<float>(dim), {}};
  for (size_t i = 0; i < patches.size(); i++) seen.pooled[i % dim] += patches[i];
  for (size_t i = 0; i < dim; i++) seen.pooled[i] /= static_cast<float>(patches.size() / dim);
  Evidence evidence;
  if (concepts_) {
    seen.scores = concepts_->scores(model->kernels, seen.pooled);
    concepts_->tokens(seen.scores, tokens.data() + rest);
    evidence = concepts_->evidence(seen.scores);
  }
  for (size_t i = 0; i < tokens.size(); i++)
    if (!isfinite(tokens[i])) throw NotFinite();
  seen.image = model->image(tokens.data(), std::move(evidence));
  return seen;
}

int PhotoModel::next(State& state) const {
  return choose(model->kernels, state.logits(), model->config.vocab_size, state.written(0), state.evidence(), {}, 0, state.sampling_room());
}

}  // namespace bitmar
