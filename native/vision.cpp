#include "vision.h"

#include <math.h>
#include <string.h>

namespace bitmar {

void activate(const Kernels& kernels, Activation activation, float* x, size_t n) {
  if (activation == Activation::kRelu2) {
    kernels.relu(x, 2, static_cast<int>(n));
  } else {
    for (size_t i = 0; i < n; i++) x[i] *= 0.5f * (1 + erff(x[i] * 0.70710678f));
  }
}

namespace {

// A square map (side^2, channels) -> its squares of size x size, each (size * size * channels) long.
void cut_squares(const float* x, int side, int channels, int size, float* y) {
  const int across = side / size;
  for (int row = 0; row < across; row++)
    for (int column = 0; column < across; column++)
      for (int i = 0; i < size; i++, y += size * channels)
        std::copy_n(x + (static_cast<size_t>(row * size + i) * side + column * size) * channels, size * channels, y);
}

// (channel, row, column) of the file's kernels to (row, column, channel): neighbouring pixels then lie together.
std::vector<int> channels_last(int channels) {
  std::vector<int> order(9 * static_cast<size_t>(channels));
  for (int place = 0; place < 9; place++)
    for (int c = 0; c < channels; c++) order[static_cast<size_t>(place) * channels + c] = c * 9 + place;
  return order;
}

void scale_and_shift(float* x, size_t rows, const Buffer<float>& factor, const Buffer<float>& offset) {
  const size_t width = factor.size();
  for (size_t row = 0; row < rows; row++)
    for (size_t i = 0; i < width; i++) x[row * width + i] = x[row * width + i] * factor[i] + offset[i];
}

}  // namespace

Convolution::Convolution(const Weights& weights, const std::string& name, int out_channels, int in_channels, int stride)
    : in_(in_channels),
      out_(out_channels),
      stride_(stride),
      kernel_(weights.linear(name + ".conv", out_channels, 9 * in_channels, channels_last(in_channels).data())),
      factor_(weights.floats(name + ".norm.weight", out_channels)),
      offset_(weights.floats(name + ".norm.bias", out_channels)) {
  if (!kernel_.is_ternary()) throw std::invalid_argument("a tower is always ternary");
}

void Convolution::operator()(const Kernels& kernels, const float* x, int side, float* y, Workspace& work) const {
  const size_t pixels = static_cast<size_t>(side) * side;
  const int out_side = side / stride_, framed = side + 2, columns = kernel_.padded_columns();
  Buffer<int8_t> flat(pixels * in_), frame(static_cast<size_t>(framed) * framed * in_);
  float scale;
  int32_t unused;
  kernels.quantize(x, static_cast<int>(pixels) * in_, flat.data(), &scale, &unused);
  for (int row = 0; row < side; row++)
    std::copy_n(flat.data() + static_cast<size_t>(row) * side * in_, static_cast<size_t>(side) * in_,
                frame.data() + (static_cast<size_t>(row + 1) * framed + 1) * in_);
  // A row of the output at a time, so that the patches stay in the first cache.
  int8_t* patches = work.codes.reserve(static_cast<size_t>(out_side) * columns);
  float* scales = work.scales.reserve(out_side);
  int32_t* sums = work.sums.reserve(out_side);
  std::fill_n(scales, out_side, scale);
  for (int row = 0; row < out_side; row++) {
    for (int column = 0; column < out_side; column++) {
      int8_t* patch = patches + static_cast<size_t>(column) * columns;
      for (int i = 0; i < 3; i++)
        std::copy_n(frame.data() + (static_cast<size_t>(row * stride_ + i) * framed + column * stride_) * in_, 3 * in_,
                    patch + static_cast<size_t>(i) * 3 * in_);
      std::fill(patch + 9 * in_, patch + columns, int8_t{0});
      int32_t sum = 0;
      for (int i = 0; i < columns; i++) sum += patch[i];
      sums[column] = sum;
    }
    kernel_.from_codes(kernels, patches, scales, sums, out_side, y + static_cast<size_t>(row) * out_side * out_);
  }
  scale_and_shift(y, static_cast<size_t>(out_side) * out_side, factor_, offset_);
}

VitBlock::VitBlock(const Weights& weights, const std::string& name, int width, const TowerConfig& config)
    : width_(width),
      heads_(width / config.head_dim),
      hidden_(width * config.mlp_ratio),
      activation_(config.activation),
      eps_(config.norm_eps),
      attn_norm_(weights.floats(name + ".attn_norm.weight", width)),
      mlp_norm_(weights.floats(name + ".mlp_norm.weight", width)),
      qkv_(weights.linear(name + ".qkv_proj", 3 * width, width)),
      out_(weights.linear(name + ".o_proj", width, width)),
      up_(weights.linear(name + ".up_proj", hidden_, width)),
      down_(weights.linear(name + ".down_proj", width, hidden_)) {}

void VitBlock::operator()(const Kernels& kernels, float* x, int tokens, Workspace& work) const {
  const size_t size = static_cast<size_t>(tokens) * width_;
  Buffer<float> normed(size), wide(static_cast<size_t>(tokens) * std::max(3 * width_, hidden_)), mixed(size);
  const auto norm = [&](const Buffer<float>& gain) {
    for (int t = 0; t < tokens; t++)
      kernels.rms_norm(x + static_cast<size_t>(t) * width_, gain.data(), eps_, width_,
                       normed.data() + static_cast<size_t>(t) * width_);
  };
  norm(attn_norm_);
  qkv_(kernels, normed.data(), tokens, wide.data(), work);
  const KeyValue all(heads_, width_ / heads_, tokens, true);
  const KeyValueView view = all.view();
  for (int t = 0; t < tokens; t++) {
    const float* qkv = wide.data() + static_cast<size_t>(t) * 3 * width_;
    kernels.store(view, t, qkv + width_, qkv + 2 * width_);
  }
  const float scale = 1 / sqrtf(static_cast<float>(width_ / heads_));
  kernels.attend(view, {wide.data(), 3 * static_cast<size_t>(width_), tokens, tokens, 0, scale, nullptr, nullptr, 0},
                 normed.data(), width_, scratch_for(work.attention, view));
  out_(kernels, normed.data(), tokens, mixed.data(), work);
  kernels.add(x, mixed.data(), 1, static_cast<int>(size));
  norm(mlp_norm_);
  up_(kernels, normed.data(), tokens, wide.data(), work);
  activate(kernels, activation_, wide.data(), static_cast<size_t>(tokens) * hidden_);
  down_(kernels, wide.data(), tokens, mixed.data(), work);
  kernels.add(x, mixed.data(), 1, static_cast<int>(size));
}

Tower::Tower(const Weights& weights, const TowerConfig& config) : config_(config) {
  const std::string name = "model.vision_tower.";
  const int fine = config.stem_channels[0], coarse = config.stem_channels[1];
  embed_ = weights.linear(name + "embed", fine, 48);
  embed_factor_ = weights.floats(name + "embed_norm.weight", fine);
  embed_offset_ = weights.floats(name + "embed_norm.bias", fine);
  down_ = std::make_unique<Convolution>(weights, name + "stem.0", coarse, fine, 2);
  for (int i = 0; i < config.stem_blocks; i++) {  // in the checkpoint's numbering a ReLU is number 1
    const std::string block = name + "stem." + std::to_string(2 + i);
    stem_.push_back(
        {Convolution(weights, block + ".first", coarse, coarse, 1), Convolution(weights, block + ".second", coarse, coarse, 1)});
  }
  const int patches = (config.image_size / 16) * (config.image_size / 16);
  position_ = weights.floats(name + "position", int64_t{patches} * config.widths[0]);
  int before = coarse;
  for (size_t i = 0; i < config.bottlenecks.size(); i++) {
    const std::string neck = name + "bottlenecks." + std::to_string(i);
    bottlenecks_.push_back(
        {weights.floats(neck + ".norm.weight", before), weights.linear(neck + ".proj", config.bottlenecks[i], before)});
    if (i == config.widths.size()) break;
    before = config.widths[i];
    merges_.push_back(weights.linear(name + "merges." + std::to_string(i) + ".proj", before, 4 * config.bottlenecks[i]));
    stages_.emplace_back();
    for (int b = 0; b < config.depths[i]; b++)
      stages_.back().emplace_back(weights, name + "stages." + std::to_string(i) + "." + std::to_string(b), before, config);
  }
  head_ = weights.linear(name + "head", config.out_dim, config.bottlenecks.back());
  out_scale_ = weights.floats(name + "out_scale", config.out_dim);
  out_bias_ = weights.floats(name + "out_bias", config.out_dim);
}

void Tower::operator()(const Kernels& kernels, const float* pixels, float* features) const {
  Workspace work;
  const int size = config_.image_size, fine = config_.stem_channels[0], coarse = config_.stem_channels[1];
  int side = size / 4;
  size_t patches = static_cast<size_t>(side) * side;
  Buffer<float> squares(static_cast<size_t>(side) * 48), x(patches * fine), y(patches / 4 * coarse);
  for (int row = 0; row < side; row++) {
    for (int column = 0; column < side; column++)  // 4x4 pixels, each (row, column, channel)
      for (int i = 0; i < 16; i++)
        for (int c = 0; c < 3; c++)
          squares[static_cast<size_t>(column) * 48 + i * 3 + c] =
              pixels[(static_cast<size_t>(c) * size + row * 4 + i / 4) * size + column * 4 + i % 4];
    embed_(kernels, squares.data(), side, x.data() + static_cast<size_t>(row) * side * fine, work);
  }
  scale_and_shift(x.data(), patches, embed_factor_, embed_offset_);
  kernels.relu(x.data(), 1, static_cast<int>(x.size()));

  (*down_)(kernels, x.data(), side, y.data(), work);
  kernels.relu(y.data(), 1, static_cast<int>(y.size()));
  side /= 2, patches /= 4;
  Buffer<float> inner(y.size()), outer(y.size());
  for (const StemBlock& block : stem_) {
    block.first(kernels, y.data(), side, inner.data(), work);
    kernels.relu(inner.data(), 1, static_cast<int>(inner.size()));
    block.second(kernels, inner.data(), side, outer.data(), work);
    kernels.add(y.data(), outer.data(), 1, static_cast<int>(y.size()));
    kernels.relu(y.data(), 1, static_cast<int>(y.size()));
  }

  x = std::move(y);
  int width = coarse;
  const auto narrow = [&](const Bottleneck& neck) {
    Buffer<float> normed(patches * width), narrowed(patches * neck.proj.rows());
    for (size_t t = 0; t < patches; t++)
      kernels.rms_norm(x.data() + t * width, neck.norm.data(), config_.norm_eps, width, normed.data() + t * width);
    neck.proj(kernels, normed.data(), static_cast<int>(patches), narrowed.data(), work);
    return narrowed;
  };
  for (size_t i = 0; i < stages_.size(); i++) {
    const Buffer<float> narrowed = narrow(bottlenecks_[i]);
    const int channels = config_.bottlenecks[i];
    Buffer<float> merged(patches * channels);
    cut_squares(narrowed.data(), side, channels, 2, merged.data());  // 2x2 become one token (arXiv 2103.14030)
    side /= 2, patches /= 4, width = config_.widths[i];
    x = Buffer<float>(patches * width);
    merges_[i](kernels, merged.data(), static_cast<int>(patches), x.data(), work);
    if (i == 0) kernels.add(x.data(), position_.data(), 1, static_cast<int>(x.size()));
    for (const VitBlock& block : stages_[i]) block(kernels, x.data(), static_cast<int>(patches), work);
  }
  const Buffer<float> narrowed = narrow(bottlenecks_.back());
  head_(kernels, narrowed.data(), static_cast<int>(patches), features, work);
  scale_and_shift(features, patches, out_scale_, out_bias_);
  if (config_.out_relu) kernels.relu(features, 1, static_cast<int>(patches) * config_.out_dim);
}

VisionProjector::VisionProjector(const Weights& weights, const Config& config)
    : dim_(config.vision_dim),
      grid_(config.vision_grid),
      pool_(config.vision_pool),
      eps_(config.norm_eps),
      norm_(weights.floats("model.vision.norm.weight", config.vision_dim)),
      fc1_(weights.linear("model.vision.fc1", config.vision_hidden, config.vision_dim)),
      fc2_(weights.linear("model.vision.fc2", config.hidden_size, config.vision_hidden)) {}

void VisionProjector::operator()(const Kernels& kernels, const float* features, float* tokens) const {
  Workspace work;
  const int side = (grid_ + pool_ - 1) / pool_, count = side * side;
  Buffer<float> pooled(static_cast<size_t>(count) * dim_), hidden(static_cast<size_t>(count) * fc1_.rows());
  for (int row = 0; row < side; row++)
    for (int column = 0; column < side; column++) {
      float* out = pooled.data() + (static_cast<size_t>(row) * side + column) * dim_;
      const int bottom = std::min((row + 1) * pool_, grid_), right = std::min((column + 1) * pool_, grid_);
      for (int i = row * pool_; i < bottom; i++)
        for (int j = column * pool_; j < right; j++)
          kernels.add(out, features + (static_cast<size_t>(i) * grid_ + j) * dim_, 1, dim_);
      const float covered = static_cast<float>((bottom - row * pool_) * (right - column * pool_));
      for (int k = 0; k < dim_; k++) out[k] /= covered;
      kernels.rms_norm(out, norm_.data(), eps_, dim_, out);
    }
  fc1_(kernels, pooled.data(), count, hidden.data(), work);
  kernels.relu(hidden.data(), 1, static_cast<int>(hidden.size()));
  fc2_(kernels, hidden.data(), count, tokens, work);
}

}  // namespace bitmar
