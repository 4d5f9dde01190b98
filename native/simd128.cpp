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

inline void store(const Sum& a, int32_t* p) {
  for (int i = 0; i < 4; i++) wasm_v128_store(p + 4 * i, a.part[i]);
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

// Convolutions multiply 16-bit pairs too.
#define BITMAR_PAIRS
constexpr int kConvWindows = 3;

inline void store(const Pairs& a, int16_t* p) {
  for (int i = 0; i < 4; i++) wasm_v128_store(p + 8 * i, a.part[i]);
}

struct Halves {
  v128_t low, high;
};

inline Halves interleave_bytes(const void* a, const void* b) {
  const v128_t x = wasm_v128_load(a), y = wasm_v128_load(b);
  return {wasm_i8x16_shuffle(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
          wasm_i8x16_shuffle(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)};
}

// Sixteen channels of two rows.
inline Pairs interleave(const uint8_t* a, const uint8_t* b) {
  const auto [low, high] = interleave_bytes(a, b);
  return {{wasm_u16x8_extend_low_u8x16(low), wasm_u16x8_extend_high_u8x16(low), wasm_u16x8_extend_low_u8x16(high),
           wasm_u16x8_extend_high_u8x16(high)}};
}

inline Pairs interleave(const int8_t* a, const int8_t* b) {
  const auto [low, high] = interleave_bytes(a, b);
  return {{wasm_i16x8_extend_low_i8x16(low), wasm_i16x8_extend_high_i8x16(low), wasm_i16x8_extend_low_i8x16(high),
           wasm_i16x8_extend_high_i8x16(high)}};
}

// Of one row, the other 0.
inline Pairs alone(const uint8_t* a) {
  const v128_t low = wasm_u16x8_load8x8(a), high = wasm_u16x8_load8x8(a + 8);
  return {{wasm_u32x4_extend_low_u16x8(low), wasm_u32x4_extend_high_u16x8(low), wasm_u32x4_extend_low_u16x8(high),
           wasm_u32x4_extend_high_u16x8(high)}};
}

inline Sum add_products(Sum sum, const Pairs& a, const Pairs& b) {
  for (int i = 0; i < 4; i++) sum.part[i] = add_dot(sum.part[i], a.part[i], b.part[i]);
  return sum;
}

// The first two or the last two of the fours of a line: bytes go to the upper halves of their places and are shifted down.
template <int HALF>
inline Pairs half_line(const int8_t* line) {
  constexpr int k = 2 * HALF;
  const v128_t none = wasm_i32x4_const_splat(0);
  Pairs pairs;
  for (int i = 0; i < 4; i++)
    pairs.part[i] = wasm_i16x8_shr(wasm_i8x16_shuffle(wasm_v128_load(line + 16 * i), none, 16, k, 16, k + 1, 16, k + 4, 16, k + 5,
                                                      16, k + 8, 16, k + 9, 16, k + 12, 16, k + 13),
                                   8);
  return pairs;
}

#include "body-inl.h"

const Kernels kTable = BITMAR_TABLE("simd128");

}  // namespace

const Kernels& simd128_kernels() { return kTable; }

}  // namespace bitmar
