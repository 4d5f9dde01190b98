#include "conv.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <memory>

namespace bitmar {
namespace {

constexpr int kSlack = 64;  // bytes past a map that the kernels may read

Steps steps_of(const ConvLayerConfig& layer) {
  int low = layer.zero, high = 255;
  if (layer.activation == ConvActivation::kNone) low = 0;
  if (layer.activation == ConvActivation::kRelu6)
    high = static_cast<int>(std::min(255.0, layer.zero + nearbyint(6 / layer.scale)));
  return {static_cast<float>(low - layer.zero), static_cast<float>(high - layer.zero), layer.zero};
}

// The integers of NAME.weight (rows, columns), however the file packs them.
Buffer<int8_t> unpack(const Weights& weights, const std::string& name, const std::string& kind, int rows, int columns) {
  Buffer<int8_t> codes(static_cast<size_t>(rows) * columns);
  if (kind == "int8") {
    memcpy(codes.data(), weights.find(name, 'i', static_cast<int64_t>(codes.size())).data, codes.size());
  } else if (kind == "digits") {  // t0 + 3 t1 + 9 t2, each a ternary matrix
    const size_t row_bytes = (columns + 3) / 4;
    const auto* packed = static_cast<const uint8_t*>(weights.find(name, 'u', static_cast<int64_t>(3 * rows * row_bytes)).data);
    for (int digit = 0, worth = 1; digit < 3; digit++, worth *= 3)
      for (int r = 0; r < rows; r++, packed += row_bytes)
        for (int c = 0; c < columns; c++)
          codes[static_cast<size_t>(r) * columns + c] += static_cast<int8_t>(worth * ((packed[c / 4] >> 2 * (c % 4) & 3) - 1));
  } else {
    const int bits = kind == "int6" ? 6 : 4;
    const size_t row_bytes = (static_cast<size_t>(columns) * bits + 7) / 8;
    const auto* packed = static_cast<const uint8_t*>(weights.find(name, 'u', static_cast<int64_t>(rows * row_bytes)).data);
    for (int r = 0; r < rows; r++, packed += row_bytes)
      for (int c = 0; c < columns; c++) {
        int code = 0;
        for (int b = 0; b < bits; b++) {
          const size_t bit = static_cast<size_t>(c) * bits + b;
          code |= (packed[bit / 8] >> bit % 8 & 1) << b;
        }
        codes[static_cast<size_t>(r) * columns + c] = static_cast<int8_t>(code - (1 << (bits - 1)));
      }
  }
  return codes;
}

}  // namespace

ConvTower::ConvTower(const Kernels& chosen, const ConvTowerConfig& config, const Weights& weights)
    : kernels(chosen), config_(config), maps_(1), kernels_(1) {
  maps_[0].side = config.image_size, maps_[0].channels = 3, maps_[0].zero = config.zero, maps_[0].scale = config.scale;
  for (size_t i = 1; i <= config.layers.size(); i++) {
    const ConvLayerConfig& layer = config.layers[i - 1];
    Map map;
    map.zero = layer.zero, map.scale = layer.scale, map.last_use = static_cast<int>(i);
    for (int k = 0; k < (layer.op == ConvOp::kAdd || layer.op == ConvOp::kConcat ? 2 : 1); k++) {
      if (layer.inputs[k] < 0 || layer.inputs[k] >= static_cast<int>(i))
        throw std::invalid_argument("a layer reads a map after it");
      Map& source = maps_[layer.inputs[k]];
      source.last_use = static_cast<int>(i);
      source.before = std::max(source.before, layer.pad[0]), source.after = std::max(source.after, layer.pad[1]);
      map.side = (source.side + layer.pad[0] + layer.pad[1] - layer.kernel) / layer.stride + 1;
      map.channels += layer.op == ConvOp::kConcat || k == 0 ? source.channels : 0;
    }
    if (layer.op == ConvOp::kConv) map.channels = layer.channels;
    maps_.push_back(map);
    kernels_.push_back(kernel(weights, static_cast<int>(i), layer));
  }
  place();
  for (size_t i = 1; i < maps_.size(); i++) scratch_bytes_ = std::max(scratch_bytes_, scratch(static_cast<int>(i)));
}

bool ConvTower::by_winograd(const ConvLayerConfig& layer) const {
  const Map& source = maps_[layer.inputs[0]];
  return kernels.winograd && layer.op == ConvOp::kConv && layer.kernel == 3 && layer.stride == 1 &&
         source.channels <= kWinogradInputs && source.side + layer.pad[0] + layer.pad[1] >= 4;
}

ConvTower::Kernel ConvTower::kernel(const Weights& weights, int number, const ConvLayerConfig& layer) const {
  if (layer.op == ConvOp::kAdd || layer.op == ConvOp::kConcat) return {};
  const Map& source = maps_[layer.inputs[0]];
  const bool dense = layer.op == ConvOp::kConv;
  const int rows = dense ? layer.channels : source.channels, padded = round_up(rows, 16);
  const int width = layer.kernel * (dense ? source.channels : 1), columns = layer.kernel * width;  // of a row of the window
  const std::string name = "model.vision_tower.layers." + std::to_string(number);
  const bool small = int64_t{rows} * columns < config_.int8_below;
  const Buffer<int8_t> codes = unpack(weights, name + ".weight", small ? "int8" : config_.weights, rows, columns);
  const Buffer<float> scale = weights.floats(name + ".scale", rows), bias = weights.floats(name + ".bias", rows);
  Kernel kernel{{}, Buffer<int32_t>(padded), Buffer<float>(padded)};
  for (int r = 0; r < rows; r++) {
    const double step = source.scale * scale[r];
    int64_t total = 0;
    for (int c = 0; c < columns; c++) total += codes[static_cast<size_t>(r) * columns + c];
    const int64_t flipped = dense && kernels.flipped ? 128 * total : 0;
    kernel.start[r] = static_cast<int32_t>(static_cast<int64_t>(nearbyint(bias[r] / step)) - source.zero * total + flipped);
    kernel.factor[r] = static_cast<float>(step / layer.scale);
  }
  if (!dense) {
    kernel.weights = Buffer<int8_t>(static_cast<size_t>(columns) * padded);
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < columns; c++)
        kernel.weights[static_cast<size_t>(c) * padded + r] = codes[static_cast<size_t>(r) * columns + c];
    return kernel;
  }
  if (by_winograd(layer)) {
    const size_t run = static_cast<size_t>(source.channels + 1) / 2 * 32;
    kernel.weights = Buffer<int8_t>(padded / 16 * 9 * run);
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < 9; i++)
        for (int c = 0; c < source.channels; c++)
          kernel.weights[(r / 16 * size_t{9} + i) * run + c / 2 * 32 + r % 16 * 2 + c % 2] =
              codes[static_cast<size_t>(r) * columns + i * source.channels + c];
    return kernel;
  }
  const int row_lines = (width + 3) / 4;
  const size_t block = static_cast<size_t>(layer.kernel) * row_lines * 64;
  kernel.weights = Buffer<int8_t>(padded / 16 * block);
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < layer.kernel; i++)
      for (int c = 0; c < width; c++)
        kernel.weights[r / 16 * block + (static_cast<size_t>(i) * row_lines + c / 4) * 64 + r % 16 * 4 + c % 4] =
            codes[static_cast<size_t>(r) * columns + i * width + c];
  return kernel;
}

