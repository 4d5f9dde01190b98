// A `.bitmar` file that has been made ready to see photos and to write about them, for programs without Python.
#pragma once

#include <memory>

#include "model.h"
#include "model_file.h"

namespace bitmar {

struct PhotoModel {
  // The file must outlive it. Throws std::invalid_argument for one that is no model, or whose tower needs Python.
  PhotoModel(const ModelFile& file, const Kernels& kernels);

  // Pixels (size, size, 3). Throws NotFinite.
  std::shared_ptr<const Image> see(const uint8_t* photo) const;

  const std::shared_ptr<const Model> model;
  const int size, begin, end;  // the side of a photo in pixels; the tokens before and after a text
};

}  // namespace bitmar
