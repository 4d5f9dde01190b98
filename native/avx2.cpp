// AVX2: bytewise products are added in pairs into 16 bits, which saturate; so no more than four lines are summed there.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define BITMAR_WIDTH 8

namespace bitmar {
namespace {

constexpr int kTiles = 1, kTokens = 1, kQueries = 4, kSums = 4;

struct Sum {
  __m256i low, high;
};

inline Sum zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

inline void store(Sum a, int32_t* p) {
  _mm256_storeu_si256((__m256i*)p, a.low);
  _mm256_storeu_si256((__m256i*)(p + 8), a.high);
}

typedef Sum Pairs;

inline Pairs load_pairs(const int16_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 16))};
}

inline Pairs load_pairs(const int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(p + 16)))};
}

inline Sum add_pairs(Sum sum, Pairs a, int32_t pair) {
  const __m256i x = _mm256_set1_epi32(pair);
  return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(a.low, x)), _mm256_add_epi32(sum.high, _mm256_madd_epi16(a.high, x))};
}

// Four lines at a time: at the third plane a product is at most 2 * 16 * 127, a pair twice that, four pairs 32,512.
template <int TILES, int TOKENS>
inline __attribute__((always_inline)) void tile(const uint8_t* codes, size_t, const int8_t* x, size_t, int groups,
                                                int32_t* sums) {
  static_assert(TILES == 1 && TOKENS == 1, "more accumulators than registers");
  const __m256i first = _mm256_set1_epi8(3), second = _mm256_set1_epi8(12), third = _mm256_set1_epi8(48);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; half++) {
    __m256i planes[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int g = 0; g < groups; g += 4) {
      const uint8_t* line = codes + (size_t)g * 64 + half * 32;
      __m256i pairs[4];
      for (int i = 0; i < 4; i++) {
        const __m256i w = _mm256_load_si256((const __m256i*)(line + i * 64));
        int32_t four;
        memcpy(&four, x + (size_t)(g + i) * 4, sizeof four);
        const __m256i a = _mm256_set1_epi32(four);
        const __m256i p0 = _mm256_maddubs_epi16(_mm256_and_si256(w, first), a);
        const __m256i p1 = _mm256_maddubs_epi16(_mm256_and_si256(w, second), a);
        const __m256i p2 = _mm256_maddubs_epi16(_mm256_and_si256(w, third), a);
        const __m256i p3 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 2), third), a);
        pairs[0] = i ? _mm256_add_epi16(pairs[0], p0) : p0;
        pairs[1] = i ? _mm256_add_epi16(pairs[1], p1) : p1;
        pairs[2] = i ? _mm256_add_epi16(pairs[2], p2) : p2;
        pairs[3] = i ? _mm256_add_epi16(pairs[3], p3) : p3;
      }
      for (int p = 0; p < 4; p++) planes[p] = _mm256_add_epi32(planes[p], _mm256_madd_epi16(pairs[p], ones));
    }
    _mm256_storeu_si256((__m256i*)(sums + half * 8), planes[0]);
    _mm256_storeu_si256((__m256i*)(sums + 16 + half * 8), _mm256_srai_epi32(planes[1], 2));
    _mm256_storeu_si256((__m256i*)(sums + 32 + half * 8), _mm256_srai_epi32(planes[2], 4));
    _mm256_storeu_si256((__m256i*)(sums + 48 + half * 8), _mm256_srai_epi32(planes[3], 4));
  }
}

// Bytes are widened to 16 bits, because the sums of two bytewise products would saturate there. Each output has two sums,
// of the even and the odd pairs.
struct Quads {
  __m256i part[4];
};
typedef Quads QuadSums;
constexpr int kConvBlocks = 1, kConvPixels = 2;
constexpr uint32_t kFlip = 0;

inline QuadSums no_quads() {
  const __m256i none = _mm256_setzero_si256();
  return {{none, none, none, none}};
}
inline Quads load_quads(const int8_t* p) {
  Quads w;
  for (int i = 0; i < 4; i++) w.part[i] = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i*)(p + 16 * i)));
  return w;
}
inline __m256i spread(uint32_t four) { return _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128((int)four))); }
inline QuadSums add_quads(QuadSums sum, const Quads& w, __m256i x) {
  for (int i = 0; i < 4; i++) sum.part[i] = _mm256_add_epi32(sum.part[i], _mm256_madd_epi16(w.part[i], x));
  return sum;
}
inline Sum total(const QuadSums& sum) {
  const auto pair = [](__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8); };
  return {pair(sum.part[0], sum.part[1]), pair(sum.part[2], sum.part[3])};
}

#include "body-inl.h"

const Kernels kTable = BITMAR_TABLE("avx2");

}  // namespace

const Kernels& avx2_kernels() { return kTable; }

}  // namespace bitmar