// First fit: a map lies where no other does that is alive at the same time.
void ConvTower::place() {
  for (size_t i = 0; i < maps_.size(); i++) {
    std::vector<std::pair<size_t, size_t>> taken;
    for (size_t k = 0; k < i; k++)
      if (maps_[k].last_use >= static_cast<int>(i))
        taken.emplace_back(maps_[k].offset, maps_[k].offset + maps_[k].bytes() + kSlack);
    std::sort(taken.begin(), taken.end());
    const size_t size = maps_[i].bytes() + kSlack;
    size_t offset = 0;
    for (const auto& [begin, end] : taken) {
      if (offset + size <= begin) break;
      offset = std::max(offset, (end + 63) / 64 * 64);
    }
    maps_[i].offset = offset;
    arena_bytes_ = std::max(arena_bytes_, (offset + size + 63) / 64 * 64);
  }
}

void ConvTower::frame(const Map& map, uint8_t* arena) const {
  if (!map.framed()) return;
  uint8_t* at = arena + map.offset;
  const size_t row = map.row(), left = static_cast<size_t>(map.before) * map.channels,
               right = static_cast<size_t>(map.after) * map.channels;
  memset(at, map.zero, map.before * row);
  for (int i = map.before; i < map.before + map.side; i++) {
    memset(at + i * row, map.zero, left);
    memset(at + (i + 1) * row - right, map.zero, right);
  }
  memset(at + (map.before + map.side) * row, map.zero, map.after * row);
}

Windows ConvTower::windows(int number) const {
  const ConvLayerConfig& layer = config_.layers[number - 1];
  const Map &in = maps_[layer.inputs[0]], &out = maps_[number];
  const size_t stride = layer.stride;
  return {nullptr, stride * in.channels, in.row(), stride * in.row(), out.side, out.side};
}

