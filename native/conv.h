// A pretrained backbone as a tower: convolutions in integers over uint8 maps (arXiv 1712.05877).
#pragma once

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "weights.h"

namespace bitmar {

enum class ConvOp { kConv, kDepthwise, kAdd, kConcat };
enum class ConvActivation { kNone, kRelu, kRelu6 };

struct ConvLayerConfig {
  ConvOp op = ConvOp::kConv;
  int inputs[2] = {0, 0};  // maps it reads: 0 is the photo, i what layer i writes
  ConvActivation activation = ConvActivation::kNone;
  double scale = 1;  // of the map it writes: scale * (q - zero)
  int zero = 0;
  int channels = 0, kernel = 1, stride = 1, pad[2] = {0, 0};
};

struct ConvTowerConfig {
  int image_size = 0;
  double scale = 1;
  int zero = 0;
  std::string weights;  // how the file packs them
  int int8_below = 0;   // but for kernels of fewer weights, which are int8
  std::vector<ConvLayerConfig> layers;
};

class ConvTower {
 public:
  ConvTower(const Kernels& kernels, const ConvTowerConfig& config, const Weights& weights);
  ~ConvTower() { delete spare_.load(); }

  // A square photo (S, S, 3) -> patch features (grid^2, D_v).
  void operator()(const uint8_t* photo, float* features) const;

  int image_size() const { return config_.image_size; }
  int grid() const { return maps_.back().side; }
  int dim() const { return maps_.back().channels; }
  const Kernels& kernels;

 private:
  // A map in the arena, with a frame of `before` and `after` pixels of value 0 around it.
  struct Map {
    int side = 0, channels = 0, before = 0, after = 0, zero = 0;
    double scale = 1;
    int last_use = 0;
    size_t offset = 0;

    size_t row() const { return static_cast<size_t>(before + side + after) * channels; }  // bytes from a row to the next
    size_t bytes() const { return row() * (before + side + after); }
    size_t start() const { return before * row() + static_cast<size_t>(before) * channels; }  // of the first pixel
    bool framed() const { return before + after > 0; }
  };
  struct Kernel {
    Buffer<int8_t> weights;
    Buffer<int32_t> start;
    Buffer<float> factor;
  };

  Kernel kernel(const Weights& weights, int number, const ConvLayerConfig& layer) const;
  bool by_winograd(const ConvLayerConfig& layer) const;
  void place();
  size_t scratch(int number) const;
  ConvView dense_view(int number) const;
  DepthwiseView depthwise_view(int number) const;
  WinogradView winograd_view(int number) const;
  Windows windows(int number) const;  // but for where they begin
  void frame(const Map& map, uint8_t* arena) const;
  void run(int number, uint8_t* arena) const;

  ConvTowerConfig config_;
  std::vector<Map> maps_;  // of the photo, then of each layer
  std::vector<Kernel> kernels_;
  size_t arena_bytes_ = 0, scratch_bytes_ = 0;
  mutable std::atomic<Buffer<uint8_t>*> spare_{nullptr};  // what a finished photo leaves to the next
};

}  // namespace bitmar
