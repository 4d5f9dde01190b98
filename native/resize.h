// Pillow's resampling of 8-bit images (Pillow's src/libImaging/Resample.c describes it), because photos are squashed by it in
// training and under Python: one filter over rows, then over columns, with integer weights and bytes in between.
#pragma once

#include <stdint.h>

#include "buffer.h"

namespace bitmar {

enum class Filter { kBox, kBicubic };  // both antialiased

// RGBA (height, width, 4) -> (new_height, new_width, 4). All sides at least 1.
Buffer<uint8_t> resize(const uint8_t* image, int width, int height, int new_width, int new_height, Filter filter);

}  // namespace bitmar
