// Plain C++ for every processor that has no file of its own.
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define BITMAR_WIDTH 4

namespace bitmar {
namespace {

constexpr int kTiles = 1, kTokens = 1, kQueries = 4, kSums = 4;

struct Sum {
  int32_t lane[16];
};

inline Sum zero() { return {}; }
inline void store(const Sum& a, int32_t* p) { memcpy(p, a.lane, sizeof a.lane); }

struct Pairs {
  int16_t lane[32];
};

template <typename Stored>
inline Pairs load_pairs(const Stored* p) {
  Pairs a;
  for (int i = 0; i < 32; i++) a.lane[i] = p[i];
  return a;
}

inline Sum add_pairs(Sum sum, const Pairs& a, int32_t pair) {
  int16_t two[2];
  memcpy(two, &pair, sizeof two);
  for (int i = 0; i < 16; i++) sum.lane[i] += (int32_t)a.lane[2 * i] * two[0] + (int32_t)a.lane[2 * i + 1] * two[1];
  return sum;
}

struct Lines {
  const uint8_t* bytes;
};

inline Lines lines(const uint8_t* p) { return {p}; }

template <int PLANE>
inline Sum accumulate(Sum sum, Lines line, int32_t four) {
  int8_t x[4];
  memcpy(x, &four, sizeof x);
  for (int r = 0; r < 16; r++) {
    const uint8_t* b = line.bytes + 4 * r;
    sum.lane[r] += (b[0] >> 2 * PLANE & 3) * x[0] + (b[1] >> 2 * PLANE & 3) * x[1] + (b[2] >> 2 * PLANE & 3) * x[2] +
                   (b[3] >> 2 * PLANE & 3) * x[3];
  }
  return sum;
}

inline void separate(Sum*) {}  // they are

struct Quads {
  const int8_t* bytes;
};
typedef Sum QuadSums;
constexpr int kConvBlocks = 1, kConvPixels = 1;
constexpr uint32_t kFlip = 0;

inline QuadSums no_quads() { return {}; }
inline Quads load_quads(const int8_t* p) { return {p}; }
inline uint32_t spread(uint32_t four) { return four; }
inline QuadSums add_quads(QuadSums sum, Quads w, uint32_t four) {
  uint8_t x[4];
  memcpy(x, &four, sizeof x);
  for (int r = 0; r < 16; r++) {
    const int8_t* b = w.bytes + 4 * r;
    sum.lane[r] += b[0] * x[0] + b[1] * x[1] + b[2] * x[2] + b[3] * x[3];
  }
  return sum;
}
inline Sum total(const QuadSums& sum) { return sum; }

#include "tile-inl.h"
// The bodies read what tile-inl.h defines.
#include "body-inl.h"

const Kernels kTable = BITMAR_TABLE("portable");

}  // namespace

const Kernels& portable_kernels() { return kTable; }

}  // namespace bitmar
