// Which table of kernels this processor runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace bitmar {

struct Path {
  std::string name;
  const Kernels* kernels;  // null: this build or this processor lacks it
  std::string reason;      // why it cannot run; empty if it can
};

std::vector<Path> paths();  // the fastest first; the last one, "portable", always runs

// The table named, or the fastest for an empty name. Throws std::invalid_argument with the names that can run here.
const Kernels& select_kernels(const std::string& name);

}  // namespace bitmar
