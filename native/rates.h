// Two limits of the machine, for benchmarks.
#pragma once

#include "kernels.h"

namespace bitmar {

double bandwidth(const Kernels& kernels, size_t bytes, double seconds);  // bytes per second that one core reads from such a block
double product_rate(const Kernels& kernels, double seconds);  // ternary weights per second that it multiplies with one token

}  // namespace bitmar
