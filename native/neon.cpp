// NEON as every 64-bit Arm processor has it; with BITMAR_DOTPROD also the dot-product instruction (neon_dotprod.cpp).
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define BITMAR_WIDTH 4

namespace bitmar {
namespace {

constexpr int kTiles = 1, kTokens = 1, kQueries = 4, kSums = 4;

struct Sum {
  int32x4_t part[4];
};

struct Lines {
  uint8x16_t part[4];
};

inline Sum zero() { return {{vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}}; }

inline void store(const Sum& a, int32_t* p) {
  for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, a.part[i]);
}

inline Lines lines(const uint8_t* p) { return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}}; }

inline int32x4_t dot(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if defined(BITMAR_DOTPROD)
  return vdotq_s32(sum, a, b);
#else
  const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_s8(vget_high_s8(a), vget_high_s8(b));
  return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}

template <int PLANE>
inline Sum accumulate(Sum sum, const Lines& line, int32_t four) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  for (int i = 0; i < 4; i++) {
    // The highest plane would be negative as a signed byte, so it is shifted down; the others stay.
    const uint8x16_t code = PLANE == 3 ? vshrq_n_u8(line.part[i], 6) : vandq_u8(line.part[i], vdupq_n_u8(3 << 2 * (PLANE % 3)));
    sum.part[i] = dot(sum.part[i], vreinterpretq_s8_u8(code), x);
  }
  return sum;
}

inline void separate(Sum* planes) {
  for (int i = 0; i < 4; i++) {
    planes[1].part[i] = vshrq_n_s32(planes[1].part[i], 2);
    planes[2].part[i] = vshrq_n_s32(planes[2].part[i], 4);
  }
}

inline int32x4_t add_four(int32x4_t sum, int16x8_t a, int16x8_t x) {
  const int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(x)), high = vmull_s16(vget_high_s16(a), vget_high_s16(x));
  return vaddq_s32(sum, vpaddq_s32(low, high));
}

struct Pairs {
  int16x8_t part[4];
};

inline Pairs load_pairs(const int16_t* p) { return {{vld1q_s16(p), vld1q_s16(p + 8), vld1q_s16(p + 16), vld1q_s16(p + 24)}}; }

inline Pairs load_pairs(const int8_t* p) {
  return {{vmovl_s8(vld1_s8(p)), vmovl_s8(vld1_s8(p + 8)), vmovl_s8(vld1_s8(p + 16)), vmovl_s8(vld1_s8(p + 24))}};
}

inline Sum add_pairs(Sum sum, const Pairs& a, int32_t pair) {
  const int16x8_t x = vreinterpretq_s16_s32(vdupq_n_s32(pair));
  for (int i = 0; i < 4; i++) sum.part[i] = add_four(sum.part[i], a.part[i], x);
  return sum;
}

// The instructions multiply signed bytes: activations go in as x - 128, and the sums begin with 128 times the weights.
struct Quads {
  int8x16_t part[4];
};
typedef Sum QuadSums;
constexpr int kConvBlocks = 1, kConvPixels = 4;
constexpr uint32_t kFlip = 0x80808080;

inline QuadSums no_quads() { return zero(); }
inline Quads load_quads(const int8_t* p) { return {{vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)}}; }
inline int8x16_t spread(uint32_t four) { return vreinterpretq_s8_u32(vdupq_n_u32(four)); }
inline QuadSums add_quads(QuadSums sum, const Quads& w, int8x16_t x) {
  for (int i = 0; i < 4; i++) sum.part[i] = dot(sum.part[i], w.part[i], x);
  return sum;
}
inline Sum total(const QuadSums& sum) { return sum; }

#include "tile-inl.h"
// The bodies read what tile-inl.h defines.
#include "body-inl.h"

#if defined(BITMAR_DOTPROD)
const Kernels kTable = BITMAR_TABLE("neon_dotprod");
#else
const Kernels kTable = BITMAR_TABLE("neon");
#endif

}  // namespace

#if defined(BITMAR_DOTPROD)
const Kernels& neon_dotprod_kernels() { return kTable; }
#else
const Kernels& neon_kernels() { return kTable; }
#endif

}  // namespace bitmar
