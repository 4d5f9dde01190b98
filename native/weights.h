// A file's tensors by name, with their shapes checked where they are used.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "linear.h"

namespace bitmar {

struct Tensor {
  const void* data;
  char type;  // 'u' uint8, 'i' int8, 'w' int32, 'f' float32
  std::vector<int64_t> shape;

  int64_t size() const {
    int64_t product = 1;
    for (int64_t n : shape) product *= n;
    return product;
  }
};

class Weights {
 public:
  explicit Weights(std::map<std::string, Tensor> tensors) : tensors_(std::move(tensors)) {}

  const Tensor& find(const std::string& name, char type, int64_t size) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw std::invalid_argument("the tensor " + name + " is missing");
    const Tensor& tensor = found->second;
    if (tensor.type != type || tensor.size() != size)
      throw std::invalid_argument("the tensor " + name + " has another type or size than the configuration says");
    return tensor;
  }

  Buffer<float> floats(const std::string& name, int64_t size) const {
    const float* data = static_cast<const float*>(find(name, 'f', size).data);
    Buffer<float> copy(size);
    std::copy_n(data, size, copy.data());
    return copy;
  }

  float scalar(const std::string& name) const { return *static_cast<const float*>(find(name, 'f', 1).data); }

  // The matrix NAME.weight, ternary with NAME.scale if the file packs it. order: as in Linear::ternary.
  Linear linear(const std::string& name, int rows, int columns, const int* order = nullptr) const {
    const auto found = tensors_.find(name + ".weight");
    if (found != tensors_.end() && found->second.type == 'f')
      return Linear::dense(static_cast<const float*>(find(name + ".weight", 'f', int64_t{rows} * columns).data), rows, columns);
    const Tensor& packed = find(name + ".weight", 'u', int64_t{rows} * ((columns + 3) / 4));
    return Linear::ternary(static_cast<const uint8_t*>(packed.data), rows, columns, scalar(name + ".scale"), order);
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

}  // namespace bitmar
