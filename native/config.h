// The architecture's numbers, as bitmar.core.config has checked them.
#pragma once

#include <string>
#include <vector>

namespace bitmar {

enum class Activation { kRelu2, kGelu };
enum class Integration { kPerLayer, kAdd, kConcat, kOff };

struct TowerConfig {
  int image_size = 0, stem_blocks = 0, head_dim = 0, mlp_ratio = 0, out_dim = 0;
  std::vector<int> stem_channels, bottlenecks, widths, depths;
  Activation activation = Activation::kRelu2;
  bool out_relu = false;
  float norm_eps = 0;
  float mean[3] = {0, 0, 0}, std[3] = {1, 1, 1};  // of the pixels, by color: the file's, not the configuration's
};

struct Config {
  int vocab_size = 0, hidden_size = 0, encoder_layers = 0, decoder_layers = 0, num_heads = 0, intermediate_size = 0;
  Activation activation = Activation::kRelu2;
  double rope_theta = 0;
  float norm_eps = 0;
  int attention_sinks = 0, attention_window = 0;
  int vision_dim = 0, vision_grid = 0, vision_pool = 0, vision_hidden = 0;
  int concepts = 0, concept_tokens = 0;
  int concept_keys = 0;                              // concepts with a key of their own; 0: all
  int concept_classes = 0, concept_class_width = 0;  // features that a class reads, the last ones; 0: all
  double concept_evidence = 0;                       // how much what the photo speaks for counts in a text
  bool learned_pooling = false;
  int memory_slots = 0, memory_dim = 0, memory_segment = 0;
  float memory_alpha = 0, memory_decay = 0;
  bool literal_write = false;
  Integration integration = Integration::kOff;
  bool has_tower = false;
  TowerConfig tower;

  int head_dim() const { return hidden_size / num_heads; }
  int patch_tokens() const {
    const int side = (vision_grid + vision_pool - 1) / vision_pool;
    return side * side;
  }
  int vision_tokens() const { return patch_tokens() + (concepts > 0 ? concept_tokens : 0); }
};

}  // namespace bitmar