ConvView ConvTower::dense_view(int number) const {
  const ConvLayerConfig& layer = config_.layers[number - 1];
  const Kernel& kernel = kernels_[number];
  const int row_lines = (layer.kernel * maps_[layer.inputs[0]].channels + 3) / 4;
  return {kernel.weights.data(), kernel.start.data(), kernel.factor.data(), maps_[number].channels,
          layer.kernel,          row_lines,           steps_of(layer)};
}

DepthwiseView ConvTower::depthwise_view(int number) const {
  const ConvLayerConfig& layer = config_.layers[number - 1];
  const Kernel& kernel = kernels_[number];
  const int channels = maps_[number].channels;
  return {kernel.weights.data(),  kernel.start.data(), kernel.factor.data(), channels,
          round_up(channels, 16), layer.kernel,        steps_of(layer)};
}

WinogradView ConvTower::winograd_view(int number) const {
  const ConvLayerConfig& layer = config_.layers[number - 1];
  const Kernel& kernel = kernels_[number];
  return {kernel.weights.data(),           kernel.start.data(), kernel.factor.data(), maps_[number].channels,
          maps_[layer.inputs[0]].channels, steps_of(layer)};
}

size_t ConvTower::scratch(int number) const {
  const ConvLayerConfig& layer = config_.layers[number - 1];
  if (layer.op == ConvOp::kDepthwise) return depthwise_scratch(depthwise_view(number));
  if (layer.op != ConvOp::kConv) return 0;
  return by_winograd(layer) ? winograd_scratch(winograd_view(number), windows(number))
                            : convolve_scratch(dense_view(number), windows(number));
}

void ConvTower::run(int number, uint8_t* arena) const {
  const ConvLayerConfig& layer = config_.layers[number - 1];
  const Map& in = maps_[layer.inputs[0]];
  const Map& out = maps_[number];
  const uint8_t* x = arena + in.offset + in.start();
  uint8_t* y = arena + out.offset + out.start();
  frame(out, arena);
  if (layer.op == ConvOp::kAdd || layer.op == ConvOp::kConcat) {
    const Map& other = maps_[layer.inputs[1]];
    const uint8_t* z = arena + other.offset + other.start();
    const float a = static_cast<float>(in.scale / layer.scale), b = static_cast<float>(other.scale / layer.scale);
    for (int row = 0; row < out.side; row++, x += in.row(), z += other.row(), y += out.row()) {
      if (layer.op == ConvOp::kAdd) {
        kernels.add_maps(x, in.zero, a, z, other.zero, b, out.side * out.channels, steps_of(layer), y);
        continue;
      }
      for (int i = 0; i < out.side; i++) {
        memcpy(y + static_cast<size_t>(i) * out.channels, x + static_cast<size_t>(i) * in.channels, in.channels);
        memcpy(y + static_cast<size_t>(i) * out.channels + in.channels, z + static_cast<size_t>(i) * other.channels,
               other.channels);
      }
    }
    return;
  }
  Windows places = windows(number);
  places.x = x - layer.pad[0] * (in.row() + in.channels);
  void* scratch = arena + arena_bytes_;
  if (layer.op == ConvOp::kDepthwise)
    kernels.depthwise(depthwise_view(number), places, y, out.row(), scratch);
  else if (by_winograd(layer))
    kernels.winograd(winograd_view(number), places, y, out.row(), scratch);
  else
    kernels.convolve(dense_view(number), places, y, out.row(), scratch);
}

void ConvTower::operator()(const uint8_t* photo, float* features) const {
  std::unique_ptr<Buffer<uint8_t>> spare{spare_.exchange(nullptr)};
  if (!spare) spare = std::make_unique<Buffer<uint8_t>>(arena_bytes_ + scratch_bytes_);
  uint8_t* arena = spare->data();
  const Map& first = maps_[0];
  frame(first, arena);
  for (int row = 0; row < first.side; row++)
    memcpy(arena + first.offset + first.start() + row * first.row(), photo + static_cast<size_t>(row) * first.side * 3,
           static_cast<size_t>(first.side) * 3);
  for (size_t i = 1; i < maps_.size(); i++) run(static_cast<int>(i), arena);
  const Map& last = maps_.back();
  const float scale = static_cast<float>(last.scale);
  const uint8_t* q = arena + last.offset;
  for (size_t i = 0; i < last.bytes(); i++) features[i] = static_cast<float>(q[i] - last.zero) * scale;
  delete spare_.exchange(spare.release());
}

}  // namespace bitmar
