// A `.bitmar` file for programs without Python: its tensors, its configuration and its tokenizer (docs/format.md).
#pragma once

#include <string>

#include "buffer.h"
#include "config.h"
#include "json.h"
#include "weights.h"

namespace bitmar {

// Checked: that the header fits the file, and each tensor the header. Not checked, as `bitmar.load` does: the checksum, and
// that the configuration keeps to its bounds.
class ModelFile {
 public:
  explicit ModelFile(Buffer<char> bytes);  // throws std::invalid_argument

 private:
  Buffer<char> bytes_;  // what the weights point into
  Json header_;

 public:
  const Weights weights;
  const Json config, vision, tokenizer;
};

}  // namespace bitmar
