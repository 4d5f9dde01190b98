// From pixels to vision tokens: the ternary tower, and the MLP that follows any tower.
#pragma once

#include <memory>
#include <vector>

#include "config.h"
#include "key_value.h"
#include "weights.h"

namespace bitmar {

// Ternary 3x3 convolution with a folded batch norm, as a product over patches.
class Convolution {
 public:
  Convolution(const Weights& weights, const std::string& name, int out_channels, int in_channels, int stride);

  // (side, side, in) -> (side / stride, side / stride, out). The int8 input has one scale per image.
  void operator()(const Kernels& kernels, const float* x, int side, float* y, Workspace& work) const;

 private:
  int in_, out_, stride_;
  Linear kernel_;
  Buffer<float> factor_, offset_;
};

class VitBlock {
 public:
  VitBlock(const Weights& weights, const std::string& name, int width, const TowerConfig& config);
  void operator()(const Kernels& kernels, float* x, int tokens, Workspace& work) const;  // x (tokens, width), in place

 private:
  int width_, heads_, hidden_;
  Activation activation_;
  float eps_;
  Buffer<float> attn_norm_, mlp_norm_;
  Linear qkv_, out_, up_, down_;
};

// `bitvit`: a convolutional stem (arXiv 2106.14881), then stages of ternary ViT blocks, each at half the side.
class Tower {
 public:
  Tower(const Weights& weights, const TowerConfig& config);

  // Normalised pixels (3, S, S) -> patch features (grid^2, out_dim).
  void operator()(const Kernels& kernels, const float* pixels, float* features) const;

 private:
  struct StemBlock {
    Convolution first, second;
  };
  struct Bottleneck {
    Buffer<float> norm;
    Linear proj;
  };

  TowerConfig config_;
  Linear embed_;
  Buffer<float> embed_factor_, embed_offset_, position_, out_scale_, out_bias_;
  std::unique_ptr<Convolution> down_;
  std::vector<StemBlock> stem_;
  std::vector<std::vector<VitBlock>> stages_;
  std::vector<Bottleneck> bottlenecks_;
  std::vector<Linear> merges_;
  Linear head_;
};

// Section 3.2 of the paper: average pooling over the patch grid, then D_v -> hidden -> d with ReLU.
class VisionProjector {
 public:
  VisionProjector(const Weights& weights, const Config& config);
  void operator()(const Kernels& kernels, const float* features, float* tokens) const;

 private:
  int dim_, grid_, pool_;
  float eps_;
  Buffer<float> norm_;
  Linear fc1_, fc2_;
};

void activate(const Kernels& kernels, Activation activation, float* x, size_t n);

}  // namespace bitmar
