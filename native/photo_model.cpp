#include "photo_model.h"

#include "read_config.h"

namespace bitmar {
namespace {

Config config_of(const ModelFile& file) {
  Config config = read_config(file.config);
  const std::string tower = file.vision.get<std::string>("tower");
  if (tower == "features") throw std::invalid_argument("this model has no vision tower: take one that sees photos by itself");
  if (tower != "bitvit" && tower != "conv")
    throw std::invalid_argument("its tower runs under Python alone: use `bitmar caption`");
  for (int n :
       {config.vocab_size, config.hidden_size, config.num_heads, config.vision_dim, config.vision_grid, config.vision_pool})
    if (n < 1) throw std::invalid_argument("its configuration has a size below 1");
  if (tower == "conv") return config;
  config.has_tower = true, config.tower = read_tower_config(file.config.at("vision_tower"));
  for (size_t color = 0; color < 3; color++) {
    config.tower.mean[color] = static_cast<float>(file.vision.list("mean").at(color).number());
    config.tower.std[color] = static_cast<float>(file.vision.list("std").at(color).number());
  }
  return config;
}

std::shared_ptr<const Model> model_of(const ModelFile& file, const Kernels& kernels) {
  const Config config = config_of(file);
  std::shared_ptr<const ConvTower> tower;
  if (!config.has_tower)
    tower = std::make_shared<const ConvTower>(kernels, read_conv_tower_config(file.config.at("vision_tower")), file.weights);
  return std::make_shared<const Model>(kernels, config, file.weights, tower);
}

}  // namespace

PhotoModel::PhotoModel(const ModelFile& file, const Kernels& kernels)
    : model(model_of(file, kernels)),
      size(file.vision.get<int>("size")),
      begin(file.config.get<int>("bos_token_id")),
      end(file.config.get<int>("eos_token_id")) {
  if (begin < 0 || begin >= model->config.vocab_size) throw std::invalid_argument("its begin token lies outside the vocabulary");
  if (model->image_size() != size) throw std::invalid_argument("its tower does not fit the rest of it");
}

std::shared_ptr<const Image> PhotoModel::see(const uint8_t* photo) const {
  const std::shared_ptr<const Image> image = model->see(photo);
  if (!model->kernels.finite(image->tokens.data(), image->tokens.size())) throw NotFinite();
  return image;
}

}  // namespace bitmar
