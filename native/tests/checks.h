// What the check programs share: they name each failure and exit with 1 after the last.
#pragma once

#include <stdio.h>

#include <random>
#include <string>

#include "../dispatch.h"

namespace bitmar {

inline int failures = 0;

inline void check(bool right, const std::string& what) {
  if (right) return;
  printf("FAILED: %s\n", what.c_str());
  failures++;
}

inline std::mt19937 random_bits(7);

// Calls f(kernels) for every path that this processor runs; the program's exit status.
template <typename F>
int check_paths(const F& f) {
  std::string ran;
  for (const Path& path : paths()) {
    if (path.kernels == nullptr) {
      printf("%s: left out, %s\n", path.name.c_str(), path.reason.c_str());
      continue;
    }
    ran += " " + path.name;
    f(*path.kernels);
  }
  printf("%s; ran:%s\n", failures ? "FAILED" : "all paths agree", ran.c_str());
  return failures != 0;
}

}  // namespace bitmar
