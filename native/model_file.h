// A `.bitmar` file for programs without Python: its tensors, its configuration and its tokenizer (docs/format.md).
#pragma once

#include <string>

#include "buffer.h"
#include "config.h"
#include "json.h"
#include "weights.h"

namespace bitmar {

// The bytes of a file. Throws std::runtime_error.
Buffer<char> read_file(const std::string& path);

// Checked: that the header fits the file, and each tensor the header. Not checked, as `bitmar.load` does: the checksum, and
// that the configuration keeps to its bounds.
class ModelFile {
 public:
  explicit ModelFile(const std::string& path);  // throws std::runtime_error and std::invalid_argument

 private:
  Buffer<char> bytes_;  // what the weights point into
  Json header_;

 public:
  const Weights weights;
  const Json config, vision, tokenizer;
};

}  // namespace bitmar
