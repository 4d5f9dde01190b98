// WebAssembly's 128-bit vectors, which every engine maps to SSE or NEON. Products are of 16-bit pairs, added in pairs into 32
// bits: the only integer product there whose result is the same on all processors and fast on all.
#include <stdint.h>
#include <string.h>
#include <wasm_simd128.h>

#include "kernels.h"

#define BITMAR_WIDTH 4

namespace bitmar {
namespace {

constexpr int kTiles = 1, kTokens = 1, kQueries = 4, kSums = 4;

struct Sum {
  v128_t part[4];
};

inline Sum zero() {
  const v128_t none = wasm_i32x4_const_splat(0);
  return {{none, none, none, none}};
}

typedef Sum Pairs;

inline Pairs load_pairs(const int16_t* p) {
  return {{wasm_v128_load(p), wasm_v128_load(p + 8), wasm_v128_load(p + 16), wasm_v128_load(p + 24)}};
}

inline Pairs load_pairs(const int8_t* p) {
  return {{wasm_i16x8_load8x8(p), wasm_i16x8_load8x8(p + 8), wasm_i16x8_load8x8(p + 16), wasm_i16x8_load8x8(p + 24)}};
}

inline v128_t add_dot(v128_t sum, v128_t a, v128_t b) { return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(a, b)); }

inline Sum add_pairs(Sum sum, const Pairs& a, int32_t pair) {
  const v128_t x = wasm_i32x4_splat(pair);
  for (int i = 0; i < 4; i++) sum.part[i] = add_dot(sum.part[i], a.part[i], x);
  return sum;
}

// Half of the rows at a time: their sums fit the registers. A 16-bit lane of a line holds two columns, which meet the even and
// the odd activations one after the other.
template <int TILES, int TOKENS>
inline __attribute__((always_inline)) void tile(const uint8_t* codes, size_t, const int8_t* x, size_t, int groups,
                                                int32_t* sums) {
  static_assert(TILES == 1 && TOKENS == 1, "more accumulators than registers");
  for (int half = 0; half < 2; half++) {
    const v128_t none = wasm_i32x4_const_splat(0);
    v128_t planes[2][4] = {{none, none, none, none}, {none, none, none, none}};
    for (int g = 0; g < groups; g++) {
      const uint8_t* line = codes + (size_t)g * 64 + half * 32;
      const v128_t four = wasm_v128_load32_splat(x + (size_t)g * 4);
      const v128_t even = wasm_i16x8_shr(wasm_i16x8_shl(four, 8), 8), odd = wasm_i16x8_shr(four, 8);
      for (int i = 0; i < 2; i++) {
        const v128_t first = wasm_v128_load(line + 16 * i), second = wasm_u16x8_shr(first, 8);
        for (int p = 0; p < 4; p++) {
          const v128_t mask = wasm_i16x8_splat((int16_t)(3 << 2 * p));
          planes[i][p] = add_dot(planes[i][p], wasm_v128_and(first, mask), even);
          planes[i][p] = add_dot(planes[i][p], wasm_v128_and(second, mask), odd);
        }
      }
    }
    for (int i = 0; i < 2; i++)
      for (int p = 0; p < 4; p++) wasm_v128_store(sums + p * 16 + half * 8 + i * 4, wasm_i32x4_shr(planes[i][p], 2 * p));
  }
}

// Bytes are widened to 16 bits. Each output has two sums, of the even and the odd pairs.
struct Quads {
  v128_t part[8];
};
typedef Quads QuadSums;
constexpr int kConvBlocks = 1, kConvPixels = 1;
constexpr uint32_t kFlip = 0;

inline QuadSums no_quads() {
  QuadSums sum;
  for (int i = 0; i < 8; i++) sum.part[i] = wasm_i32x4_const_splat(0);
  return sum;
}
inline Quads load_quads(const int8_t* p) {
  Quads w;
  for (int i = 0; i < 8; i++) w.part[i] = wasm_i16x8_load8x8(p + 8 * i);
  return w;
}
inline v128_t spread(uint32_t four) { return wasm_u16x8_extend_low_u8x16(wasm_i32x4_splat((int32_t)four)); }
inline QuadSums add_quads(QuadSums sum, const Quads& w, v128_t x) {
  for (int i = 0; i < 8; i++) sum.part[i] = add_dot(sum.part[i], w.part[i], x);
  return sum;
}
inline Sum total(const QuadSums& sum) {
  const auto pair = [](v128_t a, v128_t b) {
    return wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), wasm_i32x4_shuffle(a, b, 1, 3, 5, 7));
  };
  return {{pair(sum.part[0], sum.part[1]), pair(sum.part[2], sum.part[3]), pair(sum.part[4], sum.part[5]),
           pair(sum.part[6], sum.part[7])}};
}

#include "body-inl.h"

const Kernels kTable = BITMAR_TABLE("simd128");

}  // namespace

const Kernels& simd128_kernels() { return kTable; }

}  // namespace bitmar
