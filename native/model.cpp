#include "model.h"

#include <math.h>

namespace bitmar {
const char* Model::unsupported(const Config& config) {
  constexpr int kWidest = 512;  // of a head and of a memory slot: the kernels' buffers and the range of their integers
  if (config.head_dim() > kWidest) return "attention heads wider than 512";
  constexpr int kLongest = 65536;  // columns of a matrix: 255 * 127 * 65,536 < 2^31
  for (int width : {3 * config.hidden_size, config.intermediate_size, config.vision_dim, config.vision_hidden,
                    config.hidden_size + config.memory_dim})
    if (width > kLongest) return "layers wider than 65,536";
  if (config.integration != Integration::kOff && (config.memory_dim > kWidest || config.memory_dim % 2))
    return "memory slots wider than 512 or of an odd width";
  if (config.has_tower && (config.tower.head_dim > kWidest || config.tower.head_dim % 2))
    return "a tower whose heads are wider than 512 or of an odd width";
  return nullptr;
}

Model::Model(const Kernels& chosen, const Config& given, const Weights& weights, std::shared_ptr<const ConvTower> tower)
    : kernels(chosen), config(given), projector_(weights, given), conv_tower_(std::move(tower)) {
  if (const char* reason = unsupported(config)) throw std::invalid_argument(reason);
  const int d = config.hidden_size, half = config.head_dim() / 2;
  const int64_t entries = int64_t{config.vocab_size} * d;
  embedding_ = static_cast<const int8_t*>(weights.find("model.embed_tokens.weight", 'i', entries).data);
  row_scale_ = weights.floats("model.embed_tokens.scale", config.vocab_size);
  for (int i = 0; i < config.encoder_layers; i++)
    blocks_.push_back(block(weights, "model.encoder.layers." + std::to_string(i), false));
  for (int i = 0; i < config.decoder_layers; i++)
    blocks_.push_back(block(weights, "model.decoder.layers." + std::to_string(i), config.integration == Integration::kPerLayer));
  encoder_norm_ = weights.floats("model.encoder.norm.weight", d);
  decoder_norm_ = weights.floats("model.decoder.norm.weight", d);
  fusion_norm_ = weights.floats("model.fusion.norm.weight", d);
  fusion_query_ = weights.linear("model.fusion.q_proj", d, d);
  fusion_key_value_ = weights.linear("model.fusion.kv_proj", 2 * d, d);
  fusion_out_ = weights.linear("model.fusion.o_proj", d, d);
  head_ = weights.linear("lm_head", config.vocab_size, d);
  if (config.integration != Integration::kOff) {
    memory_ = std::make_unique<EpisodicMemory>(weights, config);
    initial_memory_ = memory_->initial_state(kernels);
  }
  if (config.integration == Integration::kAdd) memory_proj_ = weights.linear("model.memory_proj", d, config.memory_dim);
  if (config.integration == Integration::kConcat) memory_proj_ = weights.linear("model.memory_proj", d, config.memory_dim + d);
  if (config.has_tower) tower_ = std::make_unique<Tower>(weights, config.tower);
  if (config.concepts > 0) concepts_ = std::make_unique<ConceptBank>(weights, config);
  if (conv_tower_ && (conv_tower_->grid() != config.vision_grid || conv_tower_->dim() != config.vision_dim))
    throw std::invalid_argument("its tower does not fit the rest of it");

  step_cosine_ = Buffer<double>(half), step_sine_ = Buffer<double>(half), sink_turn_ = Buffer<float>(2 * half);
  const double last = config.attention_sinks + config.attention_window - 1;
  for (int i = 0; i < half; i++) {
    const double angle = static_cast<float>(pow(config.rope_theta, -2.0 * i / config.head_dim()));
    step_cosine_[i] = cos(angle), step_sine_[i] = sin(angle);
    sink_turn_[i] = static_cast<float>(cos(last * angle)), sink_turn_[half + i] = static_cast<float>(sin(last * angle));
  }
}

Model::Block Model::block(const Weights& weights, const std::string& name, bool conditioned) const {
  const int d = config.hidden_size, hidden = config.intermediate_size;
  Block block;
  block.attn_norm = weights.floats(name + ".attn_norm.weight", d);
  block.mlp_norm = weights.floats(name + ".mlp_norm.weight", d);
  block.qkv = weights.linear(name + ".attn.qkv_proj", 3 * d, d);
  block.out = weights.linear(name + ".attn.o_proj", d, d);
  block.up = weights.linear(name + ".mlp.up_proj", hidden, d);
  block.down = weights.linear(name + ".mlp.down_proj", d, hidden);
  if (conditioned) {
    block.memory = weights.linear(name + ".memory_proj", d, config.memory_dim);
    block.gate = weights.scalar(name + ".memory_gate");
  }
  return block;
}

int Model::image_size() const { return conv_tower_ ? conv_tower_->image_size() : tower_ ? config.tower.image_size : 0; }

void Model::tower(const uint8_t* photo, float* features) const {
  if (conv_tower_) return (*conv_tower_)(photo, features);
  const TowerConfig& tower = config.tower;
  const size_t area = size_t{1} * tower.image_size * tower.image_size;
  Buffer<float> pixels(3 * area);  // (3, S, S), normalised
  for (size_t color = 0; color < 3; color++)
    for (size_t i = 0; i < area; i++)
      pixels[color * area + i] = (static_cast<float>(photo[3 * i + color]) / 255.0f - tower.mean[color]) / tower.std[color];
  (*tower_)(kernels, pixels.data(), features);
}

std::shared_ptr<const Image> Model::see(const uint8_t* photo) const {
  Buffer<float> features(size_t{1} * config.vision_grid * config.vision_grid * config.vision_dim);
  tower(photo, features.data());
  return encode(features.data());
}

std::shared_ptr<const Image> Model::encode(const float* features) const {
  const size_t d = config.hidden_size, dim = config.vision_dim, patches = size_t{1} * config.vision_grid * config.vision_grid;
  Buffer<float> tokens(config.vision_tokens() * d), pooled(dim);
  projector_(kernels, features, tokens.data());
  for (size_t patch = 0; patch < patches; patch++)
    for (size_t i = 0; i < dim; i++) pooled[i] += features[patch * dim + i];
  for (size_t i = 0; i < dim; i++) pooled[i] /= static_cast<float>(patches);
  Evidence evidence;
  std::vector<float> concepts;
  if (concepts_) {
    concepts = concepts_->scores(kernels, pooled);
    concepts_->tokens(concepts, tokens.data() + config.patch_tokens() * d);
    evidence = concepts_->evidence(concepts);
  }
  const std::shared_ptr<Image> image = pack(std::move(tokens), std::move(evidence));
  image->pooled = std::move(pooled), image->concepts = std::move(concepts);
  return image;
}

std::shared_ptr<const Image> Model::image(const float* tokens, Evidence evidence) const {
  Buffer<float> copy(size_t{1} * config.vision_tokens() * config.hidden_size);
  std::copy_n(tokens, copy.size(), copy.data());
  return pack(std::move(copy), std::move(evidence));
}

std::shared_ptr<Image> Model::pack(Buffer<float> tokens, Evidence evidence) const {
  const int count = config.vision_tokens(), d = config.hidden_size;
  auto image = std::make_shared<Image>();
  image->tokens = std::move(tokens), image->evidence = std::move(evidence);
  image->packed = KeyValue(config.num_heads, config.head_dim(), count, true);
  Workspace work;
  Buffer<float> both(static_cast<size_t>(count) * 2 * d);
  fusion_key_value_(kernels, image->tokens.data(), count, both.data(), work);
  for (int t = 0; t < count; t++) {
    const float* key = both.data() + static_cast<size_t>(t) * 2 * d;
    kernels.store(image->packed.view(), t, key, key + d);
  }
  return image;
}

std::shared_ptr<const MemoryState> Model::memory_state(const float* slots, const float* usage) const {
  return memory_->state(kernels, slots, usage);
}

void Model::head(const float* hidden, int tokens, float* logits) const {
  Workspace work;
  finite_head(hidden, tokens, logits, work);
}

void Model::finite_head(const float* hidden, int tokens, float* logits, Workspace& work) const {
  head_(kernels, hidden, tokens, logits, work);
  if (!kernels.finite(logits, static_cast<size_t>(tokens) * config.vocab_size)) throw NotFinite();
}

size_t Model::weight_bytes() const {
  size_t bytes = fusion_query_.bytes() + fusion_out_.bytes() + memory_proj_.bytes() + head_.bytes();
  for (const Block& block : blocks_)
    for (const Linear* linear : {&block.qkv, &block.out, &block.up, &block.down, &block.memory}) bytes += linear->bytes();
  if (memory_) bytes += initial_memory_->packed.bytes();
  return bytes;
}

size_t Model::ternary_weights() const {
  size_t weights = fusion_query_.weights() + fusion_out_.weights() + memory_proj_.weights() + head_.weights();
  for (const Block& block : blocks_)
    for (const Linear* linear : {&block.qkv, &block.out, &block.up, &block.down, &block.memory}) weights += linear->weights();
  return weights;
}

}  // namespace bitmar
