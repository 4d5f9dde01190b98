// bitmar-run MODEL.bitmar PHOTO.ppm: a caption without Python, the words of `bitmar caption`. The photo is a raw PPM (P6)
// of the size that the model sees. BITMAR_KERNEL chooses a path, as everywhere.
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "concepts.h"
#include "detokenizer.h"
#include "dispatch.h"
#include "model.h"
#include "model_file.h"
#include "read_config.h"

namespace bitmar {
namespace {

constexpr int kLongest = 32;  // tokens

// The pixels (S, S, 3) of a raw PPM. Its header: P6, width, height, 255, with blanks and comments between, then one blank.
Buffer<uint8_t> read_photo(const std::string& path, int size) {
  const Buffer<char> file = read_file(path);
  size_t at = 0;
  const auto word = [&] {
    const auto here = [&] { return at < file.size() ? file[at] : '\0'; };
    for (; isspace(static_cast<uint8_t>(here())) || here() == '#'; at++)
      if (here() == '#')
        while (at + 1 < file.size() && file[at] != '\n') at++;
    std::string found;
    while (isgraph(static_cast<uint8_t>(here())) && found.size() < 16) found += file[at++];
    return found;
  };
  const std::string kind = word(), width = word(), height = word(), most = word();
  const std::string sides = std::to_string(size) + "x" + std::to_string(size);
  const std::string advice = ": make one by `magick PHOTO -resize '" + sides + "!' -depth 8 photo.ppm`";
  if (kind != "P6" || most != "255") throw std::invalid_argument("this is no raw PPM (P6) of 8 bits" + advice);
  if (width + "x" + height != sides)
    throw std::invalid_argument("this photo has " + width + "x" + height + " pixels, and the model sees " + sides + advice);
  Buffer<uint8_t> pixels(size_t{3} * size * size);
  if (file.size() - ++at != pixels.size()) throw std::invalid_argument("this PPM is cut short, or goes on after its photo" + advice);
  std::copy_n(file.data() + at, pixels.size(), pixels.data());
  return pixels;
}

// What the tower sees: patch features (grid^2, D_v).
Buffer<float> see(const Model& model, const ModelFile& file, const Buffer<uint8_t>& photo, int size) {
  const Config& config = model.config;
  Buffer<float> features(size_t{1} * config.vision_grid * config.vision_grid * config.vision_dim);
  if (!config.has_tower) {
    const ConvTower tower(model.kernels, read_conv_tower_config(file.config.at("vision_tower")), file.weights);
    if (tower.image_size() != size || tower.grid() != config.vision_grid || tower.dim() != config.vision_dim)
      throw std::invalid_argument("its tower does not fit the rest of it");
    tower(photo.data(), features.data());
    return features;
  }
  Buffer<float> pixels(photo.size());  // (3, S, S), normalised
  const size_t area = photo.size() / 3;
  for (size_t color = 0; color < 3; color++) {
    const auto mean = static_cast<float>(file.vision.list("mean").at(color).number());
    const auto std = static_cast<float>(file.vision.list("std").at(color).number());
    for (size_t i = 0; i < area; i++) pixels[color * area + i] = (static_cast<float>(photo[i * 3 + color]) / 255.0f - mean) / std;
  }
  model.tower(pixels.data(), features.data());
  return features;
}

// Vision tokens of the patches and of the concepts in them, and what these speak for.
std::shared_ptr<const Image> encode(const Model& model, const ModelFile& file, const Buffer<float>& features) {
  const Config& config = model.config;
  const size_t dim = config.vision_dim, patches = features.size() / dim, rest = size_t{1} * config.patch_tokens() * config.hidden_size;
  Buffer<float> tokens(size_t{1} * config.vision_tokens() * config.hidden_size);
  model.project(features.data(), tokens.data());
  Evidence evidence;
  if (config.concepts > 0) {
    Buffer<float> pooled(dim);  // the mean over the patches
    for (size_t i = 0; i < features.size(); i++) pooled[i % dim] += features[i];
    for (size_t i = 0; i < dim; i++) pooled[i] /= static_cast<float>(patches);
    const ConceptBank bank(file.weights, config);
    const std::vector<float> scores = bank.scores(model.kernels, pooled);
    bank.tokens(scores, tokens.data() + rest);
    evidence = bank.evidence(scores);
  }
  for (size_t i = 0; i < tokens.size(); i++)
    if (!isfinite(tokens[i])) throw NotFinite();
  return model.image(tokens.data(), std::move(evidence));
}

std::string caption(const ModelFile& file, const std::string& photo) {
  Config config = read_config(file.config);
  const std::string tower = file.vision.get<std::string>("tower");
  if (tower == "features") throw std::invalid_argument("this model has no vision tower: take one that sees photos by itself");
  if (tower != "bitvit" && tower != "conv") throw std::invalid_argument("its tower runs under Python alone: use `bitmar caption`");
  for (int n : {config.vocab_size, config.hidden_size, config.num_heads, config.vision_dim, config.vision_grid, config.vision_pool})
    if (n < 1) throw std::invalid_argument("its configuration has a size below 1");
  if (tower == "bitvit") config.has_tower = true, config.tower = read_tower_config(file.config.at("vision_tower"));
  const char* wish = getenv("BITMAR_KERNEL");
  const auto model = std::make_shared<const Model>(select_kernels(wish ? wish : ""), config, file.weights);
  const Detokenizer detokenizer(file.tokenizer, config.vocab_size);
  const int size = file.vision.get<int>("size"), end = file.config.get<int>("eos_token_id");
  State state(model, encode(*model, file, see(*model, file, read_photo(photo, size), size)), nullptr, true);

  int64_t token = file.config.get<int>("bos_token_id");
  if (token < 0 || token >= config.vocab_size) throw std::invalid_argument("its begin token lies outside the vocabulary");
  std::vector<int64_t> written;
  for (int i = 0; i < kLongest; i++) {
    state.forward(&token, 1, nullptr, Write::kNever, true);
    token = choose(model->kernels, state.logits(), config.vocab_size, state.written(0), state.evidence(), {}, 0, state.sampling_room());
    if (token == end) break;
    written.push_back(token);
  }
  return detokenizer(written);
}

}  // namespace
}  // namespace bitmar

int main(int count, char** arguments) {
  if (count != 3) {
    fprintf(stderr, "usage: bitmar-run MODEL.bitmar PHOTO.ppm\n");
    return 2;
  }
  const char* about = arguments[1];
  try {
    const bitmar::ModelFile file(about);
    const std::string text = bitmar::caption(file, arguments[2]);
    const size_t first = text.find_first_not_of(" \n"), last = text.find_last_not_of(" \n");
    puts(first == std::string::npos ? "" : text.substr(first, last - first + 1).c_str());
  } catch (const std::exception& e) {
    fprintf(stderr, "bitmar-run: %s: %s\n", about, e.what());
    return 1;
  }
}
