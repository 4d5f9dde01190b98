// A `.bitmar` file that has been made ready to see photos and to write about them, for programs without Python.
#pragma once

#include <memory>
#include <vector>

#include "concepts.h"
#include "conv.h"
#include "model.h"
#include "model_file.h"

namespace bitmar {

// What a photo is to a model.
struct Seen {
  std::shared_ptr<const Image> image;  // what its texts need
  Buffer<float> pooled;                // the mean patch feature, (D_v)
  std::vector<float> scores;           // of the concepts, (K); none where the model has no concepts
};

class PhotoModel {
 public:
  // The file must outlive it. Throws std::invalid_argument for one that is no model, or whose tower needs Python.
  PhotoModel(const ModelFile& file, const Kernels& kernels);

  // Pixels (size, size, 3). Throws NotFinite.
  Seen see(const uint8_t* photo) const;

  // The likeliest next token of a text that has begun. Throws NotFinite.
  int next(State& state) const;

 private:
  const ModelFile& file_;

 public:
  const std::shared_ptr<const Model> model;
  const int size, begin, end;  // the side of a photo in pixels; the tokens before and after a text

 private:
  Buffer<float> features(const uint8_t* photo) const;

  std::unique_ptr<const ConvTower> tower_;  // none: the model's own
  std::unique_ptr<const ConceptBank> concepts_;
};

}  // namespace bitmar
